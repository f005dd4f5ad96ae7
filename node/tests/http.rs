//! `kwaainet serve` as a client sees it.

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{Server, events, kwaainet, post, wait_until};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": "tales4m",
        "messages": [{"role": "user", "content": "Tell me a story about Lily."}],
        "temperature": 0,
        "max_tokens": 16,
    });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

#[test]
fn health_answers_within_a_second_of_the_start() {
    let start = Instant::now();
    let mut command = kwaainet();
    command.args(["serve", "--port", "0"]);
    let server = Server::spawn(command);
    let (status, body) = server.get("/health");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(
        matches!((status, body["status"].as_str()), (200, Some("ok")) | (503, Some("loading"))),
        "{body}"
    );
    server.wait_until_ready();
    assert_eq!(server.get("/health").1["model"], "tales4m");
}

#[test]
fn a_chat_is_answered_whole() {
    let server = Server::start(&[]);
    let (status, body) = server.post(CHAT, &chat(json!({})));
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["object"], "chat.completion");
    let choice = &body["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(text.starts_with("Once upon a time, there was a little girl named Lily."), "{text}");
    assert_eq!(
        (choice["finish_reason"].as_str(), choice["message"]["role"].as_str()),
        (Some("length"), Some("assistant"))
    );
    let usage = &body["usage"];
    assert_eq!((usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64()), (Some(21), Some(16)));
    assert_eq!(usage["total_tokens"], 37);
    let (_, again) = server.post(CHAT, &chat(json!({})));
    assert_eq!(again["choices"][0]["message"]["content"], text);
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0, "{again}");
}

#[test]
fn a_stream_comes_token_by_token_and_says_the_same() {
    let server = Server::start(&[]);
    let whole = server.post(CHAT, &chat(json!({}))).1;
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = server.send(post(CHAT, &body).as_bytes());
    let events = events(&answer);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let pieces: Vec<&str> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(pieces.concat(), whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert!(pieces.len() >= 16, "{pieces:?}");
    let last = &chunks[chunks.len() - 1];
    assert_eq!(last["usage"]["completion_tokens"], 16);
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
}

#[test]
fn the_first_event_comes_before_the_last_is_made() {
    let server = Server::start(&[]);
    let body = chat(json!({"stream": true, "max_tokens": 700, "temperature": 1.5, "seed": 3}));
    let mut stream = server.connect();
    stream.write_all(post(CHAT, &body).as_bytes()).unwrap();
    let mut reads = 0;
    let mut bytes = [0; 65536];
    while stream.read(&mut bytes).unwrap() > 0 {
        reads += 1;
    }
    assert!(reads > 20, "only {reads} reads");
}

#[test]
fn completions_continue_plain_text() {
    let server = Server::start(&[]);
    let body = json!({"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8, "echo": true});
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert!(text.contains("Once upon a time, there was a little girl"), "{text}");
    let ids = json!({"prompt": [0, 430, 419, 261, 398], "temperature": 0, "max_tokens": 8});
    let (_, answer) = server.post("/v1/completions", &ids);
    assert_eq!(answer["choices"][0]["text"], ", there was a little girl named Lily");
    let several = json!({"prompt": ["Once", "One"], "n": 2, "max_tokens": 2, "logprobs": 2});
    let (_, answer) = server.post("/v1/completions", &several);
    assert_eq!(answer["choices"].as_array().unwrap().len(), 4, "{answer}");
    assert_eq!(answer["choices"][3]["logprobs"]["tokens"].as_array().unwrap().len(), 2);
    assert_eq!(answer["choices"][3]["index"], 3);
}

#[test]
fn logprobs_seed_stop_and_bias_are_heeded() {
    let server = Server::start(&[]);
    let (_, answer) = server.post(CHAT, &chat(json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 4})));
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 4);
    assert_eq!(content[0]["token"], "Once");
    assert_eq!(content[0]["top_logprobs"][0]["token"], "Once");
    assert!(content[0]["logprob"].as_f64().unwrap() <= 0.0);
    let text = |more: Value| {
        let answer = server.post(CHAT, &chat(more)).1;
        answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
    };
    let bold = |seed: u64| text(json!({"temperature": 1.5, "seed": seed}));
    assert_eq!(bold(5), bold(5));
    assert_ne!(bold(5), bold(6));
    assert_eq!(text(json!({"stop": ["little girl"]})), "Once upon a time, there was a ");
    assert!(!text(json!({"logit_bias": {"430": -100}})).starts_with("Once"));
    let (_, several) = server.post(CHAT, &chat(json!({"n": 3, "temperature": 1.5, "seed": 1})));
    assert_eq!(several["choices"].as_array().unwrap().len(), 3);
    assert_eq!(several["usage"]["prompt_tokens"], 21);
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let server = Server::start(&[]);
    for (body, status, param, code) in [
        (chat(json!({"temperature": 3})), 400, Some("temperature"), None),
        (chat(json!({"messages": []})), 400, Some("messages"), None),
        (chat(json!({"max_tokens": 0})), 400, Some("max_tokens"), None),
        (chat(json!({"model": "gpt-9"})), 404, Some("model"), Some("model_not_found")),
        (
            chat(json!({"messages": [{"role": "user", "content": "word ".repeat(2000)}]})),
            400,
            Some("messages"),
            Some("context_length_exceeded"),
        ),
    ] {
        let (found, answer) = server.post(CHAT, &body);
        assert_eq!(found, status, "{answer}");
        assert_eq!(
            (answer["error"]["param"].as_str(), answer["error"]["code"].as_str()),
            (param, code),
            "{answer}"
        );
    }
    let head =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n";
    let broken = server.send(format!("{head}\r\n{{a}}").as_bytes());
    assert!(broken.starts_with("HTTP/1.1 400") && broken.contains("no JSON"), "{broken}");
    assert_eq!(server.get("/v1/models").1["data"][0]["id"], "tales4m");
    assert_eq!(server.get("/v1/models/tales4m").0, 200);
    assert_eq!(server.get("/v1/models/other").0, 404);
    assert_eq!(server.get("/v2").0, 404);
    assert_eq!(server.get(CHAT).0, 405);
}

#[test]
fn a_key_is_demanded_where_one_was_set() {
    let server = Server::start(&["--api-key", "secret"]);
    let (status, answer) = server.get("/v1/models");
    assert_eq!((status, answer["error"]["code"].as_str()), (401, Some("invalid_api_key")));
    let with_key =
        "GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer secret\r\n\r\n";
    assert!(server.send(with_key.as_bytes()).starts_with("HTTP/1.1 200"));
}

/// A long answer; reads its head so that it is certainly running or waiting.
fn long_answer(server: &Server) -> std::net::TcpStream {
    // Without its end tokens the model goes on to the end of the context.
    let body = chat(json!({
        "stream": true, "max_tokens": 1000, "temperature": 2, "logit_bias": {"0": -100, "1": -100, "2": -100},
    }));
    let mut stream = server.connect();
    stream.write_all(post(CHAT, &body).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    stream
}

#[test]
fn a_client_that_leaves_frees_its_session_at_once() {
    // A board's speed, so that answers last: one thread and the slowest kernels.
    let mut command = kwaainet();
    command.env("KWAAINET_KERNELS", "portable");
    command.args(["serve", "--port", "0", "--sessions", "1", "--threads", "1"]);
    let server = Server::spawn(command);
    server.wait_until_ready();
    let stream = long_answer(&server);
    wait_until("the answer running", || server.get("/health").1["active"] == 1);
    drop(stream);
    let start = Instant::now();
    wait_until("the session free", || server.get("/health").1["active"] == 0);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn a_full_queue_is_said_so_with_a_time_to_come_again() {
    let mut command = kwaainet();
    command.env("KWAAINET_KERNELS", "portable");
    command.args(["serve", "--port", "0", "--sessions", "1", "--threads", "1"]);
    let server = Server::spawn(command);
    server.wait_until_ready();
    // One runs and 32 wait; connections are 32 at most, so some ask for several answers at once.
    let body = chat(json!({
        "stream": true, "max_tokens": 1000, "temperature": 2, "n": 8,
        "logit_bias": {"0": -100, "1": -100, "2": -100},
    }));
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = server.connect();
        stream.write_all(post(CHAT, &body).as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        streams.push(stream);
    }
    let answer = server.send(post(CHAT, &body).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("Retry-After: ") && answer.contains("rate_limit_exceeded"), "{answer}");
    drop(streams);
    wait_until("the queue empty", || {
        let health = server.get("/health").1;
        health["active"] == 0 && health["waiting"] == 0
    });
    assert_eq!(server.post(CHAT, &chat(json!({}))).0, 200);
}

#[cfg(unix)]
#[test]
fn a_termination_lets_the_running_answer_finish() {
    let server = Server::start(&[]);
    let body = chat(json!({"stream": true, "max_tokens": 200}));
    let mut stream = server.connect();
    stream.write_all(post(CHAT, &body).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    server.signal("TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(server.wait(), Some(0));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_server_with_its_code() {
    let server = Server::start(&[]);
    server.signal("INT");
    assert_eq!(server.wait(), Some(130));
}
