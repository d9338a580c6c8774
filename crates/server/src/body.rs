//! Request bodies and queries, taken apart at the edge.
//!
//! Owns: the cap and the time limit of a body, and [`Fields`], a JSON object whose members are taken one by one.
//! Promises: a body over the cap is 413, one that dawdles 408, one that is not an object, repeats a key or has a member
//! of the wrong type 400 naming it; an empty string and `null` count as absent (older callers send them for what they
//! don't know). Leaves out: what the members mean.

use crate::reply::Reply;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Query;
use axum::extract::rejection::PathRejection;
use axum::http::{StatusCode, Uri, header};
use axum::{extract::Path, extract::Request};
use securereg::ModelName;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;
use std::time::Duration;

/// The bytes of a body, at most `cap` of them and within `limit`.
pub(crate) async fn read(request: Request, cap: usize, limit: Duration) -> Result<Bytes, Reply> {
    let too_large =
        || Reply::failure(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &format!("the body is over {cap} bytes"));
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > cap as u64) {
        // Said before the body is asked for, so that a client waiting for "100 Continue" sends none of it.
        return Err(too_large());
    }
    let body: Body = request.into_body();
    match tokio::time::timeout(limit, to_bytes(body, cap)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // Without a length the only body that fails while the client is there is one over the cap.
        Ok(Err(_)) if declared.is_none() => Err(too_large()),
        Ok(Err(_)) => Err(Reply::invalid("the body ended early")),
        Err(_) => Err(Reply::failure(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive in time")),
    }
}

/// A JSON object whose members are taken out one by one.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Reply> {
        match serde_json::from_slice::<Unique>(body) {
            Ok(Unique(map)) => Ok(Fields(map)),
            Err(e) => Err(Reply::invalid(&format!("the body is not one JSON object: {e}"))),
        }
    }

    /// A string of at most `limit` bytes without control characters, trimmed; absent when empty.
    pub(crate) fn text(&mut self, key: &str, limit: usize) -> Result<Option<String>, Reply> {
        let text = match self.0.remove(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text,
            Some(other) => return Err(wrong_type(key, "a string", &other)),
        };
        let text = text.trim();
        if text.len() > limit {
            return Err(Reply::invalid(&format!("field {key:?} is over {limit} bytes")));
        }
        if text.chars().any(char::is_control) {
            return Err(Reply::invalid(&format!("field {key:?} holds a control character")));
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// Like [`Fields::text`], and it must be there.
    pub(crate) fn required(&mut self, key: &str, limit: usize) -> Result<String, Reply> {
        self.text(key, limit)?.ok_or_else(|| Reply::invalid(&format!("field {key:?} is required")))
    }

    /// A whole number that is not negative.
    pub(crate) fn size(&mut self, key: &str) -> Result<Option<u64>, Reply> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| wrong_type(key, "a whole number", &value)),
        }
    }

    /// Whatever it is.
    pub(crate) fn any(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    /// Leaves `key` in place, but refuses it when it is there and `fits` says no.
    pub(crate) fn check(&self, key: &str, wanted: &str, fits: fn(&Value) -> bool) -> Result<(), Reply> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if fits(value) => Ok(()),
            Some(value) => Err(wrong_type(key, wanted, value)),
        }
    }

    /// What was not taken.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.0
    }
}

fn wrong_type(key: &str, wanted: &str, value: &Value) -> Reply {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Reply::invalid(&format!("field {key:?} must be {wanted}, not {is}"))
}

/// An object that gives no key twice: two readers of one that does need not agree on which holds.
struct Unique(Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Unique;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
                let mut map = Map::new();
                while let Some((key, value)) = members.next_entry::<String, Value>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("field {key:?} is given twice")));
                    }
                    map.insert(key, value);
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The model named by `?name=`, which must be there once.
pub(crate) fn name_in_query(uri: &Uri) -> Result<ModelName, Reply> {
    optional_name_in_query(uri)?.ok_or_else(|| Reply::invalid("query parameter \"name\" is required"))
}

/// The model named by `?name=`, if any is.
pub(crate) fn optional_name_in_query(uri: &Uri) -> Result<Option<ModelName>, Reply> {
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
        return Err(Reply::invalid("the query is not a list of parameters"));
    };
    let mut names = pairs.iter().filter(|(key, _)| key == "name").map(|(_, name)| name);
    match (names.next(), names.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Reply::invalid("query parameter \"name\" is given twice")),
        (Some(name), None) if name.is_empty() => Err(Reply::invalid("query parameter \"name\" is empty")),
        (Some(name), None) => Ok(Some(name.parse()?)),
    }
}

/// The model named by the rest of the path; slashes may be raw or `%2F`.
pub(crate) fn name_in_path(path: Result<Path<String>, PathRejection>) -> Result<ModelName, Reply> {
    match path {
        Ok(Path(name)) => Ok(name.parse()?),
        Err(_) => Err(Reply::invalid("the name in the path is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(body: &str) -> String {
        Fields::parse(body.as_bytes()).expect_err(body).body()["error"].to_string()
    }

    #[test]
    fn a_body_is_one_object_that_gives_no_key_twice() {
        for bad in ["", "[]", "1", "null", "{}{}", "{\"a\":1} x", "{\"a\":"] {
            assert!(error_of(bad).contains("not one JSON object"), "{bad}");
        }
        assert!(error_of(r#"{"sha256":"a","sha256":"b"}"#).contains("given twice"));
        assert!(error_of(&"[".repeat(10_000)).contains("not one JSON object"), "depth is bounded by the parser");
        assert!(error_of(&format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200))).contains("recursion"));
    }

    #[test]
    fn a_wrong_type_is_refused_naming_the_field() {
        let fields = || {
            let body = br#"{"a":1,"b":"x","c":-1,"d":1.5,"e":null,"f":"  ","g":"a\u0000b","h":" y "}"#;
            Fields::parse(body).expect("an object")
        };
        let message =
            |r: Result<_, Reply>| r.map(|_: Option<String>| ()).expect_err("refused").body()["error"].to_string();
        assert!(message(fields().text("a", 9)).contains("\\\"a\\\" must be a string, not a number"));
        assert!(message(fields().text("g", 9)).contains("control character"));
        assert!(message(fields().text("b", 0)).contains("over 0 bytes"));
        for key in ["b", "c", "d"] {
            assert!(fields().size(key).expect_err("refused").body()["error"].to_string().contains("a whole number"));
        }
        assert_eq!(fields().size("a").expect("a number"), Some(1));
        for absent in ["e", "f", "none"] {
            assert_eq!(fields().text(absent, 9).expect("absent"), None);
        }
        assert_eq!(fields().text("h", 1).expect("trimmed").as_deref(), Some("y"));
        assert!(fields().required("e", 9).expect_err("refused").body()["error"].to_string().contains("required"));
    }

    #[test]
    fn a_name_in_a_query_is_given_once_and_is_a_name() {
        let name = |q: &str| optional_name_in_query(&format!("/x?{q}").parse().expect("a URI"));
        assert_eq!(name("name=a%2Fb%3Av1").expect("fits").expect("there").as_str(), "a/b:v1");
        assert_eq!(name("other=1").expect("fits"), None);
        for bad in ["name=", "name=a&name=b", "name=..%2Fx", "name=%00"] {
            assert_eq!(name(bad).expect_err(bad).status(), StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
