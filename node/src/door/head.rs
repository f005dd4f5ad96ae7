//! The head of a request: what it asks for, and how long its body is.
//!
//! Only one way of saying a body's length is taken, a single plain `Content-Length`, so that there is nothing
//! for two parsers to disagree about.

use crate::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};

use super::refusal::Refusal;

/// A request method. Those the node has no use for are one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// OPTIONS
    Options,
    /// Any other.
    Other,
}

impl Method {
    /// As it is written on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Options => "OPTIONS",
            Method::Other => "?",
        }
    }
}

/// A checked head.
#[derive(Debug, PartialEq)]
pub struct Head {
    pub method: Method,
    /// The path without its query.
    pub path: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// Whether the client speaks HTTP/1.1 (chunks, kept connections) or 1.0.
    pub is_http_1_1: bool,
    /// Whether the client lets the connection be kept.
    pub keep_alive: bool,
    /// Length of the body, at most `BODY_BYTES_MAX`.
    pub body_bytes: usize,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

impl Head {
    /// The value of a header field, if it is there once or more (then the first).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Parses a head from the start of `bytes`; `None` while it is incomplete. With it comes its length in
    /// bytes.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(_) => {
                let message = format!("The request's head is longer than {HEAD_BYTES_MAX} bytes.");
                return Err(Refusal::new(431, message));
            }
            Err(httparse::Error::TooManyHeaders) => {
                let message = format!("The request has more than {HEADERS_MAX} header fields.");
                return Err(Refusal::new(431, message));
            }
            Err(httparse::Error::Version) => {
                return Err(Refusal::new(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here."));
            }
            Err(error) => return Err(bad(format!("The request's head is no HTTP: {error}."))),
        };
        let mut headers = Vec::with_capacity(request.headers.len());
        for field in request.headers.iter() {
            let value = std::str::from_utf8(field.value)
                .map_err(|_| bad(format!("The header field {} is no text.", field.name)))?;
            headers.push((field.name.to_ascii_lowercase(), value.trim().to_string()));
        }
        let method = match request.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("POST") => Method::Post,
            Some("OPTIONS") => Method::Options,
            _ => Method::Other,
        };
        let target = request.path.unwrap_or_default();
        if !target.starts_with('/') && target != "*" {
            return Err(bad("The request's target is no path."));
        }
        let path = target.split('?').next().unwrap_or_default().to_string();
        let is_http_1_1 = request.version == Some(1);
        let mut head = Head {
            method,
            path,
            headers,
            is_http_1_1,
            keep_alive: is_http_1_1,
            body_bytes: 0,
            expects_continue: false,
        };
        head.check()?;
        Ok(Some((head, length)))
    }

    /// Fills what follows from the header fields and refuses what is ambiguous.
    fn check(&mut self) -> Result<(), Refusal> {
        let count = |name: &str| self.headers.iter().filter(|(key, _)| key == name).count();
        for name in ["host", "content-length", "expect", "origin", "authorization"] {
            if count(name) > 1 {
                return Err(bad(format!("The header field {name} is there more than once.")));
            }
        }
        if self.is_http_1_1 && count("host") == 0 {
            return Err(bad("The header field host is missing."));
        }
        if count("transfer-encoding") > 0 {
            let message = "A body in chunks is not taken; send it with a Content-Length.";
            return Err(Refusal::new(411, message));
        }
        let length = self.header("content-length").map(parse_length).transpose()?;
        if length.is_none() && self.method == Method::Post {
            return Err(Refusal::new(411, "A POST needs a Content-Length."));
        }
        let expects_continue = match self.header("expect") {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("100-continue") => true,
            Some(_) => return Err(Refusal::new(417, "The only expectation met here is 100-continue.")),
        };
        let asks_close = self
            .header("connection")
            .is_some_and(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")));
        self.keep_alive = self.is_http_1_1 && !asks_close;
        self.body_bytes = length.unwrap_or(0);
        self.expects_continue = expects_continue && self.body_bytes > 0;
        Ok(())
    }
}

/// A length of digits only, within the cap; a number too long for any integer is just as much too large.
fn parse_length(text: &str) -> Result<usize, Refusal> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad("The header field content-length is no number."));
    }
    text.parse::<usize>().ok().filter(|length| *length <= BODY_BYTES_MAX).ok_or_else(|| {
        Refusal::new(413, format!("The body of a request may have {BODY_BYTES_MAX} bytes, not {text:.24}."))
    })
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(400, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(Head, usize)>, Refusal> {
        Head::parse(text.as_bytes())
    }

    fn status(text: &str) -> u16 {
        parse(text).expect_err("must be refused").status
    }

    #[test]
    fn a_head_is_parsed_and_its_query_dropped() {
        let text = "POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let (head, length) = parse(text).unwrap().unwrap();
        assert_eq!((head.method, head.path.as_str(), head.body_bytes), (Method::Post, "/v1/x", 3));
        assert_eq!(length, text.len() - 3);
        assert!(head.keep_alive);
        assert_eq!(head.header("host"), Some("a"));
    }

    #[test]
    fn an_incomplete_head_is_waited_for_up_to_the_limit() {
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        let under = format!("{start}{}", "x".repeat(HEAD_BYTES_MAX - 1 - start.len()));
        assert_eq!(parse(&under), Ok(None));
        assert_eq!(status(&format!("{under}x")), 431);
        let full = format!("{start}{}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX - 4 - start.len()));
        assert_eq!(parse(&full).unwrap().unwrap().1, HEAD_BYTES_MAX);
        assert_eq!(status(&full.replace("X: ", "X: x")), 431);
    }

    #[test]
    fn header_fields_are_counted() {
        let fields =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert!(parse(&fields(HEADERS_MAX)).unwrap().is_some());
        assert_eq!(status(&fields(HEADERS_MAX + 1)), 431);
    }

    #[test]
    fn a_body_has_one_plain_length_within_the_cap() {
        let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let length = |text: &str| post(&format!("Content-Length: {text}\r\n"));
        assert!(parse(&length(&BODY_BYTES_MAX.to_string())).unwrap().is_some());
        assert_eq!(status(&length(&(BODY_BYTES_MAX + 1).to_string())), 413);
        assert_eq!(status(&length("1000000000000")), 413);
        assert_eq!(status(&length("18446744073709551615")), 413);
        assert_eq!(status(&length("99999999999999999999999999999999")), 413);
        for wrong in ["+3", "-1", "0x3", "3, 3", "", "3 3"] {
            assert_eq!(status(&length(wrong)), 400, "{wrong:?}");
        }
        assert_eq!(status(&post("Content-Length: 3\r\nContent-Length: 3\r\n")), 400);
        assert_eq!(status(&post("Transfer-Encoding: chunked\r\n")), 411);
        assert_eq!(status(&post("")), 411);
        assert_eq!(status(&post("Content-Length: 3\r\nExpect: cake\r\n")), 417);
    }

    #[test]
    fn what_is_no_http_is_refused() {
        assert_eq!(status("\x16\x03\x01\x02\x00\x01\x00"), 400);
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 505);
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"), 400);
    }
}
