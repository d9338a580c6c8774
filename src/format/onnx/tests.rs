//! ONNX files, sound and hostile, made field by field.

use super::*;
use crate::format::Candidate;
use crate::format::finding::Severity;

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

fn int(number: u32, n: i64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(n.cast_unsigned())].concat()
}

fn bytes(number: u32, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    [varint(u64::from(number) << 3 | 2), varint(body.len() as u64), body.to_vec()].concat()
}

fn entry(number: u32, key: &str, value: &str) -> Vec<u8> {
    bytes(number, [bytes(1, key), bytes(2, value)].concat())
}

fn node(op: &str, domain: &str, more: &[u8]) -> Vec<u8> {
    [bytes(4, op), bytes(7, domain), more.to_vec()].concat()
}

fn initializer(parts: &[Vec<u8>]) -> Vec<u8> {
    bytes(5, parts.concat())
}

/// A FLOAT tensor of two by three with its bytes.
fn weights(name: &str) -> Vec<u8> {
    initializer(&[int(1, 2), int(1, 3), int(2, 1), bytes(8, name), bytes(9, [0; 24])])
}

fn external(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut parts = vec![int(1, 2), int(1, 3), int(2, 1), bytes(8, "w"), int(14, 1)];
    parts.extend(pairs.iter().map(|(k, v)| entry(13, k, v)));
    initializer(&parts)
}

fn model(graph: &[Vec<u8>], more: &[Vec<u8>]) -> Vec<u8> {
    [
        int(1, 8),
        bytes(2, "test"),
        bytes(8, int(2, 17)),
        bytes(7, [bytes(2, "g"), graph.concat()].concat()),
        more.concat(),
    ]
    .concat()
}

fn look(file: &[u8]) -> (Description, Findings) {
    let mut findings = Findings::new();
    let d = inspect(&"dir/model.onnx".parse().expect("a path"), &file, &mut findings).expect("reads");
    (d, findings)
}

/// Exactly this rule, and the message says this.
fn refused(file: &[u8], rule: &str, word: &str) {
    let (_, findings) = look(file);
    let [one] = findings.list() else { panic!("{rule} {word:?}: {:#?}", findings.list()) };
    assert!(one.rule == rule && one.message.contains(word), "{rule} {word:?}: {one:?}");
}

fn sound(file: &[u8]) -> Description {
    let (d, findings) = look(file);
    assert_eq!(findings.list(), []);
    d
}

#[test]
fn an_ordinary_model_is_sound_and_described() {
    let mut file = model(
        &[weights("a"), bytes(1, node("Add", "", b"")), bytes(1, node("Gelu", "com.microsoft", b"")), weights("b")],
        &[entry(14, "author", "me"), bytes(3, "1.0"), int(5, 7)],
    );
    let d = sound(&file);
    assert_eq!(d.what, "ONNX, IR version 8, 2 nodes, 2 initializers");
    assert_eq!((d.metadata["metadata.author"].as_str(), d.metadata["opset.ai.onnx"].as_i64()), (Some("me"), Some(17)));
    assert_eq!((d.metadata["graph"].as_str(), d.metadata["model_version"].as_i64()), (Some("g"), Some(7)));
    assert_eq!((&d.metadata["producer_name"], &d.metadata["producer_version"]), (&json!("test"), &json!("1.0")));
    let names: Vec<_> =
        d.tensors.iter().map(|t| (t.name.as_str(), t.dtype.as_str(), t.shape.as_slice(), t.size_bytes)).collect();
    assert_eq!(names, [("a", "FLOAT", &[2, 3][..], 24), ("b", "FLOAT", &[2, 3], 24)]);
    let at = d.tensors[0].offset.expect("inline") as usize;
    assert_eq!(file[at..at + 24], [0; 24]);
    file[at] = 1;
    assert_eq!(sound(&file).tensors, d.tensors, "values are not looked at");
}

#[test]
fn every_element_type_has_its_size_inline_and_typed() {
    // Type, elements, raw bytes, typed field, values in it.
    for (t, n, raw, field, values) in [
        (1, 3, 12, 4, 3),
        (2, 3, 3, 5, 3),
        (3, 3, 3, 5, 3),
        (4, 3, 6, 5, 3),
        (5, 3, 6, 5, 3),
        (6, 3, 12, 5, 3),
        (7, 3, 24, 7, 3),
        (9, 3, 3, 5, 3),
        (10, 3, 6, 5, 3),
        (11, 3, 24, 10, 3),
        (12, 3, 12, 11, 3),
        (13, 3, 24, 11, 3),
        (14, 3, 24, 4, 6),
        (15, 3, 48, 10, 6),
        (16, 3, 6, 5, 3),
        (17, 3, 3, 5, 3),
        (18, 3, 3, 5, 3),
        (19, 3, 3, 5, 3),
        (20, 3, 3, 5, 3),
        (21, 3, 2, 5, 2),
        (22, 3, 2, 5, 2),
        (23, 3, 2, 5, 2),
        (24, 3, 3, 5, 3),
        (25, 5, 2, 5, 2),
        (26, 5, 2, 5, 2),
        (27, 5, 4, 5, 5),
        (28, 5, 4, 5, 5),
    ] {
        let head = [int(1, n), int(2, t), bytes(8, "w")];
        let file = |more: Vec<u8>| model(&[initializer(&[head.concat(), more])], &[]);
        sound(&file(bytes(9, vec![0; raw])));
        refused(&file(bytes(9, vec![0; raw - 1])), "onnx.size", "\"w\" has");
        refused(&file(bytes(9, vec![0; raw + 1])), "onnx.size", "call for");
        let packed = |n: usize| match field {
            4 => bytes(4, vec![0; 4 * n]),
            10 => bytes(10, vec![0; 8 * n]),
            _ => bytes(field, [0x80, 1].repeat(n)),
        };
        let single = |n: usize| match field {
            4 => [varint(4 << 3 | 5), vec![0; 4]].concat().repeat(n),
            10 => [varint(10 << 3 | 1), vec![0; 8]].concat().repeat(n),
            _ => int(field, 300).repeat(n),
        };
        sound(&file(packed(values)));
        sound(&file(single(values)));
        sound(&file([single(1), packed(values - 1)].concat()));
        for typed in [packed(values - 1), packed(values + 1), single(values - 1), single(values + 1)] {
            refused(&file(typed), "onnx.size", "values in");
        }
        let other = if field == 7 { bytes(5, [1, 1, 1]) } else { bytes(7, [1, 1, 1]) };
        refused(&file(other), "onnx.type", "where its type has them");
    }
    let text = |n: usize| model(&[initializer(&[int(1, 2), int(2, 8), bytes(8, "w"), bytes(6, "x").repeat(n)])], &[]);
    sound(&text(2));
    refused(&text(1), "onnx.size", "1 values in string_data");
    refused(&text(3), "onnx.size", "3 values in string_data");
}

#[test]
fn tensors_that_lie_are_refused() {
    let tensor = |parts: &[Vec<u8>]| model(&[initializer(&[bytes(8, "w"), parts.concat()])], &[]);
    sound(&tensor(&[int(2, 1), bytes(9, [0; 4])]));
    sound(&tensor(&[int(1, 0), int(2, 1)]));
    // Metadata that says what external data would say is metadata.
    sound(&tensor(&[int(2, 1), entry(16, "location", "x"), bytes(9, [0; 4])]));
    let constant = bytes(1, node("Constant", "", &bytes(5, bytes(5, [int(2, 1), bytes(9, [0; 4])].concat()))));
    assert_eq!(sound(&model(&[constant], &[])).metadata["constants"].as_i64(), Some(1));
    sound(&tensor(&[bytes(1, [2, 3]), int(2, 1), bytes(9, [0; 24])]));
    sound(&tensor(&[int(1, 1).repeat(64), int(2, 2), bytes(9, [0])]));
    let table: [(Vec<Vec<u8>>, &str, &str); 18] = [
        (vec![int(1, 1).repeat(65), int(2, 2), bytes(9, [0])], "onnx.shape", "over 64 dimensions"),
        (vec![int(1, -1), int(2, 1)], "onnx.shape", "negative"),
        (vec![int(1, i64::MAX), int(1, 2), int(2, 2)], "onnx.shape", "counted"),
        (vec![int(1, i64::MAX), int(1, i64::MAX), int(2, 1)], "onnx.shape", "counted"),
        (vec![int(1, i64::MAX), int(2, 15)], "onnx.shape", "counted"),
        (vec![int(1, 1 << 61), int(2, 2)], "onnx.shape", "counted"),
        (vec![int(1, (1 << 61) - 1), int(2, 2), bytes(9, [0])], "onnx.size", "2305843009213693951"),
        (vec![int(2, 0), bytes(9, [0])], "onnx.type", "type 0"),
        (vec![int(2, 29), bytes(9, [0])], "onnx.type", "type 29"),
        (vec![int(2, -1), bytes(9, [0])], "onnx.type", "type -1"),
        (vec![int(2, 1)], "onnx.size", "0 values"),
        (vec![int(1, 0), int(2, 1), bytes(9, [0])], "onnx.size", "1 bytes"),
        (vec![int(2, 8), bytes(9, [0])], "onnx.type", "of text and has raw bytes"),
        (vec![int(2, 1), bytes(9, [0; 4]), bytes(4, [0; 4])], "onnx.two-data", "twice"),
        (vec![int(2, 1), bytes(5, [0]), bytes(4, [0; 4])], "onnx.two-data", "twice"),
        (vec![int(2, 1), bytes(3, int(1, 0)), bytes(9, [0; 4])], "onnx.segment", "\"w\" comes in segments"),
        (vec![int(2, 1), int(14, 2), bytes(9, [0; 4])], "onnx.location", "data_location 2"),
        (vec![int(2, 1), entry(13, "location", "x"), bytes(9, [0; 4])], "onnx.external-unused", "names another file"),
    ];
    for (parts, rule, word) in table {
        refused(&tensor(&parts), rule, word);
    }
    refused(&model(&[weights("w"), weights("w")], &[]), "onnx.duplicate-tensor", "\"w\"");
    refused(&tensor(&[int(2, 1), bytes(4, [0; 3])]), "onnx.malformed", "type");
    refused(&model(&[initializer(&[int(2, 11), bytes(10, [0; 7])])], &[]), "onnx.malformed", "type");
    refused(&tensor(&[int(2, 1), bytes(4, [0; 4]), bytes(5, [0x80])]), "onnx.malformed", "packed number");
    // Tensors of attributes, of functions and of sparse tensors are looked at just so.
    let bad = [int(1, -1), int(2, 1)].concat();
    let attribute = |number| bytes(5, bytes(number, &bad));
    refused(&model(&[bytes(1, node("Constant", "", &attribute(5)))], &[]), "onnx.shape", "negative");
    refused(&model(&[bytes(1, node("Constant", "", &attribute(10)))], &[]), "onnx.shape", "negative");
    let function = [bytes(1, "f"), bytes(10, "local"), bytes(7, node("Constant", "", &attribute(5)))].concat();
    refused(&model(&[], &[bytes(25, function)]), "onnx.shape", "negative");
    let (_, findings) = look(&model(&[bytes(15, bytes(1, &bad))], &[]));
    assert!(findings.has("onnx.shape") && findings.has("onnx.sparse"));
}

#[test]
fn sparse_initializers_are_named_and_share_the_names() {
    let sparse = |name| bytes(15, bytes(1, [int(1, 1), int(2, 1), bytes(8, name), bytes(9, [0; 4])].concat()));
    refused(&model(&[sparse("s")], &[]), "onnx.sparse", "indices");
    let duplicate = |graph: &[Vec<u8>]| look(&model(graph, &[])).1.has("onnx.duplicate-tensor");
    assert!(duplicate(&[weights("w"), sparse("w")]));
    // In a branch as well; a branch has names of its own.
    let branch = |graph: &[Vec<u8>]| bytes(1, node("If", "", &bytes(5, bytes(6, graph.concat()))));
    assert!(duplicate(&[branch(&[sparse("w"), sparse("w")])]) && !duplicate(&[sparse("w"), branch(&[sparse("w")])]));
    // The indices bear no name.
    let values = bytes(1, [int(1, 1), int(2, 1), bytes(8, "a"), bytes(9, [0; 4])].concat());
    let indexed = |name: &str| {
        let indices = bytes(2, [int(1, 1), int(2, 7), bytes(8, name), bytes(9, [0; 8])].concat());
        bytes(15, [values.clone(), indices].concat())
    };
    assert!(!duplicate(&[indexed("a")]));
}

#[test]
fn external_data_stays_below_the_folder() {
    let file = |pairs: &[(&str, &str)]| model(&[external(pairs)], &[]);
    let location = |l: &str| file(&[("location", l)]);
    for name in ["w.bin", "sub/w.data", "a..b", "w", "..w/x", "a:b", "x~y"] {
        // A colon second is a drive.
        if name == "a:b" {
            continue;
        }
        let d = sound(&location(name));
        let Facts::External(reads) = d.facts else { panic!("{name}") };
        assert_eq!(reads.into_iter().collect::<Vec<_>>(), [(name.to_owned(), 24)]);
        assert_eq!((d.tensors[0].offset, d.tensors[0].size_bytes), (None, 24));
    }
    for (name, word) in [
        ("", "empty"),
        ("..", ".."),
        ("../w", ".."),
        ("a/../../w", ".."),
        ("/etc/passwd", "absolute"),
        ("..\\w", "backslash"),
        ("a\\w", "backslash"),
        ("C:w", "drive"),
        ("c:/w", "drive"),
        ("http://x/w", "URL"),
        ("file:w", "URL"),
        ("~/w", "home"),
        ("a\0b", "NUL"),
        ("./w", "plain"),
        ("a//w", "plain"),
        ("a/", "plain"),
        (&"a".repeat(1021), "1020"),
    ] {
        refused(&location(name), "onnx.external-path", word);
    }
    sound(&location(&"a".repeat(1020)));
    refused(&file(&[("offset", "0")]), "onnx.external-path", "does not say in which");
    refused(&location("*/_ORT_MEM_ADDR_/*"), "onnx.external-memory", "address");
    refused(&location("model.onnx"), "onnx.external-self", "the model itself");
    refused(&location("Model.ONNX"), "onnx.external-self", "the model itself");
    refused(&file(&[("location", "w"), ("location", "v")]), "onnx.external-duplicate", "twice");
    refused(&file(&[("location", "w"), ("__class__", "v")]), "onnx.external-key", "__class__");
    refused(&file(&[("location", "w"), ("basepath", "/")]), "onnx.external-key", "basepath");
    sound(&file(&[("location", "w"), ("offset", "4096"), ("length", "24"), ("checksum", "00")]));
    refused(&file(&[("location", "w"), ("length", "23")]), "onnx.size", "23 bytes in \"w\"");
    refused(&file(&[("location", "w"), ("length", "25")]), "onnx.size", "25 bytes in \"w\"");
    for bad in ["-1", "+1", "1.0", "0x10", " 1", "1_0", "", "9223372036854775808", "00000000000000000001"] {
        refused(&file(&[("location", "w"), ("offset", bad)]), "onnx.external-range", "offset");
        refused(&file(&[("location", "w"), ("length", bad)]), "onnx.external-range", "length");
    }
    let offset = |n: i64| file(&[("location", "w"), ("offset", &n.to_string())]);
    sound(&offset(i64::MAX - 24));
    refused(&offset(i64::MAX - 23), "onnx.external-range", "63 bits");
    let many = |n: usize| {
        let pairs: Vec<_> = (0..n).map(|_| ("checksum", "0")).chain([("location", "w")]).collect();
        look(&file(&pairs)).1.has("onnx.external-key")
    };
    assert!(!many(15) && many(16));
}

#[test]
fn external_tensors_have_a_type_and_nothing_inline() {
    let tensor = |parts: &[Vec<u8>]| {
        model(&[initializer(&[bytes(8, "w"), int(14, 1), entry(13, "location", "w.bin"), parts.concat()])], &[])
    };
    sound(&tensor(&[int(2, 1)]));
    refused(&tensor(&[]), "onnx.untyped", "no element type");
    refused(&tensor(&[int(2, 99)]), "onnx.type", "99");
    refused(&tensor(&[int(2, 8)]), "onnx.type", "text");
    refused(&tensor(&[int(2, 1), bytes(9, [0; 4])]), "onnx.two-data", "another file");
    refused(&tensor(&[int(2, 1), bytes(4, [0; 4])]), "onnx.two-data", "another file");
}

fn set(files: &[(&str, Description, u64)]) -> Findings {
    let candidate = |(path, description, size_bytes): &(&str, Description, u64)| Candidate {
        path: path.parse().expect("a path"),
        size_bytes: *size_bytes,
        description: description.clone(),
    };
    let files: Vec<_> = files.iter().map(candidate).collect();
    let mut findings = Findings::new();
    check_external(&files, &mut findings);
    findings
}

#[test]
fn what_is_read_from_other_files_must_be_there() {
    let reads = |l: &str, o: &str| look(&model(&[external(&[("location", l), ("offset", o)])], &[])).0;
    let raw = || Description::new(FileKind::Companion, "raw");
    let one = |findings: Findings, rule: &str, word: &str| {
        let [one] = findings.list() else { panic!("{rule}: {findings:?}") };
        assert!(one.rule == rule && one.message.contains(word), "{one:?}");
    };
    let m = "dir/model.onnx";
    assert_eq!(set(&[(m, reads("w.bin", "8"), 9), ("dir/w.bin", raw(), 32)]).list(), []);
    assert_eq!(set(&[("model.onnx", reads("d/w.bin", "8"), 9), ("d/w.bin", raw(), 32)]).list(), []);
    one(
        set(&[(m, reads("w.bin", "8"), 9), ("dir/w.bin", raw(), 31)]),
        "onnx.external-short",
        "up to byte 32, and it has 31",
    );
    one(set(&[(m, reads("w.bin", "8"), 9), ("dir/w.bin", raw(), 33)]), "onnx.external-rest", "1 bytes after byte 32");
    one(set(&[(m, reads("w.bin", "8"), 9), ("w.bin", raw(), 32)]), "onnx.external-missing", "not in the set");
    one(set(&[(m, reads("w.bin", "8"), 9), ("dir/W.bin", raw(), 32)]), "onnx.external-missing", "w.bin");
    one(set(&[(m, reads("w bin", "8"), 9)]), "onnx.external-missing", "w bin");
    let model = Description::new(FileKind::Model(Format::Gguf), "GGUF");
    one(set(&[(m, reads("w.gguf", "8"), 9), ("dir/w.gguf", model, 32)]), "onnx.external-model", "w.gguf");
    // Two models may share a file; what one of them reads is no rest.
    let both = [(m, reads("w.bin", "8"), 9), ("dir/b.onnx", reads("w.bin", "40"), 9), ("dir/w.bin", raw(), 64)];
    assert_eq!(set(&both).list(), []);
    for (path, description, _) in both {
        let names = external_names(&path.parse().expect("a path"), &description);
        let expected: &[&str] = if path.ends_with(".onnx") { &["dir/w.bin"] } else { &[] };
        assert_eq!(names.iter().map(RelPath::as_str).collect::<Vec<_>>(), expected);
    }
    // The furthest end counts, whatever the order.
    let two = |a: &str, b: &str| {
        let t = |name, o| {
            let parts = [int(2, 1), bytes(8, name), int(14, 1), entry(13, "location", "w"), entry(13, "offset", o)];
            initializer(&parts)
        };
        sound(&super::tests::model(&[t("a", a), t("b", b)], &[]))
    };
    for d in [two("0", "12"), two("12", "0")] {
        assert!(matches!(d.facts, Facts::External(reads) if reads["w"] == 16));
    }
}

#[test]
fn the_file_of_the_index_is_a_finding_that_a_policy_may_allow() {
    let file = include_bytes!("../../../tests/data/hostile/o03_extdata_self.onnx");
    let mut findings = Findings::new();
    inspect(&"o03_extdata_self.onnx".parse().expect("a path"), &file.as_slice(), &mut findings).expect("reads");
    assert!(findings.has("onnx.external-self"));
    assert!(findings.list().iter().all(|f| f.severity <= Severity::High), "{findings:?}");
}

#[test]
fn operators_that_need_code_are_named() {
    let with = |n: Vec<u8>, more: &[Vec<u8>]| model(&[bytes(1, n)], more);
    for domain in ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview"] {
        sound(&with(node("Any", domain, b""), &[]));
    }
    refused(&with(node("Op", "mine", b""), &[]), "onnx.custom-op", "\"Op\" of the domain \"mine\"");
    refused(&with(node("PyOp", "ai.onnx.contrib", b""), &[]), "onnx.custom-op", "native library");
    refused(&with(node("PythonOp", "com.microsoft", b""), &[]), "onnx.native-op", "Python");
    refused(&with(node("EPContext", "com.microsoft", b""), &[]), "onnx.native-op", "engine");
    refused(&with(node("ATen", "org.pytorch.aten", b""), &[]), "onnx.native-op", "PyTorch");
    // A function of the model's own is no such thing, by its domain, name and overload.
    let function = |overload: &str| bytes(25, [bytes(1, "Op"), bytes(10, "mine"), bytes(13, overload)].concat());
    sound(&with(node("Op", "mine", b""), &[function("")]));
    sound(&with(node("Op", "mine", &bytes(8, "x")), &[function("x")]));
    refused(&with(node("Op", "mine", b""), &[function("x")]), "onnx.custom-op", "\"Op\"");
    // A runtime that has the operator itself takes its own.
    let own = |name: &str, domain: &str| bytes(25, [bytes(1, name), bytes(10, domain)].concat());
    sound(&with(node("Any", "com.microsoft", b""), &[own("Any", "com.microsoft")]));
    for (name, domain) in [("PythonOp", "com.microsoft"), ("EPContext", "com.microsoft"), ("ATen", "org.pytorch.aten")]
    {
        refused(&with(node(name, domain, b""), &[own(name, domain)]), "onnx.native-op", name);
    }
    // Inside of If, Loop and Scan as well.
    let inner = bytes(5, bytes(6, bytes(1, node("Op", "mine", b""))));
    refused(&with(node("If", "", &inner), &[]), "onnx.custom-op", "\"Op\"");
    let d = sound(&with(node("If", "", &bytes(5, bytes(11, weights("x")))), &[]));
    assert_eq!(
        (d.tensors.len(), d.metadata["constants"].as_i64()),
        (0, Some(1)),
        "a branch's weights are not the model's"
    );
}

fn function(name: &str, calls: &[&str]) -> Vec<u8> {
    let calls: Vec<u8> = calls.iter().flat_map(|c| bytes(7, node(c, "l", b""))).collect();
    bytes(25, [bytes(1, name), bytes(10, "l"), calls].concat())
}

#[test]
fn functions_that_call_each_other_in_a_circle_are_refused() {
    sound(&model(&[], &[function("a", &["b", "c"]), function("b", &["c", "c"]), function("c", &[])]));
    refused(&model(&[], &[function("a", &["a"])]), "onnx.recursion", "\"a\"");
    // One that also calls a function that is in no circle.
    let leaf = [function("a", &[]), function("b", &["a", "b"])];
    refused(&model(&[], &leaf), "onnx.recursion", "\"b\"");
    assert_eq!(look(&model(&[], &leaf)).0.metadata["functions"].as_i64(), Some(2));
    for order in [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]] {
        let more: Vec<_> = order
            .iter()
            .map(|f| match *f {
                "a" => function("a", &["b"]),
                "b" => function("b", &["c"]),
                _ => function("c", &["b"]),
            })
            .collect();
        let (_, findings) = look(&model(&[], &more));
        let [one] = findings.list() else { panic!("{findings:?}") };
        assert!(one.rule == "onnx.recursion" && !one.message.contains("\"a\""), "a is not in the circle: {one:?}");
    }
    // Inside of a subgraph as well.
    let inside = bytes(5, bytes(6, bytes(1, node("f", "l", b""))));
    let f = bytes(25, [bytes(1, "f"), bytes(10, "l"), bytes(7, node("If", "", &inside))].concat());
    refused(&model(&[], &[f]), "onnx.recursion", "\"f\"");
    refused(&model(&[], &[function("a", &[]), function("a", &[])]), "onnx.duplicate-function", "\"a\"");
}

#[test]
fn functions_that_expand_without_measure_are_refused() {
    // Each calls the next ten times.
    let chain = |depth: usize, first: usize| {
        let more: Vec<_> = (0..depth)
            .map(|i| match i + 1 == depth {
                true => function(&format!("f{i}"), &[]),
                false => function(&format!("f{i}"), &[format!("f{}", i + 1).as_str(); 10]),
            })
            .collect();
        let calls: Vec<_> = (0..first).map(|_| bytes(1, node("f0", "l", b""))).collect();
        model(&calls, &more)
    };
    sound(&chain(8, 1));
    refused(&chain(8, 2), "onnx.expansion", "20000000 nodes");
    refused(&chain(40, 1), "onnx.expansion", "nodes");
}

#[test]
fn the_model_itself_is_whole() {
    let graph = bytes(7, bytes(2, "g"));
    let opset = bytes(8, int(2, 17));
    sound(&[int(1, 1), opset.clone(), graph.clone()].concat());
    sound(&[int(1, 14), opset.clone(), graph.clone()].concat());
    refused(&[int(1, 15), opset.clone(), graph.clone()].concat(), "onnx.new-ir-version", "15");
    refused(&[int(1, 0), opset.clone(), graph.clone()].concat(), "onnx.ir-version", "0");
    refused(&[int(1, -1), opset.clone(), graph.clone()].concat(), "onnx.ir-version", "-1");
    refused(&[opset.clone(), graph.clone()].concat(), "onnx.ir-version", "does not state");
    refused(&[int(1, 8), opset.clone()].concat(), "onnx.no-graph", "no graph");
    // A graph elsewhere is not the model's.
    let inner = bytes(7, node("If", "", &bytes(5, bytes(6, bytes(2, "inner")))));
    let function = bytes(25, [bytes(1, "f"), bytes(10, "l"), inner].concat());
    refused(&[int(1, 8), opset.clone(), function.clone()].concat(), "onnx.no-graph", "no graph");
    let d = sound(&[int(1, 8), opset.clone(), graph.clone(), function].concat());
    assert_eq!(d.metadata["graph"].as_str(), Some("g"));
    refused(&[int(1, 8), graph.clone()].concat(), "onnx.opset", "no operator set");
    let twice =
        [int(1, 8), opset.clone(), bytes(8, [bytes(1, "ai.onnx"), int(2, 18)].concat()), graph.clone()].concat();
    refused(&twice, "onnx.opset", "17 and 18");
    sound(&[int(1, 8), opset.clone(), opset.clone(), graph.clone()].concat());
    refused(&[int(1, 8), int(1, 8), opset.clone(), graph.clone()].concat(), "onnx.duplicate-field", "ir_version");
    refused(&model(&[], std::slice::from_ref(&graph)), "onnx.duplicate-field", "graph");
    refused(&model(&[], &[bytes(27, "x")]), "onnx.unknown-field", "field 27");
    refused(&model(&[bytes(3, "x")], &[]), "onnx.unknown-field", "GraphProto has a field 3");
    refused(&model(&[], &[bytes(20, b"")]), "onnx.training", "training");
    refused(&model(&[], &[entry(14, "k", "1"), entry(14, "k", "2")]), "onnx.metadata", "\"k\"");
    refused(&model(&[], &[bytes(4, b"\xff")]), "onnx.text", "domain of ModelProto");
    refused(&model(&[bytes(1, node("a\u{e9}", "", &bytes(3, b"\xc3")))], &[]), "onnx.text", "name of NodeProto");
    refused(&[int(1, 8), int(7, 1)].concat(), "onnx.malformed", "ModelProto at byte 2");
}

#[test]
fn two_names_that_are_not_utf8_are_two() {
    let named = |name: &[u8]| initializer(&[int(1, 0), int(2, 1), bytes(8, name)]);
    let (d, findings) = look(&model(&[named(b"\xff"), named(b"\xfe")], &[]));
    assert_eq!(findings.list().iter().map(|f| f.rule).collect::<Vec<_>>(), ["onnx.text", "onnx.text"]);
    assert_ne!(d.tensors[0].name, d.tensors[1].name);
}

#[test]
fn long_names_are_named() {
    let named = |n: usize| model(&[weights(&"x".repeat(n))], &[]);
    sound(&named(NAME));
    refused(&named(NAME + 1), "onnx.long-name", "4096");
    sound(&model(&[], &[bytes(6, "x".repeat(NAME + 1))]));
}

#[test]
fn defects_are_bounded() {
    // The first is none.
    let many = |n: u32| look(&model(&[initializer(&[int(1, 0), int(2, 1)]).repeat(n as usize)], &[])).1;
    let findings = many(DEFECTS + 10);
    assert!(findings.has("onnx.too-much") && findings.has("onnx.duplicate-tensor"));
    assert_eq!(findings.list().len() as u64 + findings.dropped(), u64::from(DEFECTS) + 1);
    assert!(many(DEFECTS + 1).has("onnx.too-much") && !many(DEFECTS).has("onnx.too-much"));
    // Fields that nobody knows are counted, not noted.
    let (_, findings) = look(&model(&[], &[int(100, 1).repeat(DEFECTS as usize + 100)]));
    assert_eq!((findings.list().len(), findings.dropped()), (16, 0));
}

#[test]
fn what_is_kept_is_bounded() {
    let distinct: Vec<u8> =
        (0..200_000).flat_map(|i: u32| initializer(&[int(1, 0), int(2, 1), bytes(8, i.to_string())])).collect();
    let (d, findings) = look(&model(&[distinct], &[]));
    assert!(findings.has("onnx.too-much") && d.tensors.len() > 90_000 && d.tensors.len() < 160_000);
    let ops: Vec<u8> = (0..200_000).flat_map(|i: u32| bytes(1, node(&i.to_string(), "", b""))).collect();
    assert!(look(&model(&[ops], &[])).1.has("onnx.too-much"));
    // Empty messages take two bytes each and cost time.
    let empty = |number, n| look(&model(&[bytes(number, b"").repeat(n)], &[])).1.has("onnx.too-much");
    assert!(!empty(1, 1_500_000) && empty(1, 1_600_000), "nodes");
    assert!(!empty(13, 6_000_000) && empty(13, 6_400_000), "others");
}

/// A file that is as long as it says and holds nothing.
struct Long(u64);

impl Input for Long {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_at(&self, _: u64, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        Ok(())
    }
}

#[test]
fn two_gib_are_the_limit_of_protobuf() {
    for (size, large) in [(MAX_MESSAGE, false), (MAX_MESSAGE + 1, true)] {
        let mut findings = Findings::new();
        inspect(&"a.onnx".parse().expect("a path"), &Long(size), &mut findings).expect("reads");
        assert_eq!(findings.has("onnx.too-large"), large);
        assert_eq!(findings.has("onnx.malformed"), !large, "it is looked at");
    }
}

#[test]
fn messages_nest_to_a_depth_and_no_deeper() {
    let nested = |n: usize| (0..n).fold(Vec::new(), |inner, _| bytes(1, node("If", "", &bytes(5, bytes(6, inner)))));
    sound(&model(&[nested(32)], &[]));
    refused(&model(&[nested(33)], &[]), "onnx.malformed", "100 deep");
}

#[test]
fn mutations_of_a_sound_model_neither_panic_nor_hang() {
    let inner = bytes(5, [bytes(1, "then"), bytes(6, bytes(1, node("Op", "mine", b""))), int(20, 5)].concat());
    let file = model(
        &[weights("a"), external(&[("location", "w"), ("offset", "4096")]), bytes(1, node("If", "", &inner))],
        &[function("f", &["g"]), function("g", &[]), entry(14, "k", "v")],
    );
    for at in 0..file.len() {
        for byte in [0, 1, 7, 8, 0x0a, 0x12, 0x2a, 0x3a, 0x7f, 0x80, 0xff, file[at] ^ 1, file[at] ^ 2, file[at] ^ 4] {
            let mut bad = file.clone();
            bad[at] = byte;
            let (a, b) = (look(&bad), look(&bad));
            assert_eq!(a.1.list(), b.1.list());
            assert_eq!(a.0.tensors, b.0.tensors);
        }
        assert!(!look(&file[..at]).1.list().is_empty(), "cut at {at}");
    }
}
