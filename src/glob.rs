//! Patterns of names: of repositories, and of models (folded).
//!
//! Owns: `*`, a component or a part of one, and `**`, any number of components. Promises: time in proportion to pattern times name.
//! Leaves out: what a pattern is for.

use std::str::FromStr;

/// A pattern such as `team/*` or `**`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<String>);

impl Glob {
    /// Whether the pattern is of this name.
    pub fn matches(&self, name: &str) -> bool {
        let parts: Vec<&str> = name.split('/').collect();
        let same = |pattern: &String, part: Option<&&str>| part.is_some_and(|part| component(pattern, part));
        wild(&self.0, &parts, |pattern| pattern == "**", same)
    }
}

/// Greedy, going back to the last wildcard: linear in the one times the other.
fn wild<P, T>(pattern: &[P], text: &[T], any: impl Fn(&P) -> bool, same: impl Fn(&P, Option<&T>) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p).is_some_and(&any) {
            back = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|p| same(p, text.get(t))) {
            p += 1;
            t += 1;
        } else if let Some((star, at)) = back {
            back = Some((star, at + 1));
            p = star + 1;
            t = at + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(any)
}

fn component(pattern: &str, part: &str) -> bool {
    wild(pattern.as_bytes(), part.as_bytes(), |p| *p == b'*', |p, t| t == Some(p))
}

impl FromStr for Glob {
    type Err = String;
    fn from_str(text: &str) -> Result<Glob, String> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '*');
        let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
        if text.len() > 255 || parts.iter().any(|part| part.is_empty() || !part.chars().all(fine)) {
            return Err(format!("{text:?} is no pattern of repository names: lower-case components, `*` and `**` are"));
        }
        Ok(Glob(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_in_a_component_and_double_stars_do_not() {
        for (pattern, yes, no) in [
            ("**", &["a", "a/b/c"][..], &[][..]),
            ("a", &["a"], &["b", "a/b", "aa"]),
            ("a/*", &["a/b", "a/b.c"], &["a", "a/b/c", "b/b"]),
            ("a/**", &["a/b", "a/b/c", "a"], &["b", "ab"]),
            ("**/x", &["x", "a/x", "a/b/x"], &["a", "x/a"]),
            ("a/**/x", &["a/x", "a/b/c/x"], &["a", "x", "a/xx"]),
            ("a*b*", &["ab", "axxbyy"], &["a", "ba"]),
        ] {
            let glob: Glob = pattern.parse().expect("a pattern");
            yes.iter().for_each(|name| assert!(glob.matches(name), "{pattern} {name}"));
            no.iter().for_each(|name| assert!(!glob.matches(name), "{pattern} {name}"));
        }
        for bad in ["", "/", "a//b", "A", "a b", "../a?"] {
            assert!(bad.parse::<Glob>().is_err(), "{bad}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        let glob: Glob = "*a".repeat(100).parse().expect("a pattern");
        assert!(!glob.matches(&"a".repeat(99)));
        assert!(!format!("{}b", "a*".repeat(60)).parse::<Glob>().expect("a pattern").matches(&"a".repeat(250)));
    }
}
