//! The fields of a JSON body, taken one by one with their type and range checked.
//!
//! Fields are read by hand and not by derived types because a client must be told which parameter is wrong
//! and what it may be, in OpenAI's shape.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::door::Refusal;
use crate::limits::JSON_VALUES_MAX;

/// An object's fields that nobody has taken yet. A `null` counts as absent.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a body. Nesting is bounded by serde_json (128), the count of values here.
    pub fn parse(body: &[u8]) -> Result<Fields, Refusal> {
        if values_at_most(body) > JSON_VALUES_MAX {
            let message = format!("The body has more than {JSON_VALUES_MAX} values.");
            return Err(Refusal::new(400, message));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Fields(map)),
            Ok(_) => Err(Refusal::new(400, "The body must be a JSON object.")),
            Err(error) => Err(Refusal::new(400, format!("The body is no JSON: {error}."))),
        }
    }

    /// The fields of an object that stands somewhere inside.
    pub fn of(map: Map<String, Value>) -> Fields {
        Fields(map)
    }

    /// Any value.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.get_mut(name).map(Value::take).filter(|value| !value.is_null())
    }

    /// A number within a range.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| range.contains(number));
        number.map(|number| Some(number as f32)).ok_or_else(|| out_of_range(name, "a number", &range))
    }

    /// A whole number within a range; `5.0` is one.
    pub fn whole(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let float = || value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..9e15).contains(number));
        let number = value.as_u64().or_else(|| float().map(|number| number as u64));
        number
            .filter(|number| range.contains(number))
            .map(Some)
            .ok_or_else(|| out_of_range(name, "a whole number", &range))
    }

    /// True or false.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(Refusal::param(name, format!("{name} must be true or false."))),
        }
    }

    /// A string.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(_) => Err(Refusal::param(name, format!("{name} must be a string."))),
        }
    }

    /// An array.
    pub fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(_) => Err(Refusal::param(name, format!("{name} must be an array."))),
        }
    }

    /// An object.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(Refusal::param(name, format!("{name} must be an object."))),
        }
    }

    /// Refuses a field that would change the answer and that isn't offered, unless it is absent or
    /// `harmless`.
    pub fn not_offered(&mut self, name: &str, harmless: impl Fn(&Value) -> bool) -> Result<(), Refusal> {
        match self.take(name) {
            Some(value) if !harmless(&value) => {
                Err(Refusal::param(name, format!("{name} is not offered here."))
                    .code("unsupported_parameter"))
            }
            _ => Ok(()),
        }
    }
}

fn out_of_range<T: Display>(name: &str, kind: &str, range: &RangeInclusive<T>) -> Refusal {
    Refusal::param(name, format!("{name} must be {kind} from {} to {}.", range.start(), range.end()))
}

/// No fewer values than a body can hold: commas, colons and brackets outside strings, plus one.
fn values_at_most(body: &[u8]) -> usize {
    let mut count = 1;
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' | b':' | b'[' | b'{' => count += 1,
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn wrong_types_and_ranges_name_the_parameter() {
        for body in [r#"{"a":"1"}"#, r#"{"a":3}"#, r#"{"a":-0.5}"#, r#"{"a":[]}"#, r#"{"a":true}"#] {
            let refusal = fields(body).number("a", 0.0..=2.0).unwrap_err();
            assert_eq!((refusal.status, refusal.param.as_deref()), (400, Some("a")), "{body}");
            assert!(refusal.message.contains("0 to 2"), "{}", refusal.message);
        }
        assert_eq!(fields(r#"{"a":null}"#).number("a", 0.0..=2.0), Ok(None));
        assert_eq!(fields(r#"{"a":5.0}"#).whole("a", 1..=9), Ok(Some(5)));
        assert!(fields(r#"{"a":5.5}"#).whole("a", 1..=9).is_err());
        assert!(fields(r#"{"a":-1}"#).whole("a", 0..=9).is_err());
        assert!(fields(r#"{"a":1}"#).boolean("a").is_err());
        assert!(fields(r#"{"a":1}"#).text("a").is_err());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["", "[]", "{", "{\"a\":1,}", "nul", "\u{1}", "{\"a\":\"\\ud800\"}"] {
            assert_eq!(Fields::parse(body.as_bytes()).map(|_| ()).unwrap_err().status, 400, "{body}");
        }
        assert!(Fields::parse(&[b'{', b'"', 0xff, b'"', b':', b'1', b'}']).is_err());
        assert!(Fields::parse("[".repeat(1 << 20).as_bytes()).is_err());
        let nested = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(Fields::parse(nested.as_bytes()).is_err());
    }

    #[test]
    fn values_are_counted_outside_strings() {
        assert_eq!(values_at_most(br#"{"a,[{:":"\",,,"}"#), 3);
        let body = |count: usize| format!("{{\"a\":[0{}]}}", ",0".repeat(count));
        // The object, its value, the array's bracket and the one that everything has.
        assert!(Fields::parse(body(JSON_VALUES_MAX - 4).as_bytes()).is_ok());
        assert!(Fields::parse(body(JSON_VALUES_MAX - 3).as_bytes()).is_err());
    }
}
