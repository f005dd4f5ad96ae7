//! The OpenAI-compatible API: JSON in, tokens asked of the scheduler, JSON or events out.
//!
//! It knows OpenAI's types and nothing of sockets. Whatever takes time for its length (parsing, template,
//! tokens, whole answers) is done by one [`preparer::Preparer`] thread, so that the executor is never kept
//! from other connections.

mod answer;
mod chat;
mod choices;
mod completions;
mod fields;
mod logprobs;
mod preparer;
mod sampling;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use kwaainet_engine::request::Refusal as Refused;
use serde_json::{Value, json};

use crate::door::{Method, Refusal, Request, Response, Service};
use crate::metrics::{self, Metric, Metrics};
use crate::model::{Model, Text};

use answer::{Frame, Kind as Shape, Prepared};
use choices::Choices;
use preparer::Preparer;

/// The media type of Prometheus' text.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The API of one node with one model, which may still be loading.
pub struct Api {
    /// The name that the model goes by.
    id: String,
    /// Other names it answers to.
    aliases: Vec<String>,
    /// When the node started, in seconds since 1970.
    created: u64,
    model: RefCell<Option<Rc<Model>>>,
    preparer: Preparer,
    metrics: Metrics,
}

impl Api {
    /// An API whose model is still loading.
    pub fn new(id: String, aliases: Vec<String>, metrics: Metrics) -> std::io::Result<Rc<Api>> {
        let preparer = Preparer::start()?;
        Ok(Rc::new(Api { id, aliases, created: now_s(), model: RefCell::default(), preparer, metrics }))
    }

    /// From now on requests are answered.
    pub fn set_model(&self, model: Model) {
        *self.model.borrow_mut() = Some(Rc::new(model));
    }

    /// The service for a door.
    pub fn service(self: &Rc<Self>) -> Box<dyn Service> {
        Box::new(Paths(self.clone()))
    }

    async fn answer(&self, request: Request) -> Result<Response, Refusal> {
        match request.path.as_str() {
            "/health" => {
                let status = if self.model.borrow().is_some() { 200 } else { 503 };
                Ok(Response::json(status, &self.health()))
            }
            "/metrics" => Ok(Response::text(200, METRICS_TYPE, self.metrics.text().await)),
            "/v1/models" => Ok(Response::json(200, &json!({"object": "list", "data": [self.describe()]}))),
            "/v1/chat/completions" => self.generate(Shape::Chat, request.body).await,
            "/v1/completions" => self.generate(Shape::Completion, request.body).await,
            path => {
                let name = percent_decoded(path.strip_prefix("/v1/models/").unwrap_or_default());
                self.check_model(&name)?;
                Ok(Response::json(200, &self.describe()))
            }
        }
    }

    /// How the model is and what it did, for `/health` and `status`.
    pub fn health(&self) -> Value {
        let Some(model) = self.model.borrow().clone() else {
            return json!({"status": "loading", "model": self.id});
        };
        let status = model.scheduler.status();
        json!({
            "status": "ok",
            "model": self.id,
            "kernels": model.kernels.name(),
            "active": status.active,
            "active_max": status.active_max,
            "waiting": status.waiting,
            "requests_total": status.requests_total,
            "prompt_tokens_total": status.prompt_tokens_total,
            "generated_tokens_total": status.generated_tokens_total,
        })
    }

    /// What the model did, as metrics.
    pub fn metrics(&self) -> Vec<Metric> {
        let Some(model) = self.model.borrow().clone() else { return Vec::new() };
        let status = model.scheduler.status();
        let gauge = |name, help, value: usize| Metric::one(name, metrics::Kind::Gauge, help, value as f64);
        let total = |name, help, value: u64| Metric::one(name, metrics::Kind::Counter, help, value as f64);
        vec![
            gauge("inference_active", "Answers that are being written.", status.active),
            gauge("inference_waiting", "Requests that wait for a session.", status.waiting),
            total("inference_requests_total", "Requests that were accepted.", status.requests_total),
            total("inference_prompt_tokens_total", "Tokens of prompts.", status.prompt_tokens_total),
            total(
                "inference_generated_tokens_total",
                "Tokens that were written.",
                status.generated_tokens_total,
            ),
        ]
    }

    fn describe(&self) -> Value {
        let mut answer = json!({
            "id": self.id, "object": "model", "created": self.created, "owned_by": "kwaainet",
        });
        if let Some(model) = &*self.model.borrow() {
            answer["max_model_len"] = model.text.context_tokens.into();
        }
        answer
    }

    fn check_model(&self, name: &str) -> Result<(), Refusal> {
        if name.is_empty() || name == self.id || self.aliases.iter().any(|alias| alias == name) {
            return Ok(());
        }
        let message = format!("The model {name:.100} is not loaded here; {} is.", self.id);
        Err(Refusal { status: 404, ..Refusal::param("model", message) }.code("model_not_found"))
    }

    async fn generate(&self, kind: Shape, body: Vec<u8>) -> Result<Response, Refusal> {
        let Some(model) = self.model.borrow().clone() else {
            return Err(Refusal::new(503, "The model is still loading.").retry_after_s(1));
        };
        let text = model.text.clone();
        let prepared = self.preparer.run(move || prepare(kind, &body, &text)).await;
        let (name, prepared) = prepared.ok_or_else(ending)??;
        self.check_model(&name.unwrap_or_default())?;
        let mut tickets = Vec::with_capacity(prepared.requests.len());
        for request in prepared.requests {
            tickets.push(model.scheduler.submit(request).map_err(refusal)?);
        }
        let choices = Choices::new(tickets);
        let frame = Frame {
            id: format!("{}-{:016x}", kind.id_prefix(), random_seed()),
            created: now_s(),
            model: self.id.clone(),
            fingerprint: format!("kwaainet-{}", model.fingerprint),
            format: prepared.format,
            text: model.text.clone(),
        };
        if frame.format.stream {
            return Ok(Response::events(answer::events(frame, choices)));
        }
        let gathered = answer::gather(choices).await?;
        let bytes = self.preparer.run(move || answer::whole(&frame, gathered)).await.ok_or_else(ending)??;
        Ok(Response::json_bytes(200, bytes))
    }
}

/// Turns a body into requests to the scheduler; with them comes the model's name, if the body has one.
fn prepare(kind: Shape, body: &[u8], text: &Text) -> Result<(Option<String>, Prepared), Refusal> {
    let mut fields = fields::Fields::parse(body)?;
    let name = fields.text("model")?;
    let prepared = match kind {
        Shape::Chat => chat::prepare(fields, text)?,
        Shape::Completion => completions::prepare(fields, text)?,
    };
    Ok((name, prepared))
}

/// The scheduler's refusal as the client sees it.
fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::Busy { retry_after_s } => {
            let message = "All sessions are taken and the queue is full; try again later.";
            Refusal::new(429, message).code("rate_limit_exceeded").retry_after_s(retry_after_s.max(1))
        }
        Refused::Invalid(error) => Refusal::new(400, error.to_string()),
        Refused::Stopping => ending(),
    }
}

/// The refusal of a node that is about to end.
fn ending() -> Refusal {
    Refusal::new(503, "The node is shutting down.")
}

struct Paths(Rc<Api>);

impl Service for Paths {
    fn methods(&self, path: &str) -> &'static [Method] {
        match path {
            "/health" | "/metrics" | "/v1/models" => &[Method::Get],
            "/v1/chat/completions" | "/v1/completions" => &[Method::Post],
            path if path.starts_with("/v1/models/") => &[Method::Get],
            _ => &[],
        }
    }

    fn is_public(&self, path: &str) -> bool {
        path == "/health"
    }

    fn answer(&self, request: Request) -> Pin<Box<dyn Future<Output = Response>>> {
        let api = self.0.clone();
        Box::pin(async move { api.answer(request).await.unwrap_or_else(Response::from) })
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A seed from the system; the clock if it gives none.
pub fn random_seed() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
    })
}

/// Undoes `%2F` and the like; what isn't such an escape stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let digit = |place: usize| bytes.get(place).and_then(|byte| char::from(*byte).to_digit(16));
        match digit(index + 1).zip(digit(index + 2)) {
            Some((high, low)) if bytes[index] == b'%' => {
                out.push((high * 16 + low) as u8);
                index += 3;
            }
            _ => {
                out.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_escapes_are_undone() {
        assert_eq!(percent_decoded("a%2Fb%20c"), "a/b c");
        assert_eq!(percent_decoded("100%"), "100%");
        assert_eq!(percent_decoded("%zz%+4%4"), "%zz%+4%4");
    }
}
