//! JSON that all clients read alike.
//!
//! Owns: the walk over a manifest before it is parsed. Promises: no object names a field twice; no field of a manifest, a descriptor or a platform is
//! written in other case (Go's decoder, which most clients are built on, takes `"Layers"` for `"layers"`, and the last of the two wins: what
//! was judged would not be what is pulled). The nesting is bounded by serde_json, at 128. Leaves out: what the fields mean (`manifest`).

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// What a value is by its place.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Manifest,
    Descriptor,
    Platform,
    Other,
}

impl Place {
    /// The fields that clients look for here.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Place::Manifest => &[
                "schemaVersion",
                "mediaType",
                "artifactType",
                "config",
                "layers",
                "manifests",
                "blobs",
                "subject",
                "annotations",
            ],
            Place::Descriptor => {
                &["mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform"]
            }
            Place::Platform => &["architecture", "os", "os.version", "os.features", "variant"],
            Place::Other => &[],
        }
    }

    /// Where the value of `field` is; a list's elements are where the list is.
    fn below(self, field: &str) -> Place {
        match (self, field) {
            (Place::Manifest, "config" | "layers" | "manifests" | "blobs" | "subject") => Place::Descriptor,
            (Place::Descriptor, "platform") => Place::Platform,
            _ => Place::Other,
        }
    }
}

/// Whether `bytes` are one JSON object that all clients read alike.
pub(crate) fn check(bytes: &[u8]) -> Result<(), serde_json::Error> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    Walk(Place::Manifest).deserialize(&mut from)?;
    from.end()
}

struct Walk(Place);

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.0 {
            Place::Manifest => from.deserialize_map(self),
            _ => from.deserialize_any(self),
        }
    }
}

/// A key, borrowed where it can be.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Cow<'de, str>, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key_seed(Key)? {
            let fields = self.0.fields();
            if let Some(field) = fields.iter().find(|f| same_to_go(f, &key)).filter(|f| **f != key) {
                return Err(A::Error::custom(format_args!(
                    "field {key:?} differs from {field:?} in case only, and some clients would read it: write {field:?}"
                )));
            }
            let below = self.0.below(&key);
            if seen.contains(&key) {
                let key = crate::error::shorten(&key);
                return Err(A::Error::custom(format_args!("field {key:?} stands twice in one object")));
            }
            seen.insert(key);
            map.next_value_seed(Walk(below))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Walk(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Whether Go's decoder takes `key` for the ASCII `field`: letters of either case, and the two others that Unicode folds to ASCII.
fn same_to_go(field: &str, key: &str) -> bool {
    let mut field = field.bytes();
    let same = key.chars().all(|c| {
        let folded = match c {
            '\u{212a}' => 'k',
            '\u{17f}' => 's',
            _ => c.to_ascii_lowercase(),
        };
        field.next().is_some_and(|b| char::from(b.to_ascii_lowercase()) == folded)
    });
    same && field.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_would_read_differently_is_refused() {
        let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        for good in [
            "{}",
            r#" {"a":1,"b":[{"a":1},{"a":2}],"c":{"a":-1.5e3,"A":null,"Layers":true}} "#,
            r#"{"annotations":{"a":"","A":"","Digest":""}}"#,
            r#"{"layers":[{"x":{"Digest":1}}]}"#,
            &deep(100),
        ] {
            check(good.as_bytes()).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for (bad, why) in [
            ("", "EOF"),
            ("[]", "a JSON object"),
            ("null", "a JSON object"),
            ("{}{}", "trailing"),
            ("{} x", "trailing"),
            ("\u{feff}{}", "expected value"),
            (r#"{"a":1,"a":1}"#, "twice"),
            (r#"{"a":1,"\u0061":1}"#, "twice"),
            (r#"{"x":[{"y":{"a":1,"b":2,"a":1}}]}"#, "twice"),
            (r#"{"Layers":[]}"#, "in case only"),
            (r#"{"layer\u017f":[]}"#, "in case only"),
            (r#"{"layers":[{"Digest":1}]}"#, "in case only"),
            (r#"{"config":{"SIZE":1}}"#, "in case only"),
            (r#"{"manifests":[{"platform":{"OS":1}}]}"#, "in case only"),
            (r#"{"subject":{"annotationS":1}}"#, "in case only"),
            (r#"{"a":"\ud800 "}"#, "hex escape"),
            (r#"{"a":1e999}"#, "range"),
            (&deep(200), "recursion limit"),
        ] {
            let error = check(bad.as_bytes()).expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(check(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn folding_is_gos() {
        for (key, same) in [
            ("size", true),
            ("SIZE", true),
            ("\u{17f}ize", true),
            ("siz", false),
            ("sizes", false),
            ("s\u{131}ze", false),
        ] {
            assert_eq!(same_to_go("size", key), same, "{key}");
        }
        assert!(same_to_go("k", "\u{212a}"));
    }
}
