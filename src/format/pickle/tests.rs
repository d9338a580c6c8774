//! Pickles, sound and hostile, written opcode by opcode.

use super::*;
use crate::format::pickle::heap::{MAX_CONTAINERS, MAX_ITEMS, MAX_VALUES, Value};
use crate::format::pickle::machine::{MAX_MEMO, MAX_OPS, MAX_STACK, Machine};
use crate::format::tests::{mutations, no_hang};

/// The rules that a walk breaks, what is said, and the walk.
fn run(bytes: &[u8]) -> (Vec<&'static str>, String, Walk<'_>) {
    let mut findings = Findings::new();
    let path = "model.pkl".parse().expect("a path");
    let mut out = Out { path: &path, part: None, findings: &mut findings };
    let walk = walk(bytes, 0, &mut out).expect("no failure");
    if walk.root.is_some() {
        walk_trailing(bytes, walk.end, &mut out).expect("no failure");
    }
    let rules = findings.list().iter().map(|f| f.rule).collect();
    let said = findings.list().iter().map(|f| format!("{:?} {}: {}\n", f.place.offset, f.rule, f.message)).collect();
    (rules, said, walk)
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(300)].escape_ascii().to_string()
}

#[track_caller]
fn refused(bytes: &[u8], rule: &str, word: &str) {
    let (rules, said, _) = run(bytes);
    assert!(rules.contains(&rule) && said.contains(word), "{}: {rules:?}: {said}", shown(bytes));
}

#[track_caller]
fn sound(bytes: &[u8]) {
    let (rules, said, walk) = run(bytes);
    assert_eq!(rules, [""; 0], "{}: {said}", shown(bytes));
    assert!(walk.root.is_some() && walk.end == bytes.len());
}

#[test]
fn plain_values_pass_in_every_protocol() {
    for bytes in [
        b"N.".as_slice(),
        b"\x80\x02}.",
        b"\x80\x05\x95\x02\0\0\0\0\0\0\0}.",
        b"(lp0\nI1\naL2L\naF1.5\naS'a'\naVb\na.",
        b"(dp0\nS'k'\np1\nI01\ns.",
        b"\x80\x02](K\x01M\x02\x01J\xff\xff\xff\xff\x8a\x01\x05\x8b\x02\0\0\0\x01\x02G\0\0\0\0\0\0\0\0NN\x88\x89e.",
        b"\x80\x02(U\x01aT\x01\0\0\0bX\x01\0\0\0ct.",
        b"\x80\x04\x8c\x01a\x94\x8d\x01\0\0\0\0\0\0\0b\x86.",
        b"\x80\x03C\x01aB\x01\0\0\0b\x86.",
        b"\x80\x05\x8e\x01\0\0\0\0\0\0\0a\x96\x01\0\0\0\0\0\0\0b\x86.",
        b"\x80\x04\x8f(K\x01\x90.",
        b"\x80\x04(K\x01\x91.",
        b"(I1\nI2\nl.",
        b"N\x85NN\x86)\x87.",
        b"NN0.",
        b"(NN0t.",
        b"N(N1.",
        b"N(0.",
        b"N2\x86.",
        b"Nq\x05h\x05\x86.",
        b"Np7\ng7\n\x86.",
        b"Nr\x01\x01\0\0j\x01\x01\0\0\x86.",
        b"N\x94h\0\x86.",
        b"\x80\x02ccollections\nOrderedDict\n)R.",
        b"\x80\x02ccollections\nOrderedDict\n](](K\x01K\x02ee\x85R.",
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\0\0\0_metadata}sb.",
        b"\x80\x02ccollections\nCounter\n}\x85R.",
        b"\x80\x02ccollections\nCounter\n)R.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02c__builtin__\nset\n]K\x01a\x85R.",
        b"\x80\x02c__builtin__\nset\n)R.",
        b"\x80\x02c__builtin__\nbytearray\n)R.",
        b"\x80\x02c__builtin__\nbytearray\nc_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R\x85R.",
        b"\x80\x02c__builtin__\nbytearray\nX\x01\0\0\0aX\x07\0\0\0latin-1\x86R.",
        b"\x80\x02c__builtin__\ncomplex\nG\0\0\0\0\0\0\0\0G\0\0\0\0\0\0\0\0\x86R.",
        b"\x80\x02ctorch\nSize\nK\x02\x85\x85R.",
        b"\x80\x02ctorch\ndevice\nX\x03\0\0\0cpu\x85R.",
        b"\x80\x02ctorch\ndevice\nX\x04\0\0\0cudaK\x01\x86R.",
        b"\x80\x02ctorch.serialization\n_get_layout\nX\x01\0\0\0x\x85R.",
        b"\x80\x02ctorch\nfloat16\n.",
        b"(icollections\nOrderedDict\n.",
        b"(ccollections\nOrderedDict\no.",
        b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R.",
    ] {
        sound(bytes);
    }
}

#[test]
fn whatever_is_called_is_named() {
    for (bytes, name) in [
        (b"cos\nsystem\n(S'true'\ntR.".as_slice(), "os.system"),
        (b"\x80\x02cbuiltins\nexec\nX\x01\0\0\0a\x85R.", "builtins.exec"),
        (b"\x80\x02cpip\nmain\n]\x85R.", "pip.main"),
        (b"\x80\x02crunpy\n_run_code\n)R.", "runpy._run_code"),
        (
            b"\x80\x02casyncio.unix_events\n_UnixSubprocessTransport._start\n)R.",
            "asyncio.unix_events._UnixSubprocessTransport._start",
        ),
        (b"\x80\x02ctorch.hub\nload\n)R.", "torch.hub.load"),
        (b"\x80\x02ctorch\nload\n)R.", "torch.load"),
        (b"\x80\x02ctorch._utils\n_import_dotted_name\n)R.", "torch._utils._import_dotted_name"),
        (b"\x80\x02ctorch\n_utils._rebuild_tensor_v2\n)R.", "torch._utils._rebuild_tensor_v2"),
        (b"\x80\x02ccollections\nOrderedDict.fromkeys\n)R.", "collections.OrderedDict.fromkeys"),
        (b"\x80\x02cos\r\nsystem\r\n)R.", "os\\r.system\\r"),
        (b"\x80\x02cos\nsystem \n)R.", "os.system "),
        (b"\x80\x02c\xff\nsystem\n)R.", "\u{fffd}.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'true'\no.", "os.system"),
        (b"\x80\x02cos\nX\n)\x81.", "os.X"),
        (b"\x80\x04cos\nX\n)}\x92.", "os.X"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.", "os.system"),
        // The name out of the memo, in text that is not what it seems, or in Python 2's strings.
        (b"\x80\x04\x8c\x06systemq\x07\x8c\x02os\x94h\x07\x93)R0h\x07.", "os.system"),
        (b"\x80\x04V\\u006f\\u0073\nV\\U00000073ystem\n\x93)R.", "os.system"),
        (b"\x80\x04S'\\x6f\\163'\nS\"system\"\n\x93)R.", "os.system"),
        (b"\x80\x04U\x02osT\x06\0\0\0system\x93)R.", "os.system"),
        // Found through copies, other callables' arguments, and values that are thrown away.
        (b"\x80\x02cos\nsystem\n2)R0.", "os.system"),
        (b"\x80\x02Ncos\nsystem\nq\0)R0h\x000.", "os.system"),
        (b"\x80\x02ccollections\nOrderedDict\n)Rcos\nsystem\n)Rb.", "os.system"),
        (b"\x80\x02cos\nX\n}X\x01\0\0\0aK\x01sb.", "os.X"),
        (b"\x80\x02cos\nX\nNa.", "os.X"),
        // Arguments that are no tuple.
        (b"\x80\x02cos\nsystem\nNR.", "os.system"),
        (b"\x80\x02cos\nsystem\n\x82\x01R.", "os.system"),
    ] {
        refused(bytes, "pickle.call", &format!("calls {name}: loading it would run code"));
    }
}

#[test]
fn what_is_called_before_a_pickle_breaks_is_named_too() {
    for end in [b"".as_slice(), b"X\xff", b"\xff", b"0000", b"h\x63", b"\x98", b"q\0q\0"] {
        refused(&[b"cos\nsystem\n)R", end].concat(), "pickle.call", "calls os.system");
    }
}

#[test]
fn what_is_only_named_is_refused_too() {
    refused(b"cos\nsystem\n.", "pickle.global", "names os.system");
    refused(b"\x80\x02]ctorch\nTensor\na.", "pickle.global", "names torch.Tensor");
    refused(b"\x80\x04NN\x93.", "pickle.global", "cannot be known");
    refused(b"\x80\x04\x8c\x02osN\x93.", "pickle.global", "cannot be known");
    let many: Vec<u8> = (0..100).flat_map(|i| format!("cm{i}\nn\n0").into_bytes()).chain(*b"N.").collect();
    let (rules, said, _) = run(&many);
    assert_eq!(rules.len(), 16, "bounded");
    assert!(said.contains("m0.n"));
}

#[test]
fn callables_that_cannot_be_known_are_refused() {
    refused(b"\x80\x02\x82\x01)R.", "pickle.extension", "extension code 1");
    refused(b"\x80\x02\x83\x01\x01)R.", "pickle.extension", "extension code 257");
    refused(b"\x80\x02\x84\x01\0\0\x01)R.", "pickle.extension", "extension code 16777217");
    refused(b"\x80\x02\x82\x01)R.", "pickle.call", "cannot be known");
    refused(b"\x80\x02cos\nX\n)R)R.", "pickle.call", "cannot be known");
    refused(b"\x80\x02N)R.", "pickle.call", "no function");
    refused(b"\x80\x02(lR.", "pickle.stack", "empty stack");
    refused(b"\x80\x02ctorch\nFloatStorage\n)R.", "pickle.call", "a state dict of tensors only names");
    refused(b"\x80\x02ctorch\nfloat32\n)R.", "pickle.call", "only names");
    refused(b"\x80\x02ctorch\nFloatStorage\n)\x81.", "pickle.call", "makes an object");
    refused(b"\x80\x04ccollections\nOrderedDict\n)}K\x01K\x02s\x92.", "pickle.call", "named arguments");
    refused(b"\x80\x04ccollections\nOrderedDict\n)N\x92.", "pickle.call", "named arguments");
    refused(b"\x80\x02ccollections\nOrderedDict\nNR.", "pickle.call", "arguments that cannot be known");
    sound(b"\x80\x04ccollections\nOrderedDict\n)}\x92.");
}

#[test]
fn allowed_functions_take_only_what_torch_save_gives_them() {
    let text = |s: &str| [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
    for (global, args, name) in [
        ("collections\nOrderedDict", b"K\x01\x85".to_vec(), "OrderedDict"),
        ("collections\nOrderedDict", b"]Na\x85".to_vec(), "OrderedDict"),
        ("collections\nOrderedDict", b"]]\x86".to_vec(), "OrderedDict"),
        ("collections\nCounter", b"N\x85".to_vec(), "Counter"),
        ("collections\nCounter", b"}}\x86".to_vec(), "Counter"),
        ("builtins\nset", b"N\x85".to_vec(), "set"),
        ("builtins\nset", b"]]\x86".to_vec(), "set"),
        // Memory for a number of the file's choice.
        ("builtins\nbytearray", b"J\xff\xff\xff\x7f\x85".to_vec(), "bytearray"),
        ("builtins\nbytearray", b"NNN\x87".to_vec(), "bytearray"),
        ("builtins\nbytearray", [text("a"), text("zlib"), b"\x86".to_vec()].concat(), "bytearray"),
        ("builtins\ncomplex", b"NN\x86".to_vec(), "complex"),
        ("builtins\ncomplex", b"K\x01\x85".to_vec(), "complex"),
        ("_codecs\nencode", [text("a"), text("zlib"), b"\x86".to_vec()].concat(), "_codecs.encode"),
        ("_codecs\nencode", [b"N".to_vec(), text("latin1"), b"\x86".to_vec()].concat(), "_codecs.encode"),
        ("_codecs\nencode", [text("a"), b"\x85".to_vec()].concat(), "_codecs.encode"),
        ("torch\nSize", b"N\x85".to_vec(), "torch.Size"),
        ("torch\nSize", b"J\xff\xff\xff\xff\x85\x85".to_vec(), "torch.Size"),
        ("torch\nSize", b")".to_vec(), "torch.Size"),
        ("torch\ndevice", b"K\x01\x85".to_vec(), "torch.device"),
        ("torch\ndevice", [text("cpu"), b"J\xff\xff\xff\xff\x86".to_vec()].concat(), "torch.device"),
        ("torch\ndevice", b"NN\x86".to_vec(), "torch.device"),
        ("torch\ndevice", b")".to_vec(), "torch.device"),
        ("torch.serialization\n_get_layout", b"N\x85".to_vec(), "_get_layout"),
        ("torch.serialization\n_get_layout", b")".to_vec(), "_get_layout"),
        ("torch._utils\n_rebuild_tensor", b")".to_vec(), "_rebuild_tensor "),
        ("torch._utils\n_rebuild_tensor", b"(NK\x00))t".to_vec(), "_rebuild_tensor "),
        ("torch._utils\n_rebuild_tensor_v2", b")".to_vec(), "_rebuild_tensor_v2"),
        ("torch._utils\n_rebuild_tensor_v3", b")".to_vec(), "_rebuild_tensor_v3"),
        ("torch._utils\n_rebuild_qtensor", b")".to_vec(), "_rebuild_qtensor"),
        ("torch._utils\n_rebuild_parameter", b"N\x88}\x87".to_vec(), "_rebuild_parameter"),
        ("torch._utils\n_rebuild_parameter", b")".to_vec(), "_rebuild_parameter"),
    ] {
        let bytes = [b"\x80\x02c", global.as_bytes(), b"\n", &args, b"R."].concat();
        refused(&bytes, "pickle.arguments", name);
    }
    let (rules, ..) = run(b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n)R.");
    assert_eq!(rules, ["torch.sparse"]);
}

#[test]
fn only_the_metadata_of_an_ordered_dict_is_built() {
    for (object, state) in [
        (b"ccollections\nOrderedDict\n)R".as_slice(), b"}X\x01\0\0\0aNs".as_slice()),
        (b"ccollections\nOrderedDict\n)R", b"}"),
        (b"ccollections\nOrderedDict\n)R", b"N}X\x09\0\0\0_metadataNs\x86"),
        (b"ccollections\nOrderedDict\n)R", b"}X\x09\0\0\0_metadataNsX\x01\0\0\0aNs"),
        (b"}", b"}X\x09\0\0\0_metadataNs"),
        (b"N", b"}"),
        (b"ctorch\nFloatStorage\n", b"}"),
        (b"\x82\x01", b"}"),
    ] {
        refused(&[b"\x80\x02", object, state, b"b."].concat(), "pickle.build", "sets attributes");
    }
}

#[test]
fn containers_take_items_of_their_kind() {
    for (bytes, kind) in [
        (b"NNa.".as_slice(), "list"),
        (b"N(Ne.", "list"),
        (b"}Na.", "list"),
        (b"]NNs.", "dict"),
        (b"](NNu.", "dict"),
        (b"\x8fNa.", "list"),
        (b"](N\x90.", "set"),
        (b"ctorch\nSize\n)Na.", "list"),
    ] {
        refused(bytes, "pickle.container", kind);
    }
    refused(b"}(Nu.", "pickle.container", "key without a value");
    refused(b"(Nd.", "pickle.container", "key without a value");
}

#[test]
fn streams_that_are_cut_short_or_malformed_are_refused() {
    let whole = b"\x80\x02}(X\x01\0\0\0aU\x01bM\x01\x02J\0\0\0\0cm\nn\nS's'\nI1\nG\0\0\0\0\0\0\0\0u.";
    for end in 0..whole.len() {
        let (rules, said, _) = run(&whole[..end]);
        assert!(rules.contains(&"pickle.truncated"), "{end}: {rules:?} {said}");
    }
    for (bytes, rule, word) in [
        (b"X\xff\xff\xff\xffa.".as_slice(), "pickle.truncated", "without STOP"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.", "pickle.truncated", ""),
        (b"B\x02\0\0\0a", "pickle.truncated", ""),
        (b"T\xff\xff\xff\xffa.", "pickle.malformed", "negative (-1)"),
        (b"\x8b\xff\xff\xff\xffa.", "pickle.malformed", "negative (-1)"),
        (b"\x8c\x01\xff.", "pickle.text", "not UTF-8"),
        (b"X\x02\0\0\0\xc3(.", "pickle.text", "not UTF-8"),
        (b"\xff.", "pickle.malformed", "0xff is no opcode"),
        (b"\x99.", "pickle.malformed", "0x99 is no opcode"),
        (b"\0.", "pickle.malformed", "0x00 is no opcode"),
        (b"Ix\n.", "pickle.malformed", "number in text"),
        (b"I\n.", "pickle.malformed", "number in text"),
        (b"I-\n.", "pickle.malformed", "number in text"),
        (b"I0x10\n.", "pickle.malformed", "number in text"),
        (b"Fx\n.", "pickle.malformed", "float in text"),
        (b"Sa\n.", "pickle.malformed", "not quoted"),
        (b"S'\n.", "pickle.malformed", "not quoted"),
        (b"S'a\"\n.", "pickle.malformed", "not quoted"),
        (b"Np-1\n.", "pickle.malformed", "no number"),
        (b"\x97.", "pickle.buffer", "buffer from outside"),
        (b"N\x98.", "pickle.buffer", "buffer from outside"),
        (b"Pid\n.", "pickle.persistent", "stands in text"),
        (b"\x80\x06N.", "pickle.protocol", "protocol 6"),
        (b"\x80\xffN.", "pickle.protocol", "protocol 255"),
        (b"N\x80\x02.", "pickle.protocol", "within the pickle"),
        (b".", "pickle.stack", "empty stack"),
        (b"0.", "pickle.stack", "empty stack"),
        (b"2.", "pickle.stack", "empty stack"),
        (b"N\x86.", "pickle.stack", "empty stack"),
        (b"N(N\x86.", "pickle.stack", "empty stack"),
        (b"N(0.0", "pickle.trailing", "1 bytes follow"),
        (b"N(R.", "pickle.stack", "empty stack"),
        (b"]a.", "pickle.stack", "empty stack"),
        (b"N(2.", "pickle.stack", "empty stack"),
        (b"(q\0.", "pickle.stack", "empty stack"),
        (b"(.", "pickle.stack", "empty stack"),
        (b"t.", "pickle.stack", "looks for a mark"),
        (b"1.", "pickle.stack", "looks for a mark"),
        (b"NN.", "pickle.stack", "left over"),
        (b"(N.", "pickle.stack", "left over"),
        (b"h\0.", "pickle.memo", "entry 0 is read before"),
        (b"Nq\x01h\0.", "pickle.memo", "entry 0 is read before"),
        (b"j\xff\xff\xff\xff.", "pickle.memo", "entry 4294967295"),
        (b"Nq\0q\0.", "pickle.memo", "entry 0 is written twice"),
        (b"Nq\0\x94\x94q\x01.", "pickle.memo", "entry 1 is written twice"),
        (b"Nr\xff\xff\xff\xff.", "pickle.memo", "memory for all below"),
        (b"Np99999999999999\n.", "pickle.memo", "memory for all below"),
        (b"\x95\x03\0\0\0\0\0\0\0N.", "pickle.frame", "claims 3 bytes"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN.", "pickle.frame", "more than there are"),
        (b"\x95\x02\0\0\0\0\0\0\0K\x01.", "", ""),
        (b"\x95\0\0\0\0\0\0\0\0N.", "", ""),
        (b"\x95\0\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0N.", "", ""),
        (b"\x95\x01\0\0\0\0\0\0\0K\x01.", "pickle.frame", "crosses"),
        (b"\x95\x0b\0\0\0\0\0\0\0N\x95\x01\0\0\0\0\0\0\0.", "pickle.frame", "within a frame"),
        (b"\x95\x03\0\0\0\0\0\0\0N.N.", "pickle.frame", "before its frame"),
    ] {
        match rule {
            "" => sound(bytes),
            _ => refused(bytes, rule, word),
        }
    }
    let index = |n: usize| [b"Nr".as_slice(), &(n as u32).to_le_bytes(), b"."].concat();
    sound(&index(MAX_MEMO - 1));
    refused(&index(MAX_MEMO), "pickle.memo", "over 1048576");
    let digits = |n: usize| [b"L".as_slice(), &b"1".repeat(n), b"L\n."].concat();
    sound(&digits(4300));
    refused(&digits(4301), "pickle.malformed", "number in text");
}

#[test]
fn pickles_after_the_first_are_walked() {
    refused(b"N.cos\nsystem\n)R.", "pickle.trailing", "14 bytes follow");
    refused(b"N.cos\nsystem\n)R.", "pickle.call", "calls os.system");
    refused(b"N.N.N.cos\nsystem\n)R", "pickle.call", "calls os.system");
    refused(b"N.\0", "pickle.malformed", "0x00");
}

#[test]
fn numbers_and_text_come_out_as_python_reads_them() {
    for (bytes, value) in [
        (b"K\xff.".as_slice(), Value::Int(255)),
        (b"M\x01\x02.", Value::Int(513)),
        (b"J\xff\xff\xff\xff.", Value::Int(-1)),
        (b"\x8a\0.", Value::Int(0)),
        (b"\x8a\x01\xff.", Value::Int(-1)),
        (b"\x8a\x02\xff\0.", Value::Int(255)),
        (b"\x8a\x08\0\0\0\0\0\0\0\x80.", Value::Int(i64::MIN)),
        (b"I-12\n.", Value::Int(-12)),
        (b"I01\n.", Value::Bool(true)),
        (b"I00\n.", Value::Bool(false)),
        (b"L12L\n.", Value::Int(12)),
        (b"\x88.", Value::Bool(true)),
        (b"\x89.", Value::Bool(false)),
    ] {
        let (_, _, walk) = run(bytes);
        assert_eq!(walk.root.map(|root| walk.heap.value(root)), Some(value), "{}", bytes.escape_ascii());
    }
    for (bytes, text) in [
        (b"S'a\\n\\t\\r\\\\\\'\\x41\\101\\q'\n.".as_slice(), "a\n\t\r\\'AA\\q"),
        (b"S\"\\7\\12x\"\n.", "\u{7}\nx"),
        (b"S'\\u0041'\n.", "\\u0041"),
        (b"S'\\517\\777\\xc3\\xa9\\a\\b\\v\\f\\xz'\n.", "O\u{fffd}\u{e9}\x07\x08\x0b\x0c\u{fffd}"),
        (b"Va\\u0041\\U0001F600\\n\xe9\n.", "aA\u{1f600}\\n\u{e9}"),
        (b"V\\\\u0041\n.", "\\\\u0041"),
        (b"V\\ud800\n.", "\u{fffd}"),
        (b"V\\uzz\n.", "\u{fffd}z"),
        (b"U\x02ab.", "ab"),
    ] {
        let (_, _, walk) = run(bytes);
        assert_eq!(walk.root.and_then(|root| walk.heap.text(bytes, root)).as_deref(), Some(text));
    }
    let long = [b"X\x88\x13\0\0".as_slice(), &[b'a'; 5000], b"."].concat();
    let (_, _, walk) = run(&long);
    let text = walk.root.and_then(|root| walk.heap.text(&long, root)).expect("text");
    assert_eq!(text.len(), 4096, "more than any name");
}

#[test]
fn what_a_pickle_takes_is_bounded() {
    let (op, value) = (b'N', b'0');
    let pairs = |n: usize| [op, value].repeat(n);
    // Values: all of them made and thrown away.
    sound(&[pairs(MAX_VALUES - 1), b"N.".to_vec()].concat());
    refused(&[pairs(MAX_VALUES), b"N.".to_vec()].concat(), "pickle.limit", "values");
    // Opcodes.
    let ops = |n: usize| [b"N".as_slice(), &b"20".repeat((n - 2) / 2), b"."].concat();
    sound(&ops(MAX_OPS));
    refused(&ops(MAX_OPS + 2), "pickle.limit", "opcodes");
    // The stack.
    let copies = |n: usize| [b"(N".as_slice(), &b"2".repeat(n - 1), b"1N."].concat();
    sound(&copies(MAX_STACK));
    refused(&copies(MAX_STACK + 1), "pickle.limit", "stack");
    refused(&[b"(".repeat(MAX_STACK + 1), b"N.".to_vec()].concat(), "pickle.limit", "marks");
    // Items: a set of a list of all before, again and again.
    let list = [b"(".as_slice(), &b"N2".repeat(MAX_STACK / 4), b"lq\0"].concat();
    let sets = |n: usize| [list.clone(), b"0cbuiltins\nset\nh\0\x85R".repeat(n), b"0N.".to_vec()].concat();
    assert_eq!(MAX_ITEMS, 4 * (MAX_STACK / 2));
    sound(&sets(2));
    refused(&sets(3), "pickle.limit", "items");
    let lists = |n: usize| [b"]0".repeat(n - 1), b"].".to_vec()].concat();
    sound(&lists(MAX_CONTAINERS));
    refused(&lists(MAX_CONTAINERS + 1), "pickle.limit", "lists, dicts and sets");
}

#[test]
fn arguments_and_defects_are_bounded() {
    let args = |name: &str, n: usize| [b"c", name.as_bytes(), b"\n(", &b"N".repeat(n), b"tR."].concat();
    refused(&args("os\nsystem", 100), "pickle.call", "calls os.system");
    refused(&args("collections\nOrderedDict", 16), "pickle.arguments", "OrderedDict");
    refused(&args("collections\nOrderedDict", 17), "pickle.call", "cannot be known");
    for defect in [b"\x82\x010".as_slice(), b"cm\nn\n0"] {
        for (n, over) in [(256, false), (257, true)] {
            let (rules, said, _) = run(&[&defect.repeat(n), b"N.".as_slice()].concat());
            assert_eq!(rules.contains(&"pickle.limit") && said.contains("defects"), over, "{n}: {said}");
        }
    }
}

#[test]
fn items_of_all_containers_count_together() {
    for (bytes, tuples, others) in [
        (b"N\x85.".as_slice(), 1, 0),
        (b"(NNl.", 0, 2),
        (b"](NNe.", 0, 2),
        (b"]Na.", 0, 1),
        (b"\x8f(NNN\x90.", 0, 3),
        (b"}(K\x01N\x85u.", 1, 2),
        (b"ccollections\nOrderedDict\n](](K\x01K\x02ee\x85R.", 1, 5),
    ] {
        let heap = run(bytes).2.heap;
        assert_eq!((heap.items.len(), heap.grown), (tuples, others), "{}", shown(bytes));
    }
    let (path, mut findings) = ("model.pkl".parse().expect("a path"), Findings::new());
    let mut out = Out { path: &path, part: None, findings: &mut findings };
    let mut machine = Machine::new(b"", 0, &mut out);
    (machine.heap.items, machine.heap.grown) = (vec![0; 3], MAX_ITEMS - 5);
    assert!(machine.room(2).is_ok() && machine.room(3).is_err());
}

#[test]
fn a_finding_has_its_place_in_the_file_or_in_the_archives_member() {
    for (bytes, place) in [
        (b"N0\x82\x01.".as_slice(), "Some(2) pickle.extension"),
        (b"N0cos\nsystem\n.", "Some(2) pickle.global"),
        (b"NNa.", "Some(2) pickle.container"),
        (b"NX\x09\0\0\0abc", "Some(9) pickle.truncated"),
        (b"N\xff", "Some(1) pickle.malformed"),
        (b"N0T\xff\xff\xff\xff.", "Some(3) pickle.malformed"),
        (b"N\x8c\x01\xff.", "Some(3) pickle.text"),
        (b"N.N.", "Some(2) pickle.trailing"),
    ] {
        let said = run(bytes).1;
        assert!(said.contains(place), "{}: {said}", shown(bytes));
    }
    let (path, mut findings) = ("model.pt".parse().expect("a path"), Findings::new());
    let mut out = Out { path: &path, part: Some("a/data.pkl"), findings: &mut findings };
    walk(b"N0\x82\x010cos\nX\n.", 0, &mut out).expect("no failure");
    walk_trailing(b"N.N.", 2, &mut out).expect("no failure");
    let places: Vec<_> = findings.list().iter().map(|f| (f.rule, f.place.clone())).collect();
    let at = |offset| Place::part_at("a/data.pkl", offset);
    assert_eq!(places, [("pickle.extension", at(2)), ("pickle.global", at(5)), ("pickle.trailing", at(2))]);
}

#[test]
fn a_bare_pickle_has_a_size_at_most() {
    for (size, rules) in [(MAX_PICKLE, &["pickle.bare"][..]), (MAX_PICKLE + 1, &["pickle.limit", "pickle.bare"])] {
        let mut findings = Findings::new();
        bare(&"model.pkl".parse().expect("a path"), b"N.", size, &mut findings).expect("no failure");
        assert_eq!(findings.list().iter().map(|f| f.rule).collect::<Vec<_>>(), rules);
    }
}

/// What costs the most for its bytes: each would be quadratic if something were copied or looked at twice.
#[test]
fn no_pickle_takes_long() {
    let long = |n: usize| [b"X".as_slice(), &(n as u32).to_le_bytes(), &b"k".repeat(n), b"q\0"].concat();
    let list = [b"(".as_slice(), &b"N".repeat(400_000), b"lq\x010"].concat();
    let tuple = [b"(".as_slice(), &b"N".repeat(400_000), b"tq\x020"].concat();
    for (name, before, each, after) in [
        ("long text as a global", long(4 << 20), b"h\0h\0\x930".as_slice(), b".".as_slice()),
        ("long text as a persistent id", long(4 << 20), b"(h\0h\0h\0h\0h\0tQ0", b"."),
        ("long keys", [long(4 << 20), b"0}(".to_vec()].concat(), b"h\0N", b"u."),
        ("long keys of many dicts", [long(4 << 20), b"0](".to_vec()].concat(), b"}h\0Ns", b"e."),
        ("a long tuple as arguments", tuple.clone(), b"ccollections\nOrderedDict\nh\x02R0", b"N."),
        ("a long list of no pairs", list.clone(), b"ccollections\nOrderedDict\nh\x01\x85R0", b"N."),
        ("a long list as a set", list.clone(), b"cbuiltins\nset\nh\x01\x85R0", b"N."),
        ("a long list as a size", list, b"ctorch\nSize\nh\x01\x85R0", b"N."),
        ("names", b"".to_vec(), b"cmodule\nname\n0", b"N."),
        ("extensions", b"".to_vec(), b"\x82\x010", b"N."),
        ("calls", b"".to_vec(), b"cos\nX\n)R0", b"N."),
        ("marks", b"".to_vec(), b"(1", b"N."),
        ("dicts", b"](".to_vec(), b"}NNs", b"e."),
        ("bytes", b"](".to_vec(), b"C\x01a", b"e."),
    ] {
        let count = (8 << 20) / each.len();
        let bytes = [before, each.repeat(count), after.to_vec()].concat();
        let mut findings = Findings::new();
        let path = "a.pkl".parse().expect("a path");
        let mut out = Out { path: &path, part: None, findings: &mut findings };
        let values = no_hang(name, || {
            let walk = walk(&bytes, 0, &mut out).expect("no failure");
            if let Some(root) = walk.root {
                crate::format::torch::tensors_of(&walk, root, &mut out);
            }
            walk.heap.values.len()
        });
        assert!(values <= MAX_VALUES, "{name}: {values}");
    }
}

#[test]
fn billions_of_laughs_stay_a_few_bytes() {
    let bomb = [b"N".as_slice(), &b"22\x87".repeat(300_000), b"."].concat();
    let (_, _, walk) = no_hang("a tuple of tuples", || run(&bomb));
    assert!(walk.heap.values.len() <= 300_002, "{}", walk.heap.values.len());
}

#[test]
fn a_program_is_told_from_weights() {
    let path = "w".parse().expect("a path");
    for (bytes, program) in [
        (b"cos\nsystem\n)R.".as_slice(), true),
        (b"cos\nsystem\n)R.more weights", true),
        (b"\x80\x02\x82\x01.", true),
        (b"\x80\x02NN\x93.", true),
        (b"\x80\x02}.", false),
        (b"N.", false),
        (b"cos\nsystem\n)R", false),
        (b"", false),
        (&[0; 64], false),
    ] {
        assert_eq!(is_program(&path, bytes).expect("no failure"), program, "{}", bytes.escape_ascii());
    }
}

#[test]
fn no_mutation_of_a_pickle_panics() {
    let sound: [&[u8]; 3] = [
        b"\x80\x02ccollections\nOrderedDict\nq\0)Rq\x01(X\x01\0\0\0aq\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK\0K\x02K\x03\x86K\x03K\x01\x86\x89h\0)RtRu}X\x09\0\0\0_metadatah\0)Rsb.",
        b"(dp0\nS'a\\x41'\np1\n(lp2\nI1\naL2L\naF1.5\naVb\\u0041\nas(i__builtin__\nset\np3\n.",
        b"\x80\x05\x95\x20\0\0\0\0\0\0\0\x8c\x01a\x94\x8c\x02os\x93)\x92N0}(K\x01\x8e\x01\0\0\0\0\0\0\0xu\x8f(K\x01\x90\x86\x87..",
    ];
    for bytes in mutations(7, &sound, 60_000) {
        run(&bytes);
    }
}

/// C's strtol takes `010` for 8, Python fails on it: a storage of 10 elements would be one of 8.
#[test]
fn numbers_in_text_have_one_reading() {
    for number in ["I010", "I-010", "I-0", "I00000", "I002", "I5L", "L010L", "L00L", "L01", "L01L", "L-0L"] {
        let bytes = format!("{number}\n.");
        assert!(run(bytes.as_bytes()).0.contains(&"pickle.malformed"), "{number}");
    }
    for number in ["I0", "I00", "I01", "I10", "I-10", "L0", "L0L", "L10L", "L-1L"] {
        let bytes = format!("{number}\n.");
        assert!(!run(bytes.as_bytes()).0.contains(&"pickle.malformed"), "{number}");
    }
}
