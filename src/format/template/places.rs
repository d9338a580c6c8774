//! Places in format texts.
//!
//! Owns: what `str.format` and `%` do with a text, as far as it matters. Promises: a text that passes reads no attributes and
//! pads to no width that is not seen. Leaves out: which texts are formatted.

/// Whether a format text has no places but `{}`, `{0}` and `{name}`.
pub(super) fn plain_format(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (first, after) = (rest.get(at..at + 1), rest.get(at + 1..).unwrap_or(""));
        if after.get(..1) == first {
            rest = after.get(1..).unwrap_or("");
            continue;
        }
        let Some((place, tail)) = after.split_once('}').filter(|_| first == Some("{")) else { return false };
        if place.starts_with('_') || !place.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return false;
        }
        rest = tail;
    }
    true
}

/// The largest number right behind a `%`, the key in brackets and its flags; `*` takes any from the arguments.
pub(super) fn width(text: &str) -> u64 {
    let number = |part: &str| {
        let part = part.strip_prefix('(').and_then(|keyed| keyed.split_once(')')).map_or(part, |(_, rest)| rest);
        let digits = part.trim_start_matches(['-', '+', ' ', '#', '0', '_', '^', '.']);
        let end = digits.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
        let precision = digits.get(end..).and_then(|rest| rest.strip_prefix('.')).unwrap_or("");
        let to = precision.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(precision.len());
        let (rest, precise) = (digits.get(end..).unwrap_or(""), precision.starts_with('*'));
        if (end == 0 && rest.starts_with('*')) || precise {
            return u64::MAX;
        }
        let parse = |d: Option<&str>| match d {
            Some("") | None => 0,
            Some(d) => d.parse().unwrap_or(u64::MAX),
        };
        parse(digits.get(..end)).max(parse(precision.get(..to)))
    };
    text.split('%').skip(1).map(number).max().unwrap_or(0)
}
