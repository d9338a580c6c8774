//! Tests of the JSON lexer: tables, limits, and serde_json as the reference.

use super::*;
use crate::format::finding::Severity;
use proptest::prelude::*;

static BAD: Rule = Rule { id: "test.json", severity: Severity::Critical, summary: "no JSON" };

/// The tokens, one a word, or what is wrong and where.
fn tokens(bytes: &[u8]) -> Result<Vec<String>, (String, Option<u64>)> {
    let read = || -> Parsed<Vec<String>> {
        let mut lexer = Lexer::new(&bytes, 0, u64::MAX, &BAD);
        let mut out = Vec::new();
        while let Some(token) = lexer.next()? {
            out.push(format!("{token:?}"));
        }
        lexer.finish(b" \n\r\t")?;
        Ok(out)
    };
    read().map_err(|halt| match halt {
        Halt::Found(found) => (found.2, found.1.offset),
        Halt::Failed(e) => panic!("reading failed: {e}"),
    })
}

#[test]
fn a_token_is_found_where_it_lies_in_the_file() {
    let input = b"xx  [ 12 ]".as_slice();
    let mut lexer = Lexer::new(&input, 2, 10, &BAD).shifted(100);
    let mut places = Vec::new();
    while lexer.next().expect("JSON").is_some() {
        places.push((lexer.token_at(), lexer.position()));
    }
    assert_eq!(places, [(104, 105), (106, 108), (109, 110)]);
}

#[test]
fn every_kind_of_token_comes_out_as_it_is() {
    let text = br#" { "a\u0041\ud83d\ude00\n" : [ 1 , 0, -1, 18446744073709551615, 18446744073709551616, 1.5e-3, 1E+2, true,false,
        null,"x\"\\\/\b\f\r\t", {}, [] ], "b":NaN,"c":-Infinity,"d":Infinity,"b":-0 } "#;
    let found = tokens(text).expect("JSON");
    let expected = [
        "Object",
        "Key { name: \"aA😀\\n\", again: false }",
        "List",
        "Integer(1)",
        "Integer(0)",
        "Number",
        "Integer(18446744073709551615)",
        "Number",
        "Number",
        "Number",
        "Bool(true)",
        "Bool(false)",
        "Null",
        "Text(\"x\\\"\\\\/\\u{8}\\u{c}\\r\\t\")",
        "Object",
        "ObjectEnd",
        "List",
        "ListEnd",
        "ListEnd",
        "Key { name: \"b\", again: false }",
        "NotANumber",
        "Key { name: \"c\", again: false }",
        "NotANumber",
        "Key { name: \"d\", again: false }",
        "NotANumber",
        "Key { name: \"b\", again: true }",
        "Number",
        "ObjectEnd",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_is_no_json_is_refused_at_its_byte() {
    for (text, why, at) in [
        (&b""[..], "ends before", 0),
        (b"   ", "ends before", 3),
        (b"{", "ends before", 1),
        (b"[1", "ends before", 2),
        (b"[1,", "ends before", 3),
        (b"[1,]", "']' where a value", 3),
        (b"[,1]", "',' where a value", 1),
        (b"[1 2]", "'2' where a comma", 3),
        (b"{,}", "',' where a key", 1),
        (b"{\"a\":1,}", "'}' where a key", 7),
        (b"{\"a\" 1}", "'1' where a colon", 5),
        (b"{\"a\":}", "'}' where a value", 5),
        (b"{1:2}", "'1' where a key", 1),
        (b"{\"a\":1]", "']' where a comma", 6),
        (b"[1}", "'}' where a comma", 2),
        (b"]", "']' where a value", 0),
        (b"'a'", "'\\'' where a value", 0),
        (b"\"a", "its end where the end of a text", 2),
        (b"\"a\nb\"", "0x0a where a text without control", 2),
        (b"\"\x1f\"", "0x1f where", 1),
        (b"\"\\x\"", "'x' where an escape", 2),
        (b"\"\\", "its end where an escape", 2),
        (b"\"\\u12g4\"", "'g' where four hex", 5),
        (b"\"\\ud800\"", "second half", 7),
        (b"\"\\ud800\\n\"", "second half", 8),
        (b"\"\\ud800\\ud800\"", "second half", 13),
        (b"\"\\udc00\"", "in its order", 7),
        (b"\"\xff\"", "not UTF-8", 0),
        (b"\"\xed\xa0\x80\"", "not UTF-8", 0),
        (b"{\"\xff\":1}", "not UTF-8", 1),
        (b"\xef\xbb\xbf{}", "0xef where a value", 0),
        (b"01", "2 bytes follow", 1),
        (b"{} x", "after the end", 3),
        (b"{}\0", "0x00", 2),
        (b"-", "a digit", 1),
        (b"-a", "a digit", 1),
        (b"1.", "a digit", 2),
        (b"1e", "a digit", 2),
        (b"1e+", "a digit", 3),
        (b".5", "'.' where a value", 0),
        (b"+1", "'+' where a value", 0),
        (b"tru", "a value", 3),
        (b"True", "'T'", 0),
        (b"Inf", "its end", 3),
        (b"-Inf", "its end", 4),
        (b"nan", "'a'", 1),
        (b"// c\n1", "'/'", 0),
        (b"\x00", "0x00", 0),
    ] {
        let (message, offset) = tokens(text).expect_err(&String::from_utf8_lossy(text));
        let shown = String::from_utf8_lossy(text);
        // Of trailing bytes the message counts all of them.
        let why = if text == b"01" { "1 bytes follow" } else { why };
        assert!(message.contains(why), "{shown}: {message} should say {why}");
        assert_eq!(offset, Some(at), "{shown}: {message}");
    }
}

fn nested(depth: usize) -> Vec<u8> {
    [b"[".repeat(depth), b"]".repeat(depth)].concat()
}

fn keys(count: usize) -> Vec<u8> {
    let all: Vec<String> = (0..count).map(|i| format!("\"{i}\":0")).collect();
    format!("{{{}}}", all.join(",")).into_bytes()
}

#[test]
fn depth_lengths_and_counts_are_bounded() {
    assert_eq!(tokens(&nested(DEPTH_MAX)).expect("as deep as may be").len(), 2 * DEPTH_MAX);
    let (message, at) = tokens(&nested(DEPTH_MAX + 1)).expect_err("too deep");
    assert!(message.contains("nested over 100 deep") && at == Some(DEPTH_MAX as u64), "{message}");
    assert!(tokens(&b"{\"a\":".repeat(1 << 20)).expect_err("too deep").0.contains("nested"));

    let text = |n: usize| [b"\"".as_slice(), &b"x".repeat(n), b"\""].concat();
    assert!(tokens(&text(TEXT_MAX)).is_ok());
    assert!(tokens(&text(TEXT_MAX + 1)).expect_err("too long").0.contains("a text of the JSON has over 8388608 bytes"));
    let key = |n: usize| [b"{\"".as_slice(), &b"x".repeat(n), b"\":1}"].concat();
    assert!(tokens(&key(KEY_MAX)).is_ok());
    assert!(tokens(&key(KEY_MAX + 1)).expect_err("too long").0.contains("a key of the JSON has over 65536 bytes"));
}

#[test]
fn keys_of_open_objects_are_counted_and_forgotten_when_it_closes() {
    let count = |text: &[u8]| -> Parsed<usize> {
        let mut lexer = Lexer::new(&text, 0, u64::MAX, &BAD);
        let mut n = 0;
        while lexer.next()?.is_some() {
            n += 1;
        }
        Ok(n)
    };
    assert_eq!(count(&keys(KEYS_MAX)).expect("as many as may be"), 2 * KEYS_MAX + 2);
    assert!(count(&keys(KEYS_MAX + 1)).is_err());
    let half = String::from_utf8(keys(KEYS_MAX / 2 + 1)).expect("text");
    assert!(count(format!("[{half},{half}]").as_bytes()).is_ok(), "one after the other");
    assert!(count(format!("{{\"a\":{half},\"b\":{half}}}").as_bytes()).is_ok(), "one after the other, in an object");
}

#[test]
fn the_count_of_keys_goes_down_by_as_many_as_it_went_up() {
    let text = format!("{{\"a\":{{\"b\":1,\"b\":2}},\"c\":{}}}", String::from_utf8(keys(100)).expect("text"));
    let input = text.as_bytes();
    let mut lexer = Lexer::new(&input, 0, u64::MAX, &BAD);
    let mut most = 0;
    while lexer.next().expect("JSON").is_some() {
        most = most.max(lexer.keys);
    }
    assert_eq!((most, lexer.keys), (102, 0));
    for (before, fits) in [(KEYS_MAX - 1, true), (KEYS_MAX, false)] {
        let input = b"{\"a\":1}".as_slice();
        let mut lexer = Lexer::new(&input, 0, u64::MAX, &BAD);
        lexer.keys = before;
        lexer.next().expect("an object");
        assert_eq!(lexer.next().is_ok(), fits, "{before}");
    }
}

#[test]
fn a_repeated_key_is_told_in_small_and_in_large_objects_and_only_there() {
    for n in [1, 2, FEW - 1, FEW, FEW + 1, FEW + 2, 100] {
        for repeated in [0, n - 1] {
            let mut all: Vec<String> = (0..n).map(|i| format!("\"k{i}\":{{\"k{i}\":1}}")).collect();
            all.push(format!("\"\\u006b{repeated}\":2"));
            let found = tokens(format!("{{{}}}", all.join(",")).as_bytes()).expect("JSON");
            let again: Vec<&String> = found.iter().filter(|t| t.contains("again: true")).collect();
            assert_eq!(again, [&format!("Key {{ name: \"k{repeated}\", again: true }}")], "{n} keys");
        }
    }
}

#[test]
fn padding_is_counted_and_only_that_which_is_allowed() {
    for (text, padding, expected) in
        [(&b"{}"[..], &b" "[..], Some(0)), (b"{}  ", b" ", Some(2)), (b"{} \n", b" ", None), (b"{}\n", b" \n", Some(1))]
    {
        let mut lexer = Lexer::new(&text, 0, u64::MAX, &BAD);
        while lexer.next().expect("JSON").is_some() {}
        assert_eq!(lexer.finish(padding).ok(), expected, "{text:?}");
    }
}

/// Buffers end anywhere: in a word, an escape, a character.
#[test]
fn tokens_that_cross_a_buffer_are_whole() {
    for before in (BUFFER - 60..BUFFER + 2).map(|n| n as usize) {
        let text = [b" ".repeat(before).as_slice(), br#"{"a":["\ud83d\ude00\n~",true,1234567,null]}"#].concat();
        let found = tokens(&text).expect("JSON");
        assert_eq!(found[3..6], ["Text(\"😀\\n~\")", "Bool(true)", "Integer(1234567)"], "{before}");
    }
}

/// The one refusal of serde_json that is about a value and not about JSON.
fn out_of_range(reference: &serde_json::Result<serde_json::Value>) -> bool {
    reference.as_ref().is_err_and(|e| e.to_string().contains("out of range"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    /// serde_json accepts what the lexer accepts; but for numbers that no double holds, and Python's NaN.
    #[test]
    fn it_agrees_with_serde_json(picks in proptest::collection::vec(0usize..32, 0..24)) {
        const PIECES: [&str; 32] = ["{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "1", "-1", "0", "00", "1.5", "1e5", "e", ".",
            "true", "false", "null", " ", "\n", "\"", "\\", "\\u00e9", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "\u{e9}", "\t", "-", "+",
            "{\"a\":", "\":"];
        let text: String = picks.iter().map(|i| PIECES[*i]).collect();
        let reference = serde_json::from_str::<serde_json::Value>(&text);
        prop_assume!(!out_of_range(&reference));
        prop_assert_eq!(tokens(text.as_bytes()).is_ok(), reference.is_ok(), "{}: {:?}", text, reference);
    }

    #[test]
    fn mutations_of_json_agree_with_serde_json(at in 0usize..120, byte: u8, cut in 0usize..120) {
        let mut text = br#"{"a":[1,-2.5e+3,"x\n\u00e9\ud83d\ude00"],"b":{"c":true,"d":false,"e":null},"f":"\\\"/","g":[[],{}]}"#.to_vec();
        if let Some(b) = text.get_mut(at) {
            *b = byte;
        }
        text.truncate(if cut < 10 { cut * 9 } else { text.len() });
        let reference = serde_json::from_slice::<serde_json::Value>(&text);
        prop_assume!(!out_of_range(&reference));
        prop_assert_eq!(tokens(&text).is_ok(), reference.is_ok(), "{:?}", reference);
    }
}
