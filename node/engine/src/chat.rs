//! Chat templates: a conversation as the text that the model was trained on.
//!
//! Templates are the model's own, in Jinja. What users wrote is guarded on its way through: a special token spelled in a
//! message stays text, because a marker is put inside each such spelling before rendering and taken out after the special
//! tokens of the template itself have been found.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error as TemplateError, ErrorKind, State};
use serde_json::Value as Json;

use crate::error::Error;
use crate::limits::{
    TEMPLATE_BYTES_MAX, TEMPLATE_FUEL_MAX, TEMPLATE_JSON_NESTING_MAX, TEMPLATE_RECURSION_MAX,
};
use crate::tokenizer::{Special, Tokenizer};

/// A noncharacter (Unicode reserves it for use inside programs) that parts a guarded spelling.
const MARKER: char = '\u{FDD0}';

/// What is used where a model brings no template but knows ChatML's tokens.
const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// What is used where it doesn't.
const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Its text.
    pub content: String,
    /// The author's or function's name.
    pub name: Option<String>,
    /// Calls that an assistant made, as OpenAI's API writes them.
    pub tool_calls: Option<Json>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A message with nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        ChatMessage { role: role.into(), content: content.into(), ..ChatMessage::default() }
    }
}

/// A model's chat template, compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    warning: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template; `None` takes a stated default, see [`ChatTemplate::warning`].
    ///
    /// # Errors
    /// When the template is too long or no Jinja: a sentence with the line.
    pub fn new(source: Option<&str>, tokenizer: &Tokenizer) -> Result<ChatTemplate, Error> {
        let chatml = tokenizer.id_of("<|im_start|>").is_some() && tokenizer.id_of("<|im_end|>").is_some();
        let (source, warning) = match source {
            Some(source) => (source, None),
            None if chatml => {
                (CHATML, Some("the model brings no chat template; ChatML is used, whose tokens it has"))
            }
            None => (PLAIN, Some("the model brings no chat template; lines of \"role: content\" are used")),
        };
        if source.len() > TEMPLATE_BYTES_MAX {
            let length = source.len();
            return Err(Error::broken(
                "chat template",
                format!("it has {length} bytes; {TEMPLATE_BYTES_MAX} are the limit"),
            ));
        }
        let mut environment = Environment::new();
        // As the transformers library sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| template_error(&error))?);
        environment.set_fuel(Some(TEMPLATE_FUEL_MAX));
        environment.set_recursion_limit(TEMPLATE_RECURSION_MAX);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", |message: String| -> Result<Value, TemplateError> {
            Err(TemplateError::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_function("strftime_now", |format: String| strftime(&format, std::time::SystemTime::now()));
        environment.add_filter("tojson", tojson);
        environment.add_template_owned("chat", source.to_owned()).map_err(|error| template_error(&error))?;
        let spelled = |id: Option<u32>| id.map_or(String::new(), |id| tokenizer.piece(id));
        let (bos, eos) = (spelled(tokenizer.bos()), spelled(tokenizer.eos()));
        Ok(ChatTemplate { environment, bos, eos, warning: warning.map(str::to_owned) })
    }

    /// What a user should know about this template.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// When the template refuses the conversation or fails: its own words and the line.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let messages: Vec<Value> = messages.iter().map(message_value).collect::<Result<_, _>>()?;
        let tools = tools.map(|tools| json_value(tools, 0)).transpose()?.unwrap_or(Value::from(()));
        let template = self.environment.get_template("chat").map_err(|error| template_error(&error))?;
        let context = minijinja::context! {
            messages => messages,
            tools => tools,
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.clone(),
            eos_token => self.eos.clone(),
        };
        template.render(context).map_err(|error| template_error(&error))
    }

    /// The ids of a conversation, ready for a model: with one begin token if the model wants one, and with users' words
    /// as text, whatever they spell.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[ChatMessage],
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, Error> {
        let control = tokenizer.control_pieces();
        let guarded: Vec<ChatMessage> = messages
            .iter()
            .map(|message| ChatMessage { content: guard(&message.content, &control), ..message.clone() })
            .collect();
        let text = self.render(&guarded, tools, add_generation_prompt)?;
        let mut ids = Vec::new();
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let mut rest = text.as_str();
        // Text between the template's own special tokens goes through as text, without its markers.
        let mut plain = String::new();
        while !rest.is_empty() {
            let found = control
                .iter()
                .filter(|piece| rest.starts_with(piece.as_str()))
                .max_by_key(|piece| piece.len());
            if let Some(id) = found.and_then(|piece| tokenizer.id_of(piece)) {
                ids.extend(tokenizer.encode(&plain, Special::AsText));
                plain.clear();
                ids.push(id);
                rest = &rest[found.map_or(0, String::len)..];
                continue;
            }
            let character = rest.chars().next().unwrap_or_default();
            if character != MARKER {
                plain.push(character);
            }
            rest = &rest[character.len_utf8()..];
        }
        ids.extend(tokenizer.encode(&plain, Special::AsText));
        if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }
}

/// Parts every spelling of a control token, and drops markers that a user wrote.
fn guard(content: &str, control: &[String]) -> String {
    let mut guarded = content.replace(MARKER, "");
    for piece in control {
        let first = piece.chars().next().map_or(0, char::len_utf8);
        if guarded.contains(piece.as_str()) && first > 0 {
            let parted = format!("{}{MARKER}{}", &piece[..first], &piece[first..]);
            guarded = guarded.replace(piece.as_str(), &parted);
        }
    }
    guarded
}

fn message_value(message: &ChatMessage) -> Result<Value, Error> {
    let mut fields =
        vec![("role", Value::from(message.role.clone())), ("content", Value::from(message.content.clone()))];
    if let Some(name) = &message.name {
        fields.push(("name", Value::from(name.clone())));
    }
    if let Some(calls) = &message.tool_calls {
        fields.push(("tool_calls", json_value(calls, 0)?));
    }
    if let Some(id) = &message.tool_call_id {
        fields.push(("tool_call_id", Value::from(id.clone())));
    }
    Ok(Value::from_pairs(fields))
}

/// JSON as a template's value, keys in the order they were written.
fn json_value(json: &Json, depth: usize) -> Result<Value, Error> {
    if depth > TEMPLATE_JSON_NESTING_MAX {
        return Err(Error::request(format!("tools nest deeper than {TEMPLATE_JSON_NESTING_MAX} levels")));
    }
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.to_string()),
        },
        Json::String(text) => Value::from(text.clone()),
        Json::Array(list) => {
            Value::from(list.iter().map(|value| json_value(value, depth + 1)).collect::<Result<Vec<_>, _>>()?)
        }
        Json::Object(map) => {
            let fields: Result<Vec<(String, Value)>, Error> =
                map.iter().map(|(key, value)| Ok((key.clone(), json_value(value, depth + 1)?))).collect();
            Value::from_pairs(fields?)
        }
    })
}

fn template_error(error: &TemplateError) -> Error {
    let line = error.line().map_or(String::new(), |line| format!(" in line {line}"));
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    Error::request(format!("the model's chat template failed{line}: {}{detail}", error.kind()))
}

/// JSON in the form that Hugging Face's filter writes: ", " and ": ", no escapes beyond what JSON demands.
fn tojson(value: &Value, options: Kwargs) -> Result<String, TemplateError> {
    let indent: Option<usize> = options.get("indent")?;
    for known in ["ensure_ascii", "sort_keys", "separators"] {
        let _: Option<Value> = options.get(known)?;
    }
    options.assert_all_used()?;
    let mut text = String::new();
    write_json(value, indent, 0, &mut text)?;
    Ok(text)
}

fn write_json(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) -> Result<(), TemplateError> {
    if depth > TEMPLATE_JSON_NESTING_MAX {
        return Err(TemplateError::new(ErrorKind::InvalidOperation, "a value nests too deep for tojson"));
    }
    let line = |out: &mut String, depth: usize, first: bool| match indent {
        Some(width) => {
            out.push_str(if first { "\n" } else { ",\n" });
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
        None if first => {}
        None => out.push_str(", "),
    };
    let mut count = 0;
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::Map => {
            out.push('{');
            for key in value.try_iter()? {
                line(out, depth + 1, count == 0);
                out.push_str(&Json::from(key.to_string()).to_string());
                out.push_str(": ");
                write_json(&value.get_item(&key)?, indent, depth + 1, out)?;
                count += 1;
            }
            if count > 0 && indent.is_some() {
                line(out, depth, true);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for item in value.try_iter()? {
                line(out, depth + 1, count == 0);
                write_json(&item, indent, depth + 1, out)?;
                count += 1;
            }
            if count > 0 && indent.is_some() {
                line(out, depth, true);
            }
            out.push(']');
        }
        _ => out.push_str(&Json::from(value.to_string()).to_string()),
    }
    Ok(())
}

/// Methods of Python's strings and dictionaries that templates call.
fn python_method(
    _: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, TemplateError> {
    let unknown =
        || TemplateError::new(ErrorKind::UnknownMethod, format!("{} has no method {method}", value.kind()));
    let argument = |index: usize| arguments.get(index).and_then(|value| value.as_str());
    if let Some(text) = value.as_str() {
        let set =
            |character: char| argument(0).map_or(character.is_whitespace(), |set| set.contains(character));
        return Ok(match (method, argument(0)) {
            ("strip", _) => Value::from(text.trim_matches(set)),
            ("lstrip", _) => Value::from(text.trim_start_matches(set)),
            ("rstrip", _) => Value::from(text.trim_end_matches(set)),
            ("upper", _) => Value::from(text.to_uppercase()),
            ("lower", _) => Value::from(text.to_lowercase()),
            ("title", _) => Value::from(title(text)),
            ("capitalize", _) => Value::from(capitalize(text)),
            ("startswith", Some(start)) => Value::from(text.starts_with(start)),
            ("endswith", Some(end)) => Value::from(text.ends_with(end)),
            ("find", Some(part)) => {
                let place = text.find(part).map(|byte| text[..byte].chars().count() as i64);
                Value::from(place.unwrap_or(-1))
            }
            ("count", Some(part)) if !part.is_empty() => Value::from(text.matches(part).count()),
            ("replace", Some(part)) => Value::from(text.replace(part, argument(1).unwrap_or_default())),
            ("split", Some(separator)) if !separator.is_empty() => {
                let most = arguments.get(1).and_then(|count| usize::try_from(count.clone()).ok());
                match most {
                    Some(most) => text.splitn(most + 1, separator).map(Value::from).collect(),
                    None => text.split(separator).map(Value::from).collect(),
                }
            }
            ("split", None) => text.split_whitespace().map(Value::from).collect(),
            ("splitlines", _) => text.lines().map(Value::from).collect(),
            _ => return Err(unknown()),
        });
    }
    if value.kind() == ValueKind::Map {
        let pair = |key: Value| -> Result<Value, TemplateError> {
            let item = value.get_item(&key)?;
            Ok(Value::from(vec![key, item]))
        };
        return match (method, arguments) {
            ("keys", []) => Ok(value.try_iter()?.collect()),
            ("values", []) => {
                let values: Result<Vec<_>, _> = value.try_iter()?.map(|key| value.get_item(&key)).collect();
                Ok(Value::from(values?))
            }
            ("items", []) => Ok(Value::from(value.try_iter()?.map(pair).collect::<Result<Vec<_>, _>>()?)),
            ("get", [key, default @ ..]) => {
                let item = value.get_item(key)?;
                let default = default.first().cloned().unwrap_or(Value::from(()));
                Ok(if item.is_undefined() { default } else { item })
            }
            _ => Err(unknown()),
        };
    }
    Err(unknown())
}

fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters.flat_map(char::to_lowercase)).collect(),
        None => String::new(),
    }
}

fn title(text: &str) -> String {
    text.split_inclusive(|character: char| !character.is_alphabetic()).map(capitalize).collect()
}

/// The time in UTC by the directives that templates use: %Y %m %d %H %M %S %B %b %A %a %y %j %%.
fn strftime(format: &str, now: std::time::SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let seconds = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day, day_of_year) = civil(days);
    let (month_name, day_name) = (MONTHS[month - 1], DAYS[(days % 7) as usize]);
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('Y') => text.push_str(&year.to_string()),
            Some('y') => text.push_str(&format!("{:02}", year % 100)),
            Some('m') => text.push_str(&format!("{month:02}")),
            Some('d') => text.push_str(&format!("{day:02}")),
            Some('j') => text.push_str(&format!("{day_of_year:03}")),
            Some('H') => text.push_str(&format!("{:02}", second / 3600)),
            Some('M') => text.push_str(&format!("{:02}", second / 60 % 60)),
            Some('S') => text.push_str(&format!("{:02}", second % 60)),
            Some('B') => text.push_str(month_name),
            Some('b') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(day_name),
            Some('a') => text.push_str(&day_name[..3]),
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

/// Year, month, day and day of the year of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, usize, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let day_of_year = days + 1;
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_with_leap_years() {
        assert_eq!(civil(0), (1970, 1, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29, 60));
        assert_eq!(civil(20_780), (2026, 11, 23, 327));
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(20_780 * 86_400 + 3_723);
        assert_eq!(strftime("%A, %d %b %Y %H:%M:%S %%", time), "Monday, 23 Nov 2026 01:02:03 %");
    }

    #[test]
    fn spellings_of_control_tokens_are_parted_and_markers_dropped() {
        let control = ["<s>".to_owned(), "<|im_end|>".to_owned()];
        assert_eq!(guard("a<s>b\u{FDD0}c", &control), "a<\u{FDD0}s>bc");
        assert_eq!(guard("<\u{FDD0}s>", &control), "<\u{FDD0}s>");
        assert_eq!(guard("nothing", &control), "nothing");
    }
}
