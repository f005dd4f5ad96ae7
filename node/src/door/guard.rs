//! Who may ask: keys, hosts and origins.
//!
//! A web page in this machine's browser can reach a loopback port. Two checks keep it out: requests from a
//! foreign origin are refused unless the owner named that origin, and where no key is asked for, the `Host`
//! must be loopback's, or a name that an attacker points at 127.0.0.1 would make his page's origin "the same"
//! as ours.

use std::net::{IpAddr, SocketAddr};

use subtle::ConstantTimeEq;

use super::head::Head;
use super::refusal::Refusal;

/// The rules of one door.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// The key that a request must bring as `Authorization: Bearer KEY`; none: everyone may ask.
    pub api_key: Option<String>,
    /// Origins whose pages may ask; `*` is all of them.
    pub origins: Vec<String>,
    /// Whether the `Host` must be a name of loopback.
    pub only_loopback_hosts: bool,
}

impl Guard {
    /// Refuses a request that may not be made. `is_public` paths need no key.
    pub(super) fn check(&self, head: &Head, is_public: bool) -> Result<(), Refusal> {
        let host = head.header("host").unwrap_or_default();
        if self.only_loopback_hosts && !host.is_empty() && !is_loopback_host(host) {
            let message = format!("The host {host:.100} is not a name of this machine's loopback address.");
            return Err(Refusal::new(403, message).code("host_not_allowed"));
        }
        if let Some(origin) = head.header("origin")
            && !self.allows(origin)
            && origin.split_once("://").is_none_or(|(_, authority)| authority != host)
        {
            let message =
                format!("Pages of {origin:.100} may not ask here; `serve --cors {origin:.100}` lets them.");
            return Err(Refusal::new(403, message).code("origin_not_allowed"));
        }
        if is_public || head.method == super::Method::Options {
            return Ok(());
        }
        let Some(key) = &self.api_key else { return Ok(()) };
        let given = head.header("authorization").and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        match given {
            Some(given) if bool::from(given.as_bytes().ct_eq(key.as_bytes())) => Ok(()),
            Some(_) => Err(Refusal::new(401, "The API key is not the right one.").code("invalid_api_key")),
            None => {
                let message = "An API key is needed here: send it as `Authorization: Bearer KEY`.";
                Err(Refusal::new(401, message).code("invalid_api_key"))
            }
        }
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }

    /// The CORS fields of an answer; none for a request without an allowed origin.
    pub(super) fn cors(&self, head: &Head) -> Vec<(&'static str, String)> {
        let Some(origin) = head.header("origin").filter(|origin| self.allows(origin)) else {
            return Vec::new();
        };
        let mut fields =
            vec![("Access-Control-Allow-Origin", origin.to_string()), ("Vary", "Origin".to_string())];
        if head.method == super::Method::Options && head.header("access-control-request-method").is_some() {
            fields.push(("Access-Control-Allow-Methods", "GET, POST, OPTIONS".into()));
            let is_plain = |text: &&str| {
                text.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b',' | b' '))
            };
            let asked = head.header("access-control-request-headers").filter(is_plain);
            let allowed = asked.unwrap_or("authorization, content-type");
            fields.push(("Access-Control-Allow-Headers", allowed.to_string()));
            fields.push(("Access-Control-Max-Age", "600".into()));
        }
        fields
    }
}

/// Whether a `Host` (with or without port) is `localhost` or a loopback address.
fn is_loopback_host(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return address.is_loopback();
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    name.trim_end_matches('.').eq_ignore_ascii_case("localhost") && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(guard: &Guard, lines: &str) -> u16 {
        let text = format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n");
        let (head, _) = Head::parse(text.as_bytes()).unwrap().unwrap();
        guard.check(&head, false).map_or_else(|refusal| refusal.status, |()| 200)
    }

    #[test]
    fn loopback_hosts_are_told_from_others() {
        for host in ["localhost", "LOCALHOST:11435", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:11435"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.1:80", "127.0.0.1.evil", "localhost:x", ""]
        {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn a_rebound_name_is_refused_on_loopback() {
        let guard = Guard { only_loopback_hosts: true, ..Guard::default() };
        assert_eq!(status(&guard, "Host: evil.example:11435"), 403);
        assert_eq!(status(&guard, "Host: localhost:11435"), 200);
    }

    #[test]
    fn a_foreign_origin_is_refused_until_it_is_named() {
        let closed = Guard::default();
        assert_eq!(status(&closed, "Host: localhost:1\r\nOrigin: http://evil.example"), 403);
        assert_eq!(status(&closed, "Host: localhost:1\r\nOrigin: null"), 403);
        assert_eq!(status(&closed, "Host: localhost:1\r\nOrigin: http://localhost:1"), 200);
        let open = Guard { origins: vec!["http://app.example".into()], ..Guard::default() };
        assert_eq!(status(&open, "Host: localhost:1\r\nOrigin: http://app.example"), 200);
        assert_eq!(status(&open, "Host: localhost:1\r\nOrigin: http://app.example.evil"), 403);
    }

    #[test]
    fn a_key_is_compared_whole() {
        let guard = Guard { api_key: Some("secret".into()), ..Guard::default() };
        assert_eq!(status(&guard, "Host: a"), 401);
        for wrong in ["Bearer secre", "Bearer secretx", "Bearer ", "Basic secret", "secret"] {
            assert_eq!(status(&guard, &format!("Host: a\r\nAuthorization: {wrong}")), 401, "{wrong}");
        }
        assert_eq!(status(&guard, "Host: a\r\nAuthorization: bearer secret"), 200);
    }
}
