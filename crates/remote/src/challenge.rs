//! `WWW-Authenticate`.
//!
//! Owns: what a registry asks for (RFC 9110, section 11.6.1). Promises: ends in linear time; what is not understood is passed over.
//! Leaves out: answering (`auth`).

/// One way to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case.
    pub(crate) scheme: String,
    /// Keys in lower case.
    pub(crate) parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(crate) fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All that one header holds.
    pub(crate) fn parse(header: &str) -> Vec<Challenge> {
        let mut found: Vec<Challenge> = Vec::new();
        let mut rest = header;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let (word, after) = token(rest);
            if word.is_empty() {
                return found;
            }
            let word = word.to_ascii_lowercase();
            match (after.trim_start_matches([' ', '\t']).strip_prefix('='), found.last_mut()) {
                (Some(after), Some(challenge)) => {
                    let (value, after) = value(after.trim_start_matches([' ', '\t']));
                    challenge.parameters.push((word, value));
                    rest = after;
                }
                (Some(_), None) => return found,
                (None, _) => {
                    found.push(Challenge { scheme: word, parameters: Vec::new() });
                    rest = after;
                }
            }
        }
    }
}

/// RFC 9110, section 5.6.2.
fn token(text: &str) -> (&str, &str) {
    let other = |c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
    text.split_at(text.find(other).unwrap_or(text.len()))
}

/// A token or a quoted string.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_they_are_written() {
        let shown = |header: &str| -> Vec<String> {
            let show = |c: &Challenge| {
                let parameters: Vec<String> = c.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {}", c.scheme, parameters.join("|"))
            };
            Challenge::parse(header).iter().map(show).collect()
        };
        for (header, wanted) in [
            ("Basic realm=\"x\"", &["basic realm=x"][..]),
            (
                "Bearer realm=\"https://a/t\",service=\"r\",scope=\"repository:a:pull,push\"",
                &["bearer realm=https://a/t|service=r|scope=repository:a:pull,push"],
            ),
            ("BASIC  Realm = x , bearer realm=\"a\\\"b\"", &["basic realm=x", "bearer realm=a\"b"]),
            ("Negotiate, Basic realm=\"x\"", &["negotiate ", "basic realm=x"]),
            ("", &[]),
            ("realm=\"x\"", &[]),
            ("Basic realm=\"x", &["basic realm=x"]),
            ("Basic realm=\"x\\", &["basic realm=x"]),
            ("é", &[]),
        ] {
            assert_eq!(shown(header), wanted, "{header}");
        }
    }
}
