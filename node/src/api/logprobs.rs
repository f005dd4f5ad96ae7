//! Log probabilities in the two forms that OpenAI has: by token for chats, by column for completions.

use kwaainet_engine::request::TokenLogprob;
use kwaainet_engine::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// What OpenAI writes for a token without a chance; JSON knows no infinity.
const LOGPROB_MIN: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    logprob.max(LOGPROB_MIN)
}

fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(&tokenizer.piece_bytes(id)).into_owned()
}

/// One entry of a chat's `logprobs.content`.
pub fn chat_entry(tokenizer: &Tokenizer, token: &TokenLogprob) -> Value {
    let entry = |id: u32, logprob: f32| {
        let bytes = tokenizer.piece_bytes(id);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": finite(logprob), "bytes": bytes})
    };
    let mut value = entry(token.id, token.logprob);
    value["top_logprobs"] = token.top.iter().map(|(id, logprob)| entry(*id, *logprob)).collect();
    value
}

/// A completion's `logprobs`: columns of equal length.
#[derive(Default)]
pub struct Columns {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<Value>,
}

impl Columns {
    /// Appends a token. `offset` is where it begins in the text, in characters, and moves on.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: &TokenLogprob, offset: &mut usize) {
        let text = token_text(tokenizer, token.id);
        let mut top = Map::new();
        for (id, logprob) in &token.top {
            top.entry(token_text(tokenizer, *id)).or_insert(finite(*logprob).into());
        }
        self.text_offset.push((*offset).into());
        *offset += text.chars().count();
        self.tokens.push(text.into());
        self.token_logprobs.push(finite(token.logprob).into());
        self.top_logprobs.push(top.into());
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}
