//! That a chosen mutant is what the edited source would be.
//!
//! Owns: a program with something of each genre. Promises: each mutant of it is compiled and run both ways. Leaves out: the
//! list itself (cargo-mutants).

use super::list::{self, Genre, Mutant};
use super::rewrite::{edited, rewrite};
use super::{Verdict, Verdicts, again, module};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Prints what each function makes of some numbers: every mutant below changes a line.
const PROGRAM: &str = r#"
#[derive(Debug, Clone, Copy)]
struct Pair { left: i64, right: i64 }
const BASE: Pair = Pair { left: 1, right: 2 };
const SHIFT: i64 = 1 << 4;

fn value(n: i64) -> Option<i64> {
    /* what is before the first statement stays */
    let twice = n * 2;
    Some(twice + SHIFT)
}
fn binds(a: bool, b: bool, c: bool) -> bool { a && b && c }
fn mixed(a: i64, b: i64, c: i64) -> i64 { a + b - c * 2 }
fn inside(a: i64, b: i64) -> bool { (a + 1 < b || a == 7) && !(a == b) }
fn negative(a: i64) -> i64 { -a.abs() - -a }
fn counts(n: i64) -> i64 {
    let mut sum = 0;
    for i in 0..n + 1 { sum += i - 1; }
    sum
}
fn arms(n: i64) -> &'static str {
    match n {
        0 => "none",
        1 | 2 if n < 2 || n > 5 => "one",
        3 if n % 2 == 1 => "three",
        _ => "many",
    }
}
fn chain(of: Option<i64>, b: i64) -> bool {
    if let Some(a) = of && a + 1 == b && b != 4 { return true; }
    false
}
fn field(n: i64) -> Pair { Pair { left: n, ..BASE } }
fn lazily(n: i64) -> impl Iterator<Item = i64> { (0..n).map(|i| i * i) }

fn main() {
    for n in -2..6 {
        for m in -2..6 {
            let (a, b, c) = (n % 2 == 0, m % 2 == 0, n < m);
            println!("{n} {m}: {:?} {} {} {} {}", value(n), binds(a, b, c), mixed(n, m, 3), inside(n, m), negative(n));
            println!("{} {} {} {:?} {:?}", counts(n), arms(n), chain(Some(n), m), field(n), lazily(n).collect::<Vec<_>>());
        }
    }
}
"#;

/// Genre, a line that has it, what in the line is replaced, by what.
const MUTANTS: &[(Genre, &str, &str, &str)] = &[
    (
        Genre::FnValue,
        "let twice = n * 2;\n    Some(twice + SHIFT)",
        "let twice = n * 2;\n    Some(twice + SHIFT)",
        "None",
    ),
    (Genre::FnValue, "a && b && c", "a && b && c", "true"),
    (Genre::BinaryOperator, "b && c", "&&", "||"),
    (Genre::BinaryOperator, "a && b", "&&", "||"),
    (Genre::BinaryOperator, "n * 2", "*", "+"),
    (Genre::BinaryOperator, "a + b - c", "+", "*"),
    (Genre::BinaryOperator, "b - c", "-", "/"),
    (Genre::BinaryOperator, "c * 2", "*", "+"),
    (Genre::BinaryOperator, "a + 1 < b", "<", ">"),
    (Genre::BinaryOperator, "a + 1 <", "+", "-"),
    (Genre::BinaryOperator, "b || a", "||", "&&"),
    (Genre::BinaryOperator, "a == 7", "==", "!="),
    (Genre::BinaryOperator, ") && !", "&&", "||"),
    (Genre::UnaryOperator, "!(a == b)", "!", ""),
    (Genre::BinaryOperator, "a == b)", "==", "!="),
    (Genre::UnaryOperator, "-a.abs()", "-", ""),
    (Genre::UnaryOperator, "-a }", "-", ""),
    (Genre::BinaryOperator, "n + 1", "+", "*"),
    (Genre::BinaryOperator, "sum += i", "+=", "-="),
    (Genre::BinaryOperator, "i - 1", "-", "+"),
    (Genre::MatchArm, "0 => \"none\",", "0 => \"none\",", ""),
    (Genre::MatchArm, "1 | 2 if n < 2 || n > 5 => \"one\",", "1 | 2 if n < 2 || n > 5 => \"one\",", ""),
    (Genre::MatchArmGuard, "n < 2 || n > 5", "n < 2 || n > 5", "true"),
    (Genre::MatchArmGuard, "n < 2 || n > 5", "n < 2 || n > 5", "false"),
    (Genre::BinaryOperator, "2 || n", "||", "&&"),
    (Genre::BinaryOperator, "n < 2", "<", ">"),
    (Genre::BinaryOperator, "n % 2 == 1 =>", "==", "!="),
    (Genre::BinaryOperator, "a + 1 == b", "==", "!="),
    (Genre::BinaryOperator, "b != 4", "!=", "=="),
    (Genre::StructField, "left: n,", "left: n,", ""),
    (Genre::BinaryOperator, "i * i", "*", "+"),
];

/// Those that can't be chosen: they are built alone, or don't compile.
const LEFT: &[(Genre, &str, &str, &str)] = &[
    (Genre::BinaryOperator, "of && a", "&&", "||"),
    (Genre::BinaryOperator, "b && b", "&&", "||"),
    (Genre::FnValue, "(0..n).map(|i| i * i)", "(0..n).map(|i| i * i)", "::std::iter::empty()"),
];

fn mutants(of: &[(Genre, &str, &str, &str)]) -> Vec<Mutant> {
    let one = |(number, (genre, line, what, replacement)): (u32, &(Genre, &str, &str, &str))| {
        let start = PROGRAM.find(line).expect("the line") + line.find(what).expect("the text");
        let (name, file) = (format!("{line} with {replacement}"), "src/format/program.rs".to_owned());
        let span = start..start + what.len();
        Mutant { number, name, file, genre: *genre, replacement: (*replacement).to_owned(), span, function: None }
    };
    (1..).zip(of).map(one).collect()
}

/// Compiles a program.
fn compiled(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let (source, program) = (dir.join(format!("{name}.rs")), dir.join(name));
    std::fs::write(&source, text).expect("the source");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "--cap-lints", "allow", "-C", "debuginfo=0"]).arg(&source).arg("-o").arg(&program);
    let out = rustc.output().expect("rustc");
    assert!(out.status.success(), "{name}: {}\n{text}", String::from_utf8_lossy(&out.stderr));
    program
}

fn printed(program: &Path, number: u32) -> String {
    let out = Command::new(program).env("CHOSEN", number.to_string()).output().expect("the program");
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn a_chosen_mutant_does_what_the_edited_source_does() {
    let dir = tempfile::tempdir().expect("a folder");
    let chooser = "fn mutant(n: u32) -> bool { std::env::var(\"CHOSEN\").is_ok_and(|c| c == n.to_string()) }\n";
    let mutants = mutants(MUTANTS);
    let made = rewrite(PROGRAM, &mutants.iter().collect::<Vec<_>>()).expect("it parses");
    assert_eq!(made.left, [] as [u32; 0]);
    let all = compiled(dir.path(), "all", &format!("{}{chooser}", made.text));
    let unchanged = printed(&compiled(dir.path(), "none", PROGRAM), 0);
    assert_eq!(printed(&all, 0), unchanged);
    for mutant in &mutants {
        let one = printed(&compiled(dir.path(), "one", &edited(PROGRAM, mutant)), 0);
        assert_ne!(one, unchanged, "{} changes nothing", mutant.name);
        assert_eq!(printed(&all, mutant.number), one, "{:?}: {}", mutant.genre, mutant.name);
    }
}

#[test]
fn what_has_no_form_is_handed_back_and_each_text_knows_its_mutant() {
    let (all, left) = (mutants(MUTANTS), mutants(LEFT));
    assert_eq!(rewrite(PROGRAM, &left.iter().collect::<Vec<_>>()).expect("it parses").left, [1, 2, 3]);
    let made = rewrite(PROGRAM, &all.iter().collect::<Vec<_>>()).expect("it parses");
    for mutant in &all {
        let call = format!("crate::mutant({})", mutant.number);
        let at = made.text.find(&call).expect("its call");
        let around = made.regions.iter().filter(|(r, _)| r.start <= at && at + call.len() <= r.end);
        let (_, owners) = around.min_by_key(|(r, _)| r.len()).expect("a region");
        assert_eq!(owners, &[mutant.number]);
    }
}

#[test]
fn deleted_arms_of_guards_with_let_and_of_a_match_without_a_rest_are_told_apart() {
    let source = "fn f(o: Option<u8>) { match o { Some(a) if let 1 = a => {} Some(_) => {} None => {} } }";
    let arm = |number, text: &str| {
        let start = source.find(text).expect("the arm");
        let (name, file) = (text.to_owned(), String::new());
        let (genre, replacement) = (Genre::MatchArm, String::new());
        Mutant { number, name, file, genre, replacement, span: start..start + text.len(), function: None }
    };
    let arms = [arm(1, "Some(a) if let 1 = a => {}"), arm(2, "None => {}")];
    let made = rewrite(source, &arms.iter().collect::<Vec<_>>()).expect("it parses");
    assert_eq!(
        made.text,
        "fn f(o: Option<u8>) { match o { Some(a) if !crate::mutant(1) && let 1 = a => {} Some(_) => {} \
         None if !crate::mutant(2) => {} } }"
    );
    // An error about the value that is matched is of all arms.
    let place = made.text.find("o {").expect("the value");
    let owners = made.regions.iter().filter(|(r, _)| r.contains(&place)).min_by_key(|(r, _)| r.len());
    assert_eq!(owners.map(|(_, numbers)| numbers.clone()), Some(vec![1, 2]));
}

#[test]
fn the_list_is_read_in_characters_and_nothing_unknown_is_passed_over() {
    let sources = BTreeMap::from([("a.rs".to_owned(), "// \u{e9}\nf(\"\u{e9}\", a < b)\n".to_owned())]);
    let json = |file: &str, genre: &str, column: u32| {
        format!(
            r#"[{{"name": "n", "file": "{file}", "genre": "{genre}", "replacement": ">", "function": null,
                "span": {{"start": {{"line": 2, "column": {column}}}, "end": {{"line": 2, "column": 11}}}}}}]"#
        )
    };
    let read = list::parse(&json("a.rs", "BinaryOperator", 10), &sources).expect("one mutant");
    assert_eq!(edited(&sources["a.rs"], &read[0]), "// \u{e9}\nf(\"\u{e9}\", a  >  b)\n");
    for (file, genre, column) in [("b.rs", "BinaryOperator", 10), ("a.rs", "Unheard", 10), ("a.rs", "MatchArm", 99)] {
        list::parse(&json(file, genre, column), &sources).expect_err(genre);
    }
}

#[test]
fn a_mutant_without_a_verdict_or_with_two_fails_the_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let mutants = mutants(LEFT);
    let verdicts = Verdicts::begin(&dir.path().join("verdicts")).expect("a file");
    verdicts.add(&mutants, 1, Verdict::Caught).expect("the first");
    verdicts.add(&mutants, 1, Verdict::Survived).expect_err("a second");
    assert!(verdicts.all(&mutants).expect_err("two are missing").contains("::std::iter::empty()"));
}

#[test]
fn a_second_look_takes_some_of_each_genre() {
    let mutants = mutants(MUTANTS);
    let genres: Vec<Genre> = again(&mutants, 2, |_| true).iter().map(|m| m.genre).collect();
    assert_eq!(genres.iter().filter(|g| **g == Genre::BinaryOperator).count(), 2);
    assert_eq!(genres.iter().collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(module("src/format/gguf/parse.rs"), "src/format/gguf");
    assert_eq!(module("src/format/gguf.rs"), "src/format/gguf");
    assert_eq!(module("src/policy/text.rs"), "src/policy");
}
