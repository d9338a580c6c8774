//! The gate before the YAML parser.
//!
//! Owns: which lines a manifest may consist of. Promises: aliases, anchors, tags, merge keys, flow collections, block
//! scalars, comments, duplicate keys, depth, non-ASCII bytes and over-long lines are refused in one pass, without
//! allocating by what the text claims. It is a recogniser of our own canonical form, not a search for `&`:
//!
//! ```text
//! line   = indent [ "- " ] key ":" [ " " value ]       indent = 0, 2 or 4 spaces
//! key    = 1 to 32 of a-z 0-9 _
//! value  = digits | "[]" | '"' ( printable ASCII but " and \ | \" | \\ | \n | \r | \t | \xHH | \uHHHH | \UHHHHHHHH )* '"'
//! ```
//! Leaves out: what the keys mean (serde) and whether the text is whole (`text`).

/// No line is longer.
const MAX_LINE: usize = 64 << 10;
/// Levels of nesting: an entry, a file of it or its quarantine, nothing below.
const LEVELS: usize = 4;

/// Checks every line of `text`: the head of the manifest, or one entry. The first bad line's number, and what is wrong.
pub(crate) fn check(text: &str) -> Result<(), (usize, &'static str)> {
    let mut keys: [Vec<&str>; LEVELS] = Default::default();
    // Not `lines()`, which would forgive a carriage return.
    for (number, line) in (1..).zip(text.strip_suffix('\n').unwrap_or(text).split('\n')) {
        check_line(line, &mut keys).map_err(|why| (number, why))?;
    }
    Ok(())
}

fn check_line<'t>(line: &'t str, keys: &mut [Vec<&'t str>; LEVELS]) -> Result<(), &'static str> {
    if line.len() > MAX_LINE {
        return Err("it is too long");
    }
    let rest = line.trim_start_matches(' ');
    let indent = line.len() - rest.len();
    let (dash, rest) = match rest.strip_prefix("- ") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if !indent.is_multiple_of(2) {
        return Err("its indentation is odd");
    }
    let level = indent / 2 + usize::from(dash);
    if level >= LEVELS {
        return Err("it is nested too deep");
    }
    let (key, value) = rest.split_once(':').ok_or("it is not a key and a value")?;
    if key.is_empty()
        || key.len() > 32
        || !key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    {
        return Err("its key is not a plain word");
    }
    for deeper in &mut keys[level + 1..] {
        deeper.clear();
    }
    if dash {
        keys[level].clear();
    }
    if keys[level].contains(&key) {
        return Err("its key stands twice");
    }
    keys[level].push(key);
    match value.strip_prefix(' ') {
        Some(value) => check_value(value),
        None if value.is_empty() => Ok(()),
        None => Err("a space is missing after its key"),
    }
}

fn check_value(value: &str) -> Result<(), &'static str> {
    if value == "[]" {
        return Ok(());
    }
    if !value.is_empty() && value.len() <= 20 && value.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).ok_or(
        "its value is neither a number nor a double-quoted string (anchors, aliases and tags are not allowed)",
    )?;
    let mut bytes = inner.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return Err("a quote stands inside its string"),
            b'\\' => {
                let digits = match bytes.next() {
                    Some(b'"' | b'\\' | b'n' | b'r' | b't') => 0,
                    Some(b'x') => 2,
                    Some(b'u') => 4,
                    Some(b'U') => 8,
                    _ => return Err("its string holds an unknown escape"),
                };
                if !(0..digits).all(|_| bytes.next().is_some_and(|b| b.is_ascii_hexdigit())) {
                    return Err("its string holds an incomplete escape");
                }
            }
            b' '..=b'~' => {}
            _ => return Err("its string holds a byte that is not printable ASCII"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_lines_pass() {
        check("version: 1\ngeneration: 18446744073709551615\nmodels:\n- name: \"a\"\n  files:\n  - path: \"x\"\n    size_bytes: 1\n  \
               - path: \"y\"\n    size_bytes: 2\n  quarantine:\n    reason: \"\\\"\\\\\\n\\r\\t\\x1b\\u202e\\U0001f600\"\n- name: \"b\"\n")
            .expect("canonical");
        check("models: []\n").expect("an empty list");
        check(&format!("{}: 1", "k".repeat(32))).expect("the longest key");
        check(&format!("a: \"{}\"", "x".repeat(MAX_LINE - 5))).expect("the longest line");
    }

    /// Threat 11: what a YAML parser would follow, expand or overwrite never reaches it.
    #[test]
    fn t11_everything_but_canonical_lines_is_refused() {
        let deep = "  ".repeat(50) + "a: 1";
        let long = format!("a: \"{}\"", "x".repeat(MAX_LINE));
        for bad in [
            "a: &anchor 1",
            "a: *alias",
            "a: !tag 1",
            "a: !!str \"x\"",
            "<<: *a",
            "a: {b: 1}",
            "a: [1]",
            "a: |",
            "a: >",
            "a: 'x'",
            "a: x",
            "a: true",
            "a: -1",
            "a: 1.5",
            "a: 0x10",
            "a: 123456789012345678901",
            "a: ",
            "a:1",
            "a :1",
            "a",
            "",
            "---",
            "...",
            "# c",
            "a: 1 # c",
            "? a",
            "- - a: 1",
            "-  a: 1",
            "- \"a\"",
            "\ta: 1",
            " a: 1",
            "A: 1",
            "a-b: 1",
            "é: 1",
            "a: \"é\"",
            "a: \"x",
            "a: \"",
            "a: \"x\"y\"",
            "a: \"\\\"",
            "a: \"\\q\"",
            "a: \"\\x1\"",
            "a: \"\\u12g4\"",
            "a: \"\\U0001f60\"",
            "a: \"\u{7f}\"",
            "a: \"\t\"",
            "a: 1\r",
            "%YAML 1.2",
            "a: \"\"\"\"",
            "a: 1\na: 2",
            "- a: 1\n  a: 2",
            "- f:\n  - p: 1\n    p: 2",
            "a:\n  b: 1\n  b: 2",
            "a: @x",
            "a: `x`",
            &deep,
            &long,
            "a: 1\n\nb: 2",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for bad in [": 1", "- : 1", &format!("{}: 1", "k".repeat(33)), &format!("a: \"{}\"", "x".repeat(MAX_LINE - 4))]
        {
            assert!(check(bad).is_err(), "{} bytes", bad.len());
        }
        check("- a: 1\n- a: 2\n  f:\n  - p: 1\n  - p: 1\n- a: 3").expect("each list item has keys of its own");
        check("a:\n  b: 1\nc:\n  b: 1").expect("each map has keys of its own");
    }
}
