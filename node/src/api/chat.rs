//! `POST /v1/chat/completions`: messages become a prompt by the model's own template.

use kwaainet_engine::chat::ChatMessage;
use kwaainet_engine::request::Request;
use serde_json::Value;

use crate::door::Refusal;
use crate::limits::CHAT_TOP_LOGPROBS_MAX;
use crate::model::Text;

use super::answer::{Format, Kind, Prepared, check_length};
use super::fields::Fields;
use super::sampling::Shared;

/// Turns a chat request into requests to the scheduler.
pub fn prepare(mut fields: Fields, text: &Text) -> Result<Prepared, Refusal> {
    let shared = Shared::take(&mut fields, text.vocabulary)?;
    let limit = 1..=u64::from(u32::MAX);
    let max_tokens = fields.whole("max_tokens", limit.clone())?;
    let tokens_max = fields.whole("max_completion_tokens", limit)?.or(max_tokens);
    let logprobs = fields.boolean("logprobs")?.unwrap_or(false);
    let top_logprobs = fields.whole("top_logprobs", 0..=CHAT_TOP_LOGPROBS_MAX)?;
    if top_logprobs.is_some_and(|count| count > 0) && !logprobs {
        return Err(Refusal::param("top_logprobs", "top_logprobs go with logprobs: true."));
    }
    let is_text = |value: &Value| value["type"] == "text";
    fields.not_offered("response_format", is_text)?;
    fields.not_offered("functions", |value| value.as_array().is_some_and(Vec::is_empty))?;
    fields.not_offered("function_call", |value| value == "none" || value == "auto")?;
    fields.not_offered("audio", |_| false)?;
    fields.not_offered("modalities", |value| *value == serde_json::json!(["text"]))?;
    let tools = tools(&mut fields)?;
    let messages = messages(&mut fields)?;
    let prompt = text
        .template
        .encode(&text.tokenizer, &messages, tools.as_ref(), true)
        .map_err(|error| Refusal::param("messages", error.to_string()))?;
    check_length(&prompt, text, "messages")?;
    let top_logprobs = logprobs.then(|| top_logprobs.unwrap_or(0) as usize);
    let request = |choice| Request {
        prompt: prompt.clone(),
        sampling: shared.sampling_of(choice),
        tokens_max: tokens_max.map(|count| count as usize),
        stop: shared.stop.clone(),
        stop_ids: text.stop_ids.clone(),
        top_logprobs,
    };
    let format = Format {
        kind: Kind::Chat,
        stream: shared.stream,
        include_usage: shared.include_usage,
        choices_per_prompt: shared.n,
        echoes: Vec::new(),
    };
    Ok(Prepared { requests: (0..shared.n).map(request).collect(), format })
}

/// The tools for the template; `tool_choice: "none"` takes them away.
fn tools(fields: &mut Fields) -> Result<Option<Value>, Refusal> {
    let tools = fields.array("tools")?.filter(|tools| !tools.is_empty());
    let choice = fields.take("tool_choice");
    match choice.as_ref().map(|choice| choice.as_str()) {
        Some(Some("none")) => Ok(None),
        None | Some(Some("auto")) => Ok(tools.map(Value::Array)),
        Some(_) => {
            let message = "Of tool_choice only \"auto\" and \"none\" are offered here.";
            Err(Refusal::param("tool_choice", message).code("unsupported_parameter"))
        }
    }
}

fn messages(fields: &mut Fields) -> Result<Vec<ChatMessage>, Refusal> {
    let values = fields.array("messages")?.filter(|values| !values.is_empty());
    let Some(values) = values else {
        return Err(Refusal::param("messages", "messages must be an array of at least one message."));
    };
    values.into_iter().enumerate().map(|(index, value)| message(index, value)).collect()
}

fn message(index: usize, value: Value) -> Result<ChatMessage, Refusal> {
    let name = |field: &str| format!("messages[{index}]{field}");
    let Value::Object(map) = value else {
        return Err(Refusal::param(name(""), format!("{} must be an object.", name(""))));
    };
    let mut fields = Fields::of(map);
    let wrong_role = || {
        let message = "A message's role must be system, developer, user, assistant or tool.";
        Refusal::param(name(".role"), message)
    };
    let role = match fields.take("role").as_ref().and_then(Value::as_str) {
        // Templates know the older name.
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        _ => return Err(wrong_role()),
    }
    .to_owned();
    let tool_calls = fields.take("tool_calls");
    let tool_call_id = text_field(&mut fields, "tool_call_id", &name(".tool_call_id"))?;
    let author = text_field(&mut fields, "name", &name(".name"))?;
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => text_of(parts, &name(".content"))?,
        None if role == "assistant" => String::new(),
        _ => {
            let message = format!("{} must be a string or an array of text parts.", name(".content"));
            return Err(Refusal::param(name(".content"), message));
        }
    };
    Ok(ChatMessage { role, content, name: author, tool_calls, tool_call_id })
}

/// A string that may be absent, refused under its full name.
fn text_field(fields: &mut Fields, field: &str, name: &str) -> Result<Option<String>, Refusal> {
    fields.text(field).map_err(|_| Refusal::param(name, format!("{name} must be a string.")))
}

/// The text of content parts; other kinds of parts are refused by name.
fn text_of(parts: Vec<Value>, name: &str) -> Result<String, Refusal> {
    let mut text = String::new();
    for part in parts {
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(piece)) => text.push_str(piece),
            (Some(kind @ ("image_url" | "input_audio" | "file")), _) => {
                let message = format!("This model reads text only; {name} has a part of type {kind}.");
                return Err(Refusal::param(name, message).code("unsupported_content"));
            }
            _ => {
                let message =
                    format!("Each part of {name} must be {{\"type\": \"text\", \"text\": STRING}}.");
                return Err(Refusal::param(name, message));
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<ChatMessage>, Refusal> {
        messages(&mut Fields::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn content_is_a_string_or_text_parts() {
        let body = r#"{"messages":[
            {"role":"developer","content":"a"},
            {"role":"user","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}]},
            {"role":"assistant","content":null,"tool_calls":[{"id":"x"}]}]}"#;
        let messages = parse(body).unwrap();
        let said: Vec<_> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(said, [("system", "a"), ("user", "bc"), ("assistant", "")]);
        assert_eq!(messages[2].tool_calls.as_ref().unwrap()[0]["id"], "x");
    }

    #[test]
    fn wrong_messages_are_named_by_place() {
        for (messages, param) in [
            ("[]", "messages"),
            ("\"hi\"", "messages"),
            ("[1]", "messages[0]"),
            (r#"[{"role":"user","content":"a"},{"role":"king","content":"a"}]"#, "messages[1].role"),
            (r#"[{"role":"user"}]"#, "messages[0].content"),
            (
                r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#,
                "messages[0].content",
            ),
            (r#"[{"role":"user","content":[{"text":"x"}]}]"#, "messages[0].content"),
        ] {
            let refusal = parse(&format!("{{\"messages\":{messages}}}")).map(|_| ()).expect_err(messages);
            assert_eq!((refusal.status, refusal.param.as_deref()), (400, Some(param)));
        }
    }
}
