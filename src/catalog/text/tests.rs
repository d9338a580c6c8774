//! Tests of the manifest's text.
//!
//! Owns: texts that are whole, torn, edited, and sealed over a lie. Promises: nothing. Leaves out: files (`store`).

use super::*;
use crate::artifact::Weights;
use crate::catalog::Edit;
use crate::catalog::tests::artifact;
use crate::digest::Sha256Digest;
use proptest::prelude::*;

fn catalog(artifacts: Vec<Artifact>) -> Catalog {
    Catalog::new(9, artifacts.into_iter().map(Entry::from).collect(), Vec::new()).expect("a catalog")
}

fn incident(reason: &str, id: Option<&str>) -> Option<Quarantine> {
    let (reason, incident_id) = (reason.to_owned(), id.map(str::to_owned));
    Some(Quarantine { cause: Cause::Incident, reason, incident_id, at: "t".into() })
}

fn sample_catalog() -> Catalog {
    let mut b = artifact("b/c:v1", Layout::Folder, &["config.json", "x/y.gguf"]);
    b.quarantine = incident("why", Some("i"));
    b.evidence = Some(b.sha256);
    b.inspection = Some(b.files[0].sha256);
    catalog(vec![artifact("a", Layout::File, &["a.gguf"]), b])
}

fn rendered(catalog: &Catalog) -> String {
    render(catalog).expect("room")
}

fn sample() -> String {
    rendered(&sample_catalog())
}

/// The same after models under an incident were deleted: two of one name, one of them with two files.
fn sample_blocked() -> Catalog {
    let mut catalog = sample_catalog();
    for (name, files, id) in
        [("x", &["1.gguf", "2.gguf"][..], Some("i1")), ("x", &["3.gguf"], None), ("w", &["4.gguf"], None)]
    {
        let mut bad = artifact(name, Layout::Folder, files);
        bad.quarantine = incident("bad", id);
        catalog = catalog.with(&[Edit::Put(bad.clone().into())]).expect("put");
        catalog = catalog.with(&[Edit::Remove { name: bad.name, at: "d".into() }]).expect("removed");
    }
    catalog
}

/// Puts a fitting last line under a body that somebody edited.
fn sealed(body: &str, generation: u64, entries: usize, blocked: usize) -> String {
    format!("{body}{}", trailer(generation, entries, blocked, body.as_bytes()))
}

fn body(text: &str) -> &str {
    &text[..text.rfind("# end").expect("a last line")]
}

fn blocked(c: &Catalog) -> Vec<Blocked> {
    c.blocked().map(|b| (**b).clone()).collect()
}

fn artifacts(c: &Catalog) -> Vec<Artifact> {
    c.artifacts().map(|a| (**a).clone()).collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(source in any::<String>(), reason in ".*", id in proptest::option::of(".*"), q in any::<bool>()) {
        let mut a = artifact("m", Layout::File, &["m.gguf"]);
        a.source = source;
        let cause = if q { Cause::Integrity } else { Cause::Incident };
        a.quarantine = Some(Quarantine { cause, reason, incident_id: id, at: "t".into() });
        let text = rendered(&catalog(vec![a.clone()]));
        prop_assert_eq!(artifacts(&parse(text.as_bytes(), None).expect("our own text")), vec![a]);
    }

    #[test]
    fn what_is_blocked_is_read_back(reason in ".*", id in proptest::option::of(".*"), deleted_at in ".*", seeds in proptest::collection::btree_set(any::<u8>(), 1..5)) {
        let name: crate::name::ModelName = "m".parse().expect("a name");
        let mut weights: Vec<Weights> = seeds.iter().map(|s| Weights { sha256: Sha256Digest::of(&[*s]) }).collect();
        weights.sort();
        let quarantine = incident(&reason, id.as_deref()).expect("some");
        let one = Blocked { name, deleted_at, quarantine, weights };
        let text = rendered(&Catalog::new(9, Vec::new(), vec![one.clone().into()]).expect("a catalog"));
        let read = parse(text.as_bytes(), None).expect("our own text");
        prop_assert_eq!((blocked(&read), read.len()), (vec![one], 0));
    }

    /// So that a delete finds room in the fullest manifest.
    #[test]
    fn what_a_delete_leaves_is_shorter_than_what_it_takes(reason in ".*", id in proptest::option::of(".*"), files in 1..9_usize) {
        let files: Vec<String> = (0..files).map(|i| format!("{i}.gguf")).collect();
        let mut a = artifact("m", Layout::Folder, &files.iter().map(String::as_str).collect::<Vec<_>>());
        a.quarantine = incident(&reason, id.as_deref());
        let before = catalog(vec![a.clone()]);
        let after = before.with(&[Edit::Remove { name: a.name, at: crate::audit::now() }]).expect("removed");
        prop_assert!(rendered(&after).len() < rendered(&before).len());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse(&bytes, None).is_err());
    }
}

#[test]
fn an_empty_catalog_is_said_to_be_empty() {
    let text = rendered(&catalog(vec![]));
    assert!(text.contains("models: []\n# end generation=9 entries=0 "), "{text}");
    assert_eq!(parse(text.as_bytes(), None).expect("empty").len(), 0);
}

/// Threat 10.
#[test]
fn t10_a_torn_or_edited_manifest_is_refused_at_every_byte() {
    let text = sample();
    let whole = parse(text.as_bytes(), None).expect("whole");
    assert_eq!((whole.generation(), whole.len()), (9, 2));
    let with_blocked = rendered(&sample_blocked());
    let whole = parse(with_blocked.as_bytes(), None).expect("whole");
    assert_eq!((whole.len(), blocked(&whole)), (2, blocked(&sample_blocked())));
    for text in [text, with_blocked] {
        for cut in 0..text.len() {
            assert_eq!(
                parse(&text.as_bytes()[..cut], None).expect_err("cut").kind(),
                ErrorKind::Manifest,
                "cut at {cut}"
            );
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(parse(&bytes, None).expect_err("flipped").kind(), ErrorKind::Manifest, "flipped at {at}");
        }
        assert!(parse(format!("{text}{text}").as_bytes(), None).is_err());
        assert!(parse(format!("{text}\n").as_bytes(), None).is_err());
    }
}

#[test]
fn a_manifest_that_blocks_nothing_is_of_version_1_and_one_that_does_is_refused_by_who_knows_only_that() {
    let text = sample();
    assert!(text.starts_with("version: 1\n") && !text.contains("blocked"), "{text}");
    let catalog = sample_blocked();
    assert!(rendered(&catalog).starts_with("version: 2\n"));
    let names: Vec<_> = catalog.blocked().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["w", "x", "x"]);
    let lifted = ["w", "x"].map(|name| Edit::Unblock(name.parse().expect("a name")));
    let lifted = catalog.with(&lifted).expect("lifted");
    assert_eq!(rendered(&lifted).lines().next(), Some("version: 1"));
}

/// Threat 11, with a last line that fits: each of these must be refused for what it says.
#[test]
fn t11_a_sealed_manifest_that_lies_is_refused() {
    let text = sample();
    let body = body(&text);
    assert!(parse(sealed(body, 9, 2, 0).as_bytes(), None).is_ok(), "the seal itself is right");
    for (from, to) in [
        ("version: 1", "version: 2"),
        ("version: 1\n", ""),
        ("generation: 9", "generation: 8"),
        ("models:\n", "models: []\n"),
        ("models:\n", "models:\nextra: 1\n"),
        ("  size_bytes: 7\n  files", "  size_bytes: 8\n  files"),
        ("  layout: \"file\"", "  layout: \"folder\""),
        ("  layout: \"folder\"", "  layout: \"file\""),
        ("  format: \"gguf\"", "  format: \"pickle\""),
        ("\"a.gguf\"", "\"../a.gguf\""),
        ("name: \"a\"", "name: \"../a\""),
        ("name: \"a\"", "name: \"z\""),
        ("name: \"a\"", "name: \"b/c:v1\""),
        ("  source: \"test\"\n", ""),
        ("  source: \"test\"\n", "  source: \"test\"\n  unknown: 1\n"),
        ("  source: \"test\"\n", "  source: \"test\"\n  source: \"test\"\n"),
        ("  source: \"test\"\n", "  source: \"\\x74est\"\n"),
        ("  source: \"test\"\n", "  source: &a \"test\"\n"),
        ("  source: \"test\"\n", "  source: *a\n"),
        ("\"config.json\"", "\"zonfig.json\""),
        ("cause: \"incident\"", "cause: \"other\""),
    ] {
        assert!(body.contains(from), "{from}");
        let lie = sealed(&body.replacen(from, to, 1), 9, 2, 0);
        assert_eq!(parse(lie.as_bytes(), None).expect_err(to).kind(), ErrorKind::Manifest, "{from:?} -> {to:?}");
    }
    assert!(parse(sealed(body, 9, 3, 0).as_bytes(), None).is_err(), "the number of entries is checked");
    assert!(parse(&vec![b'a'; MAX_BYTES as usize + 1], None).is_err(), "too large");
    assert!(parse("é".as_bytes(), None).is_err(), "not ASCII");
}

/// The same of what is blocked.
#[test]
fn t11_a_sealed_manifest_that_lies_of_what_is_blocked_is_refused() {
    let catalog = sample_blocked();
    let (text, generation) = (rendered(&catalog), catalog.generation());
    let body = body(&text);
    assert!(parse(sealed(body, generation, 2, 3).as_bytes(), None).is_ok(), "the seal itself is right");
    let (models, list) = body.split_at(body.find("blocked:\n").expect("a list"));
    let items: Vec<String> = list.split("\n- ").skip(1).map(|item| format!("- {}\n", item.trim_end())).collect();
    let two = items.iter().find(|item| item.matches("sha256").count() == 2).expect("one with two files");
    let mut lines: Vec<&str> = two.lines().collect();
    let last = lines.len() - 1;
    lines.swap(last, last - 1);
    let unsorted = format!("{}\n", lines.join("\n"));
    let twice = format!("{two}{}\n", lines[last - 1]);
    let none = two[..two.find("  - sha256").expect("weights")].to_owned();
    let empty_list = none.replace("weights:", "weights: []");
    for (from, to) in [
        ("version: 2", "version: 1"),
        ("version: 2", "version: 3"),
        ("blocked:\n", ""),
        ("blocked:\n", "blocked: []\n"),
        ("blocked:\n", "blocked:\nblocked:\n"),
        ("blocked:\n", "blocked:\nextra: 1\n"),
        (list, "blocked:\n"),
        (two, &unsorted),
        (two, &twice),
        (two, &none),
        (two, &empty_list),
        (two, &format!("{two}{two}")),
        (&items[0], ""),
        (list, &format!("blocked:\n{}{}{}", items[1], items[0], items[2])),
        (list, &format!("blocked:\n{}{}{}", items[0], items[2], items[1])),
        ("  deleted_at: \"d\"\n", ""),
        ("  deleted_at: \"d\"\n", "  deleted_at: \"\\x64\"\n"),
        ("  deleted_at: \"d\"\n", "  deleted_at: \"d\"\n  unknown: 1\n"),
        ("  deleted_at: \"d\"\n", "  deleted_at: &a \"d\"\n"),
        ("cause: \"incident\"\n    reason: \"bad\"", "cause: \"integrity\"\n    reason: \"bad\""),
        ("- name: \"w\"", "- name: \"../w\""),
        ("  weights:\n  - sha256: \"", "  weights:\n  - sha256: \"0"),
    ] {
        assert!(body.contains(from), "{from}");
        let lie = sealed(&format!("{models}{list}").replacen(from, to, 1), generation, 2, 3);
        assert_eq!(parse(lie.as_bytes(), None).expect_err(to).kind(), ErrorKind::Manifest, "{from:?} -> {to:?}");
    }
    for (entries, blocked) in [(2, 2), (3, 3), (5, 0)] {
        assert!(parse(sealed(body, generation, entries, blocked).as_bytes(), None).is_err(), "{entries} {blocked}");
    }
    let twice = format!("{models}{list}").replacen(two.as_str(), &format!("{two}{two}"), 1);
    let e = parse(sealed(&twice, generation, 2, 4).as_bytes(), None).expect_err("counted, but twice");
    assert!(e.to_string().contains("each once"), "{e}");
    let empty = format!("{models}blocked:\n");
    for blocked in [0, 1] {
        assert!(parse(sealed(&empty, generation, 2, blocked).as_bytes(), None).is_err(), "nothing is blocked");
    }
}

#[test]
fn promotions_leave_room_that_everything_else_may_use() {
    let (most, promotions) = (48 << 20, 40 << 20);
    assert!(fits(promotions, "promote") && !fits(promotions + 1, "promote"));
    assert!(fits(most, "quarantine") && !fits(most + 1, "quarantine"));
    assert!(fits(most, "load") && !fits(most + 1, "load"));
}

#[test]
fn a_sealed_entry_with_files_that_cannot_be_is_refused() {
    let entry = |files: &[&str], layout| {
        let mut a = artifact("m", Layout::Folder, files);
        a.layout = layout;
        a.sha256 = if layout == Layout::File { a.files[0].sha256 } else { list_digest(&a.files) };
        let body = format!("version: 1\ngeneration: 9\nmodels:\n{}", encode(&a));
        parse(sealed(&body, 9, 1, 0).as_bytes(), None).map(drop)
    };
    assert!(entry(&["a.gguf"], Layout::File).is_ok());
    assert!(entry(&["a.gguf", "b.gguf"], Layout::Folder).is_ok());
    let e = entry(&["a.gguf", "b.gguf"], Layout::File).expect_err("a file is one file");
    assert!(e.to_string().contains("wrong number"), "{e}");
    for order in [["a.gguf", "a.gguf"], ["b.gguf", "a.gguf"]] {
        let e = entry(&order, Layout::Folder).expect_err("each once, sorted");
        assert!(e.to_string().contains("out of order"), "{e}");
    }
}

#[test]
fn each_character_has_one_way_to_be_written() {
    let quoted = |text: &str| {
        let mut out = String::new();
        quote(&mut out, text);
        out
    };
    assert_eq!(quoted("a\"\\\n\u{7f}\u{ff}"), r#""a\"\\\x0a\x7f\xff""#);
    assert_eq!(quoted("\u{100}\u{ffff}\u{10000}\u{10ffff}"), r#""\u0100\uffff\U00010000\U0010ffff""#);
}

#[test]
fn an_unchanged_entry_is_not_parsed_again() {
    let first = parse(rendered(&sample_blocked()).as_bytes(), None).expect("whole");
    let next = first
        .with(&[
            Edit::Put(artifact("n", Layout::File, &["n.gguf"]).into()),
            Edit::Unblock("w".parse().expect("a name")),
        ])
        .expect("put");
    let again = parse(rendered(&next).as_bytes(), Some(&first)).expect("whole");
    let kept = again.artifacts().zip(first.artifacts()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!((again.len(), kept), (3, 2));
    let kept = again.blocked().zip(first.blocked().skip(1)).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!((again.blocked().count(), kept), (2, 2));
}
