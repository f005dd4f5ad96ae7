//! Answers in OpenAI's shapes, whole or as events.

use std::collections::VecDeque;
use std::sync::Arc;

use kwaainet_engine::request::{Event, Finish, Request, Summary, TokenEvent, TokenLogprob, Usage};
use serde_json::{Value, json};
use smol::stream::{self, Stream};

use crate::door::Refusal;
use crate::model::Text;

use super::choices::Choices;
use super::logprobs::{Columns, chat_entry};

/// Which of the two shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages in, a message out.
    Chat,
    /// Text in, text out.
    Completion,
}

impl Kind {
    /// What ids of answers begin with.
    pub fn id_prefix(self) -> &'static str {
        match self {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        }
    }

    fn object(self, stream: bool) -> &'static str {
        match (self, stream) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Completion, _) => "text_completion",
        }
    }
}

/// How the answer is to look.
pub struct Format {
    /// Its shape.
    pub kind: Kind,
    /// By events.
    pub stream: bool,
    /// With the usage as the last event.
    pub include_usage: bool,
    /// Choices that share a prompt; the prompt is counted once.
    pub choices_per_prompt: usize,
    /// What each choice's text begins with; empty for none.
    pub echoes: Vec<String>,
}

/// Requests for the scheduler, one a choice, and how to answer.
pub struct Prepared {
    /// In the order of the choices.
    pub requests: Vec<Request>,
    /// How the answer is to look.
    pub format: Format,
}

/// What all parts of an answer have in common.
pub struct Frame {
    /// The answer's id.
    pub id: String,
    /// When it was begun, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The model files' fingerprint.
    pub fingerprint: String,
    /// How it is to look.
    pub format: Format,
    /// For the names of tokens.
    pub text: Arc<Text>,
}

/// Refuses a prompt that leaves no room for an answer, and an empty one.
pub fn check_length(prompt: &[u32], text: &Text, param: &str) -> Result<(), Refusal> {
    if prompt.is_empty() {
        return Err(Refusal::param(param, format!("{param} has no tokens.")));
    }
    if prompt.len() >= text.context_tokens {
        let message = format!(
            "{param} has {} tokens and the context {}; leave room for an answer.",
            prompt.len(),
            text.context_tokens
        );
        return Err(Refusal::param(param, message).code("context_length_exceeded"));
    }
    Ok(())
}

fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

impl Frame {
    fn envelope(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": self.format.kind.object(self.format.stream),
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    fn echo(&self, choice: usize) -> &str {
        self.format.echoes.get(choice).map_or("", String::as_str)
    }

    /// The sum over choices; a prompt that several choices share counts once.
    fn usage(&self, usages: &[Usage]) -> Value {
        let per_prompt = usages.iter().step_by(self.format.choices_per_prompt.max(1));
        let prompt: usize = per_prompt.clone().map(|usage| usage.prompt_tokens).sum();
        let cached: usize = per_prompt.map(|usage| usage.cached_tokens).sum();
        let completion: usize = usages.iter().map(|usage| usage.completion_tokens).sum();
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        })
    }

    /// The logprobs of some tokens of a choice, `null` if there are none.
    fn logprobs(&self, tokens: &[TokenLogprob], offset: &mut usize) -> Value {
        if tokens.is_empty() {
            return Value::Null;
        }
        let tokenizer = &self.text.tokenizer;
        match self.format.kind {
            Kind::Chat => {
                let content: Value = tokens.iter().map(|token| chat_entry(tokenizer, token)).collect();
                json!({"content": content, "refusal": null})
            }
            Kind::Completion => {
                let mut columns = Columns::default();
                for token in tokens {
                    columns.push(tokenizer, token, offset);
                }
                columns.to_json()
            }
        }
    }

    fn chunk(&self, choice: usize, delta: Value, logprobs: Value, finish: Option<Finish>) -> Value {
        let finish = finish.map(finish_name);
        let content = match self.format.kind {
            Kind::Chat => "delta",
            Kind::Completion => "text",
        };
        let mut value = json!([
            {"index": choice, content: delta, "logprobs": logprobs, "finish_reason": finish}
        ]);
        value = self.envelope(value.take());
        if self.format.include_usage {
            value["usage"] = Value::Null;
        }
        value
    }

    fn text_chunk(&self, choice: usize, text: &str, logprobs: Value) -> Value {
        let delta = match self.format.kind {
            Kind::Chat => json!({"content": text}),
            Kind::Completion => text.into(),
        };
        self.chunk(choice, delta, logprobs, None)
    }
}

/// What a ticket that ended before its answer did is worth.
fn broken_off() -> Refusal {
    Refusal::new(500, "The answer was broken off: the node is shutting down.")
}

/// Waits for all choices and puts the answer together.
pub async fn whole(frame: Frame, mut choices: Choices) -> Result<Value, Refusal> {
    #[derive(Default)]
    struct Gathered {
        text: String,
        logprobs: Vec<TokenLogprob>,
        summary: Option<Summary>,
    }
    let mut gathered: Vec<Gathered> = Vec::new();
    gathered.resize_with(choices.len(), Gathered::default);
    while let Some((index, event)) = choices.next().await {
        let choice = &mut gathered[index];
        match event {
            Event::Token(token) => {
                choice.text.push_str(&token.text);
                choice.logprobs.extend(token.logprob);
            }
            Event::Done(summary) => {
                choice.text.push_str(&summary.text_tail);
                choice.summary = Some(summary);
            }
            Event::Failed(error) => return Err(Refusal::new(500, error.to_string())),
        }
    }
    let mut usages = Vec::new();
    let mut values = Vec::new();
    for (index, choice) in gathered.into_iter().enumerate() {
        let summary = choice.summary.ok_or_else(broken_off)?;
        usages.push(summary.usage);
        let echo = frame.echo(index);
        let logprobs = frame.logprobs(&choice.logprobs, &mut echo.chars().count());
        let finish = finish_name(summary.finish);
        values.push(match frame.format.kind {
            Kind::Chat => json!({
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": null},
                "logprobs": logprobs,
                "finish_reason": finish,
            }),
            Kind::Completion => json!({
                "index": index,
                "text": format!("{echo}{}", choice.text),
                "logprobs": logprobs,
                "finish_reason": finish,
            }),
        });
    }
    let mut answer = frame.envelope(values.into());
    answer["usage"] = frame.usage(&usages);
    Ok(answer)
}

/// An answer on its way out by events.
struct Outgoing {
    frame: Frame,
    choices: Choices,
    /// Events made and not yet taken.
    ready: VecDeque<Vec<u8>>,
    usages: Vec<Option<Usage>>,
    /// Where each choice's next token begins, in characters.
    offsets: Vec<usize>,
    is_over: bool,
}

/// The answer as server-sent events, one for each token that brings text.
pub fn events(frame: Frame, choices: Choices) -> impl Stream<Item = Vec<u8>> + 'static {
    let count = choices.len();
    let mut outgoing = Outgoing {
        offsets: (0..count).map(|index| frame.echo(index).chars().count()).collect(),
        frame,
        choices,
        ready: VecDeque::new(),
        usages: vec![None; count],
        is_over: false,
    };
    for index in 0..count {
        match outgoing.frame.format.kind {
            Kind::Chat => {
                let delta = json!({"role": "assistant", "content": ""});
                outgoing.say(&outgoing.frame.chunk(index, delta, Value::Null, None));
            }
            Kind::Completion if !outgoing.frame.echo(index).is_empty() => {
                outgoing.say(&outgoing.frame.text_chunk(index, outgoing.frame.echo(index), Value::Null));
            }
            Kind::Completion => {}
        }
    }
    stream::unfold(outgoing, |mut outgoing| async move {
        loop {
            if let Some(bytes) = outgoing.ready.pop_front() {
                return Some((bytes, outgoing));
            }
            if outgoing.is_over {
                return None;
            }
            outgoing.advance().await;
        }
    })
}

impl Outgoing {
    fn say(&mut self, value: &Value) {
        self.ready.push_back(format!("data: {value}\n\n").into_bytes());
    }

    async fn advance(&mut self) {
        match self.choices.next().await {
            Some((index, Event::Token(token))) => self.token(index, token),
            Some((index, Event::Done(summary))) => self.done(index, &summary),
            Some((_, Event::Failed(error))) => self.fail(Refusal::new(500, error.to_string())),
            None => self.end(),
        }
    }

    fn token(&mut self, index: usize, token: TokenEvent) {
        if token.text.is_empty() && token.logprob.is_none() {
            return;
        }
        let logprobs = self.frame.logprobs(token.logprob.as_slice(), &mut self.offsets[index]);
        self.say(&self.frame.text_chunk(index, &token.text, logprobs));
    }

    fn done(&mut self, index: usize, summary: &Summary) {
        if !summary.text_tail.is_empty() {
            self.say(&self.frame.text_chunk(index, &summary.text_tail, Value::Null));
        }
        let delta = match self.frame.format.kind {
            Kind::Chat => json!({}),
            Kind::Completion => "".into(),
        };
        self.say(&self.frame.chunk(index, delta, Value::Null, Some(summary.finish)));
        self.usages[index] = Some(summary.usage);
    }

    fn end(&mut self) {
        let Some(usages) = self.usages.iter().copied().collect::<Option<Vec<Usage>>>() else {
            return self.fail(broken_off());
        };
        if self.frame.format.include_usage {
            let mut value = self.frame.envelope(json!([]));
            value["usage"] = self.frame.usage(&usages);
            self.say(&value);
        }
        self.ready.push_back(b"data: [DONE]\n\n".to_vec());
        self.is_over = true;
    }

    /// The status line is long out; the error goes as an event, and nothing follows it.
    fn fail(&mut self, refusal: Refusal) {
        self.say(&refusal.to_json());
        self.is_over = true;
    }
}
