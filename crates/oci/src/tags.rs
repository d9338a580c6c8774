//! Which tags may move.
//!
//! Owns: the patterns for immutable tags and for channels. Promises: a tag that clients make for themselves and rewrite (`sha256-<hex>`, with or without
//! `.sig`, `.att`, `.sbom` and the like) is never immutable, whatever the patterns; matching costs no more than the product of two short texts.
//! Leaves out: who may move a tag against the rule, and what the tag names.
//!
//! A pattern is `semver`, `git-sha`, or a text in which `*` stands for any characters and `?` for one.

use crate::digest::is_lower_hex;
use crate::name::{MAX_TAG, Tag};
use std::fmt;

/// Tags that are immutable unless told otherwise: a version, and a commit (`sha-` with 7 to 64 hex digits).
pub const IMMUTABLE: [&str; 2] = ["semver", "git-sha"];
/// Tags that are channels unless told otherwise.
pub const MOVABLE: [&str; 3] = ["latest", "stable", "canary"];
/// No list has more patterns.
pub const MAX_PATTERNS: usize = 256;

/// What says whether a tag may move: a channel may, another immutable one may not, any other may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRules {
    immutable: Vec<Pattern>,
    movable: Vec<Pattern>,
}

impl Default for TagRules {
    /// [`IMMUTABLE`] and [`MOVABLE`].
    fn default() -> TagRules {
        TagRules::new(IMMUTABLE, MOVABLE).expect("the patterns of this module")
    }
}

impl TagRules {
    /// Rules of the patterns given. Where both lists match, the tag may move.
    ///
    /// # Errors
    /// A pattern that no tag can match, or too many.
    pub fn new<S: AsRef<str>>(
        immutable: impl IntoIterator<Item = S>,
        movable: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<TagRules, PatternError> {
        Ok(TagRules { immutable: patterns(immutable)?, movable: patterns(movable)? })
    }

    /// Whether the tag may name nothing but what it names now.
    pub fn is_immutable(&self, tag: &Tag) -> bool {
        let tag = tag.as_str();
        let any = |list: &[Pattern]| list.iter().any(|pattern| pattern.matches(tag));
        !is_clients(tag) && any(&self.immutable) && !any(&self.movable)
    }
}

/// Whether clients make this tag for themselves and rewrite it: `sha256-` or `sha512-`, 64 hex digits, and nothing or a suffix after a dot.
///
/// The tag schema of referrers (distribution-spec, "Referrers Tag Schema"; it cuts a SHA-512 digest at 64 digits) and cosign's tags.
pub fn is_clients_own(tag: &Tag) -> bool {
    is_clients(tag.as_str())
}

fn is_clients(tag: &str) -> bool {
    tag.strip_prefix("sha256-").or_else(|| tag.strip_prefix("sha512-")).is_some_and(|rest| {
        let (hex, suffix) = rest.split_at_checked(64).unwrap_or(("", rest));
        hex.len() == 64 && is_lower_hex(hex) && (suffix.is_empty() || suffix.starts_with('.'))
    })
}

/// A pattern that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    /// As it was given; empty when there are too many.
    pub pattern: String,
    reason: &'static str,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pattern.is_empty() {
            true => f.write_str(self.reason),
            false => write!(f, "tag pattern {:?} {}", self.pattern, self.reason),
        }
    }
}

impl std::error::Error for PatternError {}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Semver,
    GitSha,
    Glob(Box<[u8]>),
}

fn patterns<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Result<Vec<Pattern>, PatternError> {
    let mut patterns = Vec::new();
    for text in list {
        if patterns.len() == MAX_PATTERNS {
            return Err(PatternError { pattern: String::new(), reason: "there are over 256 tag patterns" });
        }
        patterns.push(Pattern::parse(text.as_ref())?);
    }
    Ok(patterns)
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, PatternError> {
        let bad = |reason| Err(PatternError { pattern: crate::error::shorten(text), reason });
        match text {
            "semver" => return Ok(Pattern::Semver),
            "git-sha" => return Ok(Pattern::GitSha),
            "" => return bad("a tag pattern is empty: name a tag, a glob, semver or git-sha"),
            _ if text.len() > MAX_TAG => return bad("is longer than any tag: at most 128 bytes are allowed"),
            _ if text.starts_with(['.', '-']) => return bad("matches nothing: no tag begins with . or -"),
            _ => {}
        }
        match text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'*' | b'?')) {
            true => Ok(Pattern::Glob(text.as_bytes().into())),
            false => {
                bad("is no glob: letters, digits, _ . - and, for any characters, *, for one, ?; or semver or git-sha")
            }
        }
    }

    fn matches(&self, tag: &str) -> bool {
        match self {
            Pattern::Semver => is_semver(tag),
            Pattern::GitSha => {
                tag.strip_prefix("sha-").is_some_and(|hex| (7..=64).contains(&hex.len()) && is_lower_hex(hex))
            }
            Pattern::Glob(glob) => glob_matches(glob, tag.as_bytes()),
        }
    }
}

/// semver.org 2.0.0, with a `v` before it or not. A tag cannot hold the `+` before build metadata: what Helm writes for it, `_`, is taken.
fn is_semver(tag: &str) -> bool {
    let text = tag.strip_prefix('v').unwrap_or(tag);
    let (text, build) = match text.split_once('_') {
        Some((text, build)) => (text, Some(build)),
        None => (text, None),
    };
    let (core, pre) = match text.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (text, None),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| digits(part) && (part.len() == 1 || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// The last `*` is the only one that is gone back to, so that no pattern costs more than its length times the tag's.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                g = at + 1;
                t = from + 1;
            }
        }
    }
    glob[g..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(text: &str) -> Tag {
        text.parse().unwrap()
    }

    #[test]
    fn versions_and_commits_are_immutable_and_nothing_else() {
        let rules = TagRules::default();
        for immutable in [
            "1.2.3",
            "v1.2.3",
            "0.0.0",
            "v10.20.30",
            "1.2.3-rc.1",
            "v1.2.3-alpha-1.0a",
            "1.2.3-0",
            "1.2.3_20240101",
            "1.2.3-rc.1_build.5",
            "sha-0123456",
            "sha-0123456789abcdef0123456789abcdef01234567",
            &format!("sha-{}", "0".repeat(64)),
        ] {
            assert!(rules.is_immutable(&tag(immutable)), "{immutable}");
        }
        for movable in [
            "latest",
            "stable",
            "canary",
            "main",
            "1",
            "1.2",
            "v1",
            "v1.2",
            "1.2.3.4",
            "01.2.3",
            "1.02.3",
            "1.2.3-",
            "1.2.3-01",
            "1.2.3-a..b",
            "1.2.3_",
            "V1.2.3",
            "vv1.2.3",
            "a1.2.3",
            "1.2.x",
            "sha-012345",
            "sha-012345G",
            "sha-0123456x",
            "SHA-0123456",
            "sha256-0123456",
            "q4_0",
            "_",
            &format!("sha-{}", "0".repeat(65)),
        ] {
            assert!(!rules.is_immutable(&tag(movable)), "{movable}");
        }
    }

    #[test]
    fn clients_own_tags_move_whatever_the_patterns() {
        let all = TagRules::new(["*"], [""; 0]).unwrap();
        let hex = "0123456789abcdef".repeat(4);
        for own in ["sha256", "sha512"] {
            for suffix in ["", ".sig", ".att", ".sbom", ".cosign.bundle"] {
                let own = tag(&format!("{own}-{hex}{suffix}"));
                assert!(is_clients_own(&own) && !all.is_immutable(&own), "{own}");
            }
        }
        for other in [
            "latest".to_owned(),
            format!("sha256-{}", &hex[1..]),
            format!("sha256-{hex}0"),
            format!("sha256-{hex}-x"),
            format!("sha1-{hex}"),
            format!("sha256-{}.sig", hex.to_uppercase()),
            "sha256-.sig".into(),
        ] {
            assert!(!is_clients_own(&tag(&other)) && all.is_immutable(&tag(&other)), "{other}");
        }
    }

    #[test]
    fn patterns_are_the_owners_and_a_channel_wins() {
        let rules = TagRules::new(["release-*", "semver", "?.?"], ["*-rc*", "release-next"]).unwrap();
        for (text, immutable) in [
            ("release-1", true),
            ("release-", true),
            ("1.2.3", true),
            ("1.2", true),
            ("release-next", false),
            ("1.2.3-rc1", false),
            ("release-1-rc", false),
            ("1.22", false),
            ("sha-0123456", false),
            ("my-release-1", false),
        ] {
            assert_eq!(rules.is_immutable(&tag(text)), immutable, "{text}");
        }
        for (bad, why) in [
            ("", "is empty"),
            ("a/b", "is no glob"),
            ("^v.+$", "is no glob"),
            ("[0-9]*", "is no glob"),
            ("é", "is no glob"),
            (".a", "matches nothing"),
            ("-*", "matches nothing"),
            (&"a".repeat(129), "longer than any tag"),
        ] {
            let error = TagRules::new([bad], [""; 0]).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
            assert!(TagRules::new([""; 0], [bad]).is_err());
        }
        assert!(TagRules::new(vec!["a"; MAX_PATTERNS], [""; 0]).is_ok());
        assert!(TagRules::new(vec!["a"; MAX_PATTERNS + 1], [""; 0]).unwrap_err().to_string().contains("over 256"));
    }

    fn slow_glob(glob: &[u8], text: &[u8]) -> bool {
        match (glob, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => slow_glob(rest, text) || (!text.is_empty() && slow_glob(glob, &text[1..])),
            ([b'?', rest @ ..], [_, tail @ ..]) => slow_glob(rest, tail),
            ([g, rest @ ..], [t, tail @ ..]) => g == t && slow_glob(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_the_slow_reference(glob in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(glob_matches(glob.as_bytes(), text.as_bytes()), slow_glob(glob.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_pattern_is_taken_or_refused(pattern in "[a-z*?./-]{0,6}|\\PC{0,20}", text in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
            if let Ok(rules) = TagRules::new([&pattern], [""; 0]) {
                rules.is_immutable(&tag(&text));
            }
        }
    }
}
