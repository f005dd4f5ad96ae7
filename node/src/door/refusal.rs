//! A request that is not answered, and why.
//!
//! Every error of the node has one shape, OpenAI's, so that a client needs one parser.

use serde_json::{Value, json};

use super::response::Response;

/// Why a request is refused: a status and a sentence, and for machines a type, a code and the parameter at
/// fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// What was found and what to do.
    pub message: String,
    /// OpenAI's class of errors: `invalid_request_error`, `server_error`.
    pub kind: &'static str,
    /// A word for this error, such as `model_not_found`.
    pub code: Option<&'static str>,
    /// The parameter at fault.
    pub param: Option<String>,
    /// When to come again, in seconds.
    pub retry_after_s: Option<u32>,
}

impl Refusal {
    /// A refusal with a status and a sentence; 5xx are the server's fault, the rest the request's.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        let kind = match status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Refusal { status, message: message.into(), kind, code: None, param: None, retry_after_s: None }
    }

    /// A 400 that names the parameter at fault.
    pub fn param(param: impl Into<String>, message: impl Into<String>) -> Self {
        Refusal { param: Some(param.into()), ..Refusal::new(400, message) }
    }

    /// The same with a code.
    pub fn code(self, code: &'static str) -> Self {
        Refusal { code: Some(code), ..self }
    }

    /// The same with a time to come again, in seconds.
    pub fn retry_after_s(self, seconds: u32) -> Self {
        Refusal { retry_after_s: Some(seconds), ..self }
    }

    /// `{"error": {"message", "type", "param", "code"}}`.
    pub fn to_json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Response {
        let mut response = Response::json(refusal.status, &refusal.to_json());
        if let Some(seconds) = refusal.retry_after_s {
            response.headers.push(("Retry-After", seconds.to_string()));
        }
        if refusal.status == 401 {
            response.headers.push(("WWW-Authenticate", "Bearer".into()));
        }
        response
    }
}
