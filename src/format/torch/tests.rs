//! What torch.save writes, in each of its forms, and what it does not.

use super::*;
use crate::format::tests::mutations;
use crate::format::zip::tests::{Entry, build, entry, torch_entry};

/// A tensor of a state dict that is to be written.
#[derive(Clone)]
pub(super) struct Spec {
    name: &'static str,
    class: &'static str,
    key: &'static str,
    count: i32,
    offset: i32,
    shape: Vec<i32>,
    stride: Vec<i32>,
}

pub(super) fn spec(name: &'static str, class: &'static str, key: &'static str, shape: &[i32]) -> Spec {
    let stride: Vec<i32> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
    Spec { name, class, key, count: shape.iter().product(), offset: 0, shape: shape.to_vec(), stride }
}

fn text(s: &str) -> Vec<u8> {
    [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

fn int(n: i32) -> Vec<u8> {
    [b"J".as_slice(), &n.to_le_bytes()].concat()
}

fn ints(of: &[i32]) -> Vec<u8> {
    [b"(".to_vec(), of.iter().flat_map(|n| int(*n)).collect(), b"t".to_vec()].concat()
}

/// Opcodes that leave the tensor on the stack, as torch.save writes them; `legacy` adds the view.
fn tensor(spec: &Spec, legacy: bool) -> Vec<u8> {
    let view: &[u8] = if legacy { b"N" } else { b"" };
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{}\n", spec.class).into_bytes(),
        text(spec.key),
        text("cpu"),
        int(spec.count),
        view.to_vec(),
        b"tQ".to_vec(),
        int(spec.offset),
        ints(&spec.shape),
        ints(&spec.stride),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

pub(super) fn state_dict(specs: &[Spec], legacy: bool) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\nq\0)Rq\x01(".to_vec();
    for spec in specs {
        out.extend(text(spec.name));
        out.extend(tensor(spec, legacy));
    }
    out.extend(b"u}q\x02X\x09\0\0\0_metadataq\x03h\0)Rq\x04sb.");
    out
}

fn entries(object: &[u8], storages: &[(&str, usize)]) -> Vec<Entry> {
    let mut all = vec![
        torch_entry("archive/data.pkl", object),
        torch_entry("archive/.format_version", b"1"),
        torch_entry("archive/.storage_alignment", b"64"),
        torch_entry("archive/byteorder", b"little"),
    ];
    all.extend(storages.iter().map(|(key, size)| torch_entry(&format!("archive/data/{key}"), &vec![3; *size])));
    all.push(torch_entry("archive/version", b"3\n"));
    all.push(torch_entry("archive/.data/serialization_id", b"0123456789012345678901234567890123456789"));
    all
}

fn specs() -> [Spec; 3] {
    [
        spec("w", "FloatStorage", "0", &[2, 3]),
        spec("b", "HalfStorage", "1", &[4]),
        spec("empty", "LongStorage", "2", &[0]),
    ]
}

const SIZES: [(&str, usize); 3] = [("0", 24), ("1", 8), ("2", 0)];

pub(super) fn sound() -> Vec<Entry> {
    entries(&state_dict(&specs(), false), &SIZES)
}

/// Rules, messages and the description.
#[track_caller]
pub(super) fn look(bytes: &[u8]) -> (Vec<&'static str>, String, Description) {
    let mut findings = Findings::new();
    let path = "model.pt".parse().expect("a path");
    let description = inspect(&path, &bytes, &mut findings).expect("no failure");
    let rules = findings.list().iter().map(|f| f.rule).collect();
    let said = findings.list().iter().map(|f| format!("{} {:?}: {}\n", f.rule, f.place, f.message)).collect();
    (rules, said, description)
}

fn zipped(entries: &[Entry]) -> (Vec<&'static str>, String, Description) {
    look(&build(entries, true).bytes)
}

#[test]
fn a_state_dict_is_described_and_without_findings() {
    let (rules, said, description) = zipped(&sound());
    assert_eq!(rules, [""; 0], "{said}");
    assert_eq!(description.what, "PyTorch state dict, 3 tensors in 3 storages, zip");
    let told: Vec<_> = description.tensors.iter().map(|t| (t.name.as_str(), t.dtype.as_str(), t.size_bytes)).collect();
    assert_eq!(told, [("w", "FloatStorage", 24), ("b", "HalfStorage", 8), ("empty", "LongStorage", 0)]);
    assert_eq!(description.tensors[0].shape, [2, 3]);
    assert_eq!(description.kind, Kind::Model(Format::Pytorch));
}

#[test]
fn the_old_stream_form_is_described_and_without_findings() {
    let (rules, said, description) = look(&stream(&specs(), &SIZES));
    assert_eq!(rules, [""; 0], "{said}");
    assert_eq!(description.what, "PyTorch state dict, 3 tensors, in one stream");
    assert_eq!(description.tensors.len(), 3);
}

/// The stream form.
fn stream(specs: &[Spec], storages: &[(&str, usize)]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    out.extend(b"\x80\x02}(");
    out.extend([text("protocol_version"), b"M\xe9\x03".to_vec(), text("little_endian"), b"\x88".to_vec()].concat());
    out.extend([text("type_sizes"), b"}(".to_vec(), text("short"), b"K\x02".to_vec()].concat());
    out.extend([text("int"), b"K\x04".to_vec(), text("long"), b"K\x04uu.".to_vec()].concat());
    out.extend(state_dict(specs, true));
    out.extend(b"\x80\x02](");
    out.extend(storages.iter().flat_map(|(key, _)| text(key)));
    out.extend(b"e.");
    for ((_, size), spec) in storages.iter().zip(specs) {
        out.extend((spec.count as u64).to_le_bytes());
        out.extend(vec![3; *size]);
    }
    out
}

#[test]
fn the_hostile_cases_get_their_verdicts() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hostile");
    for (file, rule, word) in [
        ("p00_raw.pkl", "pickle.call", "calls os.system: loading it would run code"),
        ("p04_no_stop.pkl", "pickle.truncated", "without STOP"),
        ("p05_ext1.pkl", "pickle.extension", "extension code 1"),
        ("p09_timeit.pkl", "pickle.call", "calls timeit.timeit: loading it would run code"),
        ("p10_torch.pt", "pickle.call", "calls os.system"),
        ("p14_prefix_junk.pt", "zip.prefix", "32 bytes stand before"),
        ("p15_7z_pt.pt", "torch.foreign", "7z"),
        ("p19_bomb.pt", "zip.bomb", "67108864"),
        ("p20_dup_member.pt", "zip.duplicate", "\"archive/data.pkl\" stands twice"),
        ("k03_zipslip.keras", "zip.name", "\"../../x\" leaves the folder"),
    ] {
        let bytes = std::fs::read(folder.join(file)).expect(file);
        let (rules, said, _) = look(&bytes);
        assert!(rules.contains(&rule) && said.contains(word), "{file}: {rules:?}\n{said}");
    }
}

/// One tensor of a pickle, changed; the rules and what is said.
fn changed(edit: impl Fn(&mut Spec), sizes: &[(&str, usize)]) -> (Vec<&'static str>, String) {
    let mut one = spec("w", "FloatStorage", "0", &[2, 3]);
    edit(&mut one);
    let (rules, said, _) = zipped(&entries(&state_dict(&[one], false), sizes));
    (rules, said)
}

#[test]
fn a_tensor_lies_within_its_storage() {
    type Edit = fn(&mut Spec);
    let cases: [(Edit, &str, &str); 16] = [
        (|_| {}, "", ""),
        (|s| s.offset = 1, "torch.bounds", "reaches past the storage's 24 bytes"),
        (|s| s.shape[0] = 3, "torch.bounds", "shape [3, 3]"),
        (|s| s.stride[0] = 4, "torch.bounds", "reaches past"),
        (|s| s.stride[1] = 2, "torch.bounds", "reaches past"),
        (|s| (s.shape, s.stride) = (vec![5], vec![1]), "", ""),
        (|s| (s.shape, s.stride, s.offset) = (vec![5], vec![1], 1), "", ""),
        (|s| (s.shape, s.stride, s.offset) = (vec![5], vec![1], 2), "torch.bounds", "at element 2"),
        (|s| (s.shape, s.stride) = (vec![], vec![]), "", ""),
        (|s| (s.shape, s.stride, s.offset) = (vec![], vec![], 5), "", ""),
        (|s| (s.shape, s.stride, s.offset) = (vec![], vec![], 6), "torch.bounds", "at element 6"),
        (|s| s.offset = -1, "torch.bounds", "no number from 0 up"),
        (|s| s.shape[0] = -2, "torch.bounds", "no number from 0 up"),
        (|s| s.stride[0] = -1, "torch.bounds", "no number from 0 up"),
        (|s| s.stride.truncate(1), "torch.bounds", "2 sizes and 1 strides"),
        (|s| (s.shape, s.stride) = (vec![i32::MAX; 3], vec![i32::MAX; 3]), "torch.bounds", "reaches past"),
    ];
    for (at, (edit, rule, word)) in cases.into_iter().enumerate() {
        let (rules, said) = changed(edit, &[("0", 24)]);
        assert_eq!(rules.first().copied().unwrap_or_default(), rule, "{at}: {said}");
        assert!(said.contains(word), "{at}: {said}");
    }
    // A tensor that repeats its storage is no larger when loaded, and is when copied.
    let (rules, said) = changed(|s| s.stride = vec![0, 0], &[("0", 24)]);
    assert_eq!(rules, [""; 0], "{said}");
    let (rules, said) = changed(|s| (s.shape, s.stride) = (vec![7], vec![0]), &[("0", 24)]);
    assert_eq!(rules, ["torch.expanded"]);
    assert!(said.contains("a copy of it takes 28 bytes"), "{said}");
    let (rules, _) = changed(|s| (s.shape, s.stride) = (vec![6], vec![0]), &[("0", 24)]);
    assert_eq!(rules, [""; 0]);
    let deep = |n: usize| changed(move |s| (s.shape, s.stride) = (vec![1; n], vec![1; n]), &[("0", 24)]).0;
    assert_eq!(deep(64), [""; 0]);
    assert_eq!(deep(65), ["torch.bounds"]);
}

#[test]
fn a_storage_is_there_with_its_size() {
    for (sizes, rule, word) in [
        (&[("0", 24)][..], "", ""),
        (&[("0", 23)], "torch.storage", "needs 24 bytes, its member has 23"),
        (&[("0", 25)], "torch.storage", "needs 24 bytes, its member has 25"),
        (&[("1", 24)], "torch.storage", "\"0\" is missing"),
        (&[("0", 24), ("1", 24)], "torch.unused", "no tensor is in \"archive/data/1\""),
    ] {
        let (rules, said) = changed(|_| {}, sizes);
        assert_eq!(rules.first().copied().unwrap_or_default(), rule, "{said}");
        assert!(said.contains(word), "{said}");
    }
    let (rules, said) = changed(|s| s.count = -1, &[("0", 24)]);
    assert_eq!(rules[0], "pickle.persistent", "{said}");
    // Twice under one key: the same, and as something else.
    let twice = |edit: fn(&mut Spec)| {
        let mut second = spec("b", "FloatStorage", "0", &[2, 3]);
        edit(&mut second);
        zipped(&entries(&state_dict(&[spec("w", "FloatStorage", "0", &[2, 3]), second], false), &[("0", 24)]))
    };
    assert_eq!(twice(|_| {}).0, [""; 0]);
    assert_eq!(twice(|_| {}).2.tensors.len(), 2);
    assert_eq!(twice(|s| s.class = "IntStorage").0, ["torch.storage"]);
    assert_eq!(twice(|s| s.count = 7).0, ["torch.storage"]);
    assert!(twice(|s| s.count = 7).1.contains("asked for twice"));
}

#[test]
fn a_key_is_no_path() {
    for key in ["0", "12345678901", "a_B"] {
        assert_eq!(changed(|s| s.key = key, &[(key, 24)]).0, [""; 0]);
    }
    let (long, longer): (&'static str, &'static str) = ("k".repeat(128).leak(), "k".repeat(129).leak());
    assert_eq!(changed(|s| s.key = long, &[(long, 24)]).0, [""; 0]);
    for key in ["", "../version", "0/1", "..", ".", "a b", "0\0", longer] {
        let (rules, said) = changed(|s| s.key = key, &[("0", 24)]);
        assert!(rules.contains(&"torch.key"), "{key}: {said}");
    }
}

#[test]
fn persistent_ids_are_those_of_storages() {
    let object = |id: &str| {
        let id: Vec<u8> = id.bytes().collect();
        zipped(&entries(&[b"\x80\x02(".as_slice(), &id, b"tQ."].concat(), &[("0", 24)]))
    };
    let words = |list: &[&str]| list.iter().map(|w| format!("S'{w}'\n")).collect::<Vec<_>>();
    let [storage, key, cpu] = &words(&["storage", "0", "cpu"])[..] else { panic!("three") };
    let float = "ctorch\nFloatStorage\n";
    let (rules, said, _) = object(&format!("{storage}{float}{key}{cpu}I6\n"));
    assert_eq!(rules, ["torch.plain"], "a storage without a tensor: {said}");
    for id in [
        String::new(),
        format!("{storage}{float}{key}{cpu}"),
        format!("{storage}{float}{key}{cpu}I6\nNN"),
        format!("{storage}{float}{key}{cpu}I6\nI1\n"),
        format!("{storage}{float}{key}{cpu}I6\n({key}I0\nt"),
        format!("{storage}{float}{key}{cpu}I6\n(NI0\nI6\nt"),
        format!("{storage}{float}{key}NI6\n"),
        format!("{storage}{float}I0\n{cpu}I6\n"),
        format!("{storage}N{key}{cpu}I6\n"),
        format!("{storage}ctorch\nfloat32\n{key}{cpu}I6\n"),
        format!("S'module'\n{float}{key}{cpu}I6\n"),
        format!("N{float}{key}{cpu}I6\n"),
    ] {
        assert!(object(&id).0.contains(&"pickle.persistent"), "{id:?}");
    }
    let view = |at: i64, n: i64| object(&format!("{storage}{float}{key}{cpu}I6\n({key}I{at}\nI{n}\nt")).0;
    assert_eq!(view(0, 6), ["torch.plain"]);
    assert_eq!(view(5, 1), ["torch.plain"]);
    assert!(view(5, 2).contains(&"torch.bounds"));
    assert!(view(i64::MAX, 1).contains(&"torch.bounds"));
    // A second view of the same storage is another one, and its tensors lie in it.
    let second = |at: i64, n: i64, size: i64| {
        let id = |view: &str| format!("({storage}{float}{key}{cpu}I6\n{view}tQ");
        let tensor = |id: String, size: i64| format!("ctorch._utils\n_rebuild_tensor\n({id}I0\n(I{size}\nt(I1\nttR");
        let (whole, part) = (tensor(id("N"), 6), tensor(id(&format!("({key}I{at}\nI{n}\nt")), size));
        zipped(&entries(format!("]({whole}{part}e.").as_bytes(), &[("0", 24)])).0
    };
    assert_eq!(second(2, 3, 3), [""; 0]);
    assert_eq!(second(2, 3, 4), ["torch.bounds"]);
    let huge = object(&format!("{storage}ctorch\nDoubleStorage\n{key}{cpu}I{}\n", i64::MAX / 8 + 1));
    assert!(huge.0.contains(&"torch.bounds"), "{}", huge.1);
    let largest = object(&format!("{storage}ctorch\nByteStorage\n{key}{cpu}I{}\n", i64::MAX));
    assert!(!largest.0.contains(&"torch.bounds") && largest.0.contains(&"torch.storage"), "{}", largest.1);
    for (place, fits) in [
        ("cpu", true),
        ("cuda:0", true),
        ("meta", true),
        ("cuda:9999", true),
        ("x1_y", true),
        ("cuda:", false),
        ("cuda:x", false),
        ("cuda:00000", false),
        ("", false),
        ("CPU", false),
        ("/dev/mem", false),
        (&"a".repeat(32), true),
        (&"a".repeat(33), false),
    ] {
        let (rules, said, _) = object(&format!("{storage}{float}{key}S'{place}'\nI6\n"));
        assert_eq!(rules.contains(&"torch.location"), !fits, "{place}: {said}");
    }
}

#[test]
fn tensors_of_every_kind_are_built_as_torch_save_writes_them() {
    let storage = |class: &str, count: i32| {
        let class = format!("ctorch\n{class}\n").into_bytes();
        [b"(".to_vec(), text("storage"), class, text("0"), text("cpu"), int(count), b"tQ".to_vec()].concat()
    };
    let object = |function: &str, args: &[Vec<u8>], size: usize| {
        let call = [format!("ctorch._utils\n{function}\n(").into_bytes(), args.concat(), b"tR".to_vec()].concat();
        zipped(&entries(&[b"\x80\x02}".as_slice(), &text("w"), &call, b"s."].concat(), &[("0", size)]))
    };
    let (no, hooks) = (b"\x89".to_vec(), b"ccollections\nOrderedDict\n)R".to_vec());
    let view = |class: &str, count| vec![storage(class, count), int(0), ints(&[2]), ints(&[1])];
    let with =
        |class: &str, count, more: &[&[u8]]| [view(class, count), more.iter().map(|m| m.to_vec()).collect()].concat();
    let (u16, plain) = (b"ctorch\nuint16\n".as_slice(), b"}X\x04\0\0\0conj\x88s".as_slice());
    let scheme = b"(ctorch\nper_tensor_affine\nG\0\0\0\0\0\0\0\0K\0t".as_slice();
    for (function, args, size, dtype) in [
        ("_rebuild_tensor", view("FloatStorage", 2), 8, "FloatStorage"),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[&no, &hooks]), 8, "FloatStorage"),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[&no, b"N", b"N"]), 8, "FloatStorage"),
        ("_rebuild_tensor_v2", with("ComplexFloatStorage", 2, &[&no, &hooks, plain]), 16, "ComplexFloatStorage"),
        ("_rebuild_tensor_v3", with("UntypedStorage", 4, &[&no, &hooks, u16]), 4, "uint16"),
        ("_rebuild_tensor_v3", with("UntypedStorage", 4, &[&no, &hooks, u16, plain]), 4, "uint16"),
        ("_rebuild_qtensor", with("QInt8Storage", 2, &[scheme, &no, &hooks]), 2, "QInt8Storage"),
    ] {
        let (rules, said, description) = object(function, &args, size);
        assert_eq!(rules, [""; 0], "{function}: {said}");
        let dtypes: Vec<_> = description.tensors.iter().map(|t| t.dtype.as_str()).collect();
        assert_eq!(dtypes, [dtype]);
        // And as a parameter.
        let tensor = [format!("ctorch._utils\n{function}\n(").into_bytes(), args.concat(), b"tR".to_vec()].concat();
        let (rules, said, description) = object("_rebuild_parameter", &[tensor, b"\x88".to_vec(), hooks.clone()], size);
        assert_eq!((rules, description.tensors.len()), (vec![], 1), "{said}");
    }
    for (function, args) in [
        ("_rebuild_tensor", with("FloatStorage", 2, &[&no])),
        ("_rebuild_tensor_v2", view("FloatStorage", 2)),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[b"N", &hooks])),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[b"K\x02", &hooks])),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[&no, b"]"])),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[&no, &hooks, b"]"])),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[&no, &hooks, b"}X\x01\0\0\0x\x88s"])),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[&no, &hooks, b"}X\x04\0\0\0conjNs"])),
        ("_rebuild_tensor_v2", with("FloatStorage", 2, &[&no, &hooks, b"N", b"N"])),
        ("_rebuild_tensor_v3", with("UntypedStorage", 8, &[&no, &hooks, b"N"])),
        ("_rebuild_tensor_v3", with("UntypedStorage", 8, &[b"N", &hooks, u16])),
        ("_rebuild_tensor_v3", with("UntypedStorage", 8, &[&no, b"]", u16])),
        ("_rebuild_tensor_v3", with("UntypedStorage", 8, &[&no, &hooks, u16, b"]"])),
        ("_rebuild_parameter", vec![object_call(&with("FloatStorage", 2, &[&no, &hooks])), no.clone(), b"]".to_vec()]),
        (
            "_rebuild_parameter",
            vec![object_call(&with("FloatStorage", 2, &[&no, &hooks])), b"N".to_vec(), hooks.clone()],
        ),
        ("_rebuild_qtensor", with("QInt8Storage", 8, &[b"N", &no, &hooks])),
        ("_rebuild_qtensor", with("QInt8Storage", 8, &[b")", &no, &hooks])),
        ("_rebuild_qtensor", with("QInt8Storage", 8, &[b"(NK\0K\0t", &no, &hooks])),
        ("_rebuild_qtensor", with("QInt8Storage", 8, &[b"(ctorch\nper_tensor_affine\nK\0t", &no, &hooks])),
        ("_rebuild_qtensor", with("QInt8Storage", 8, &[b"(ctorch\nper_tensor_affine\nNNt", &no, &hooks])),
    ] {
        let (rules, said, _) = object(function, &args, 8);
        assert!(rules.contains(&"pickle.arguments"), "{function}: {rules:?} {said}");
    }
    // The element type of the tensor counts, not that of the storage.
    let (rules, ..) = object("_rebuild_tensor_v3", &with("UntypedStorage", 3, &[&no, &hooks, u16]), 3);
    assert_eq!(rules[0], "torch.bounds");
    // Hooks that are filled after the call.
    let late = [
        b"\x80\x02](ccollections\nOrderedDict\n)Rq\x09".to_vec(),
        object_call(&with("FloatStorage", 2, &[&no, b"h\x09"])),
        b"h\x09NNse.".to_vec(),
    ]
    .concat();
    let (rules, said, _) = zipped(&entries(&late, &[("0", 8)]));
    assert!(rules.contains(&"torch.hooks"), "{rules:?} {said}");
}

fn object_call(args: &[Vec<u8>]) -> Vec<u8> {
    [b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(), args.concat(), b"tR".to_vec()].concat()
}

#[test]
fn an_object_holds_tensors_numbers_and_text() {
    let object = |pickle: &[u8]| zipped(&entries(pickle, &[]));
    for pickle in
        [b"}.".as_slice(), b"]NaK\x01aI01\naF1.5\na(S'a'\nta.", b"ctorch\nfloat32\n.", b"}K\x01Ns.", b"}N]s.", b"}NNs."]
    {
        let (rules, said, _) = object(pickle);
        assert_eq!(rules, [""; 0], "{said}");
    }
    for (pickle, word) in [
        (b"\x80\x03C\x01a.".as_slice(), "bytes"),
        (b"\x80\x04\x8f.", "a set"),
        (b"ccollections\nOrderedDict\n.", "a function or a class"),
        (b"}K\x01ccollections\nOrderedDict\ns.", "a function or a class"),
        (b"}]Ns.", "neither text nor a number"),
        (b"ccollections\nOrderedDict\n)R})Ns.", ""),
        (b"ccollections\nOrderedDict\n)R}X\x09\0\0\0_metadataccollections\nOrderedDict\nsb.", "a function or a class"),
    ] {
        let (rules, said, _) = object(pickle);
        match word {
            "" => assert!(rules.contains(&"pickle.stack"), "{said}"),
            _ => assert!(rules == ["torch.plain"] && said.contains(word), "{rules:?} {said}"),
        }
    }
    assert_eq!(object(b"})Ns.").0, [""; 0], "a dict of Python's");
    assert_eq!(object(b"ccollections\nOrderedDict\n)R)Ns.").0, ["torch.plain"]);
    for pickle in [b"}(K\x01NK\x02Nu.".as_slice(), b"}(K\x01NS'1'\nNu.", b"}(U\x01\xfeNU\x01\xffNu."] {
        assert_eq!(object(pickle).0, [""; 0]);
    }
    for pickle in [b"}(K\x01NK\x01Nu.".as_slice(), b"}(I01\nNK\x01Nu.", b"}(S'a'\nNS'\\x61'\nNu."] {
        let (rules, said, _) = object(pickle);
        assert_eq!(rules, ["torch.repeated"], "{said}");
    }
    // Many defects of one kind hide none of the other.
    let many = |n: usize, m: usize| {
        let repeated: Vec<u8> = (0..m as u8).flat_map(|i| [b'K', i, b'N', b'K', i, b'N']).collect();
        let pickle = [b"](".as_slice(), &b"C\x01a".repeat(n), b"}(", &repeated, b"ue."].concat();
        let (path, mut findings) = ("model.pt".parse().expect("a path"), Findings::new());
        let mut out = pickle::Out { path: &path, part: None, findings: &mut findings };
        let walk = pickle::walk(&pickle, 0, &mut out).expect("no failure");
        state::tensors(&walk, walk.root.expect("sound"), &mut out);
        let told = ["torch.plain", "torch.repeated"].map(|rule| findings.has(rule));
        (told, findings.list().len() as u64 + findings.dropped())
    };
    assert_eq!(many(100, 100), ([true, true], 128), "64 of each");
    assert_eq!((many(63, 0), many(0, 64)), (([true, false], 63), ([false, true], 64)));
    assert_eq!(object(b"].").2.what, "PyTorch object, 0 tensors in 0 storages, zip");
    // Lists in each other, without end, and too deep.
    assert_eq!(object(b"]q\0h\0a.").0, [""; 0]);
    let deep = |n: usize| object(&[b"]".repeat(n), b"a".repeat(n - 1), b".".to_vec()].concat()).0;
    assert_eq!(deep(32), [""; 0]);
    assert_eq!(deep(33), ["pickle.limit"]);
}

#[test]
fn names_of_tensors_are_their_paths() {
    let call = tensor(&spec("", "FloatStorage", "0", &[2, 3]), false);
    let named = |pickle: Vec<u8>| {
        let (rules, said, description) = zipped(&entries(&pickle, &[("0", 24)]));
        let names: Vec<_> = description.tensors.into_iter().map(|t| t.name).collect();
        (rules, said, names)
    };
    let nested =
        [b"\x80\x02}".to_vec(), text("model"), b"]}".to_vec(), text("w"), call.clone(), b"saK\x01as.".to_vec()]
            .concat();
    assert_eq!(named(nested).2, ["model.0.w"]);
    assert_eq!(named([call.clone(), b".".to_vec()].concat()).2, ["tensor"]);
    assert_eq!(named([b"}K\x07".to_vec(), call.clone(), b"s.".to_vec()].concat()).2, ["7"]);
    let long = |n: usize| named([b"}".to_vec(), text(&"n".repeat(n)), call.clone(), b"s.".to_vec()].concat());
    assert_eq!(long(1024).0, [""; 0]);
    assert_eq!(long(1025).0, ["pickle.limit"]);
    // All names together have 8 MiB: here 1,024 bytes each.
    let many = |n: usize| {
        let before = [call.as_slice(), b"q\x050", &text(&"n".repeat(1019)), b"q\x060}("].concat();
        let each = (0..n).flat_map(|i| [b"M".as_slice(), &(1000 + i as u16).to_le_bytes(), b"}h\x06h\x05s"].concat());
        named([before, each.collect(), b"u.".to_vec()].concat())
    };
    assert_eq!((many(8192).0, many(8192).2.len()), (vec![], 8192));
    assert_eq!(many(8193).0, ["pickle.limit"]);
}

#[test]
fn members_that_torch_save_does_not_write_are_named_and_walked() {
    let evil = b"cos\nsystem\n)R.".as_slice();
    let long = [b"cos\nsystem\n".as_slice(), &text(&"a".repeat(70_000)), b"\x85R."].concat();
    let with = |name: &str, data: &[u8]| {
        let mut all = sound();
        all.push(torch_entry(name, data));
        zipped(&all)
    };
    for (name, data, rule, word) in [
        ("archive/notes", b"words".as_slice(), "torch.member", "writes no \"archive/notes\""),
        ("archive/notes", evil, "pickle.call", "calls os.system"),
        ("archive/notes", evil, "pickle.hidden", "\"archive/notes\" is a pickle"),
        ("archive/notes", &long, "pickle.call", "calls os.system"),
        ("archive/x.pkl", b"cos\nsystem\n)R", "pickle.call", "calls os.system"),
        ("archive/x.bin", b"cos\nsystem\n)R", "pickle.call", "calls os.system"),
        ("archive/x", b"\x80\x04cos\nsystem\n)R", "pickle.call", "calls os.system"),
        ("archive/data/9", evil, "pickle.call", "calls os.system"),
        ("archive/.format_version", evil, "zip.duplicate", "stands twice"),
        ("archive/x", b"PK\x03\x04", "archive.nested", "a zip archive"),
        ("archive/x", b"7z\xbc\xaf\x27\x1c", "archive.nested", "a 7z archive"),
        ("archive/x", b"\x7fELF", "archive.nested", "a program"),
        ("archive/x", b"\x1f\x8b\x08", "archive.nested", "gzip"),
        ("other/data.pkl", evil, "torch.folder", "outside the folder"),
        ("other/data.pkl", evil, "pickle.call", "calls os.system"),
        ("loose", b"", "torch.folder", "\"loose\" is outside"),
        ("archive2/x", b"", "torch.folder", "outside the folder"),
        ("archive/constants.pkl", b"\x80\x02).", "torch.code", "TorchScript"),
        ("archive/code/__torch__.py", b"", "torch.code", "TorchScript"),
        ("archive/.data/extern_modules", b"", "torch.code", "torch.package"),
        ("archive/archive_format", b"pt2", "torch.code", "exported program"),
        ("archive/bytecode.pkl", b"", "torch.code", "Mobile"),
        ("archive/lib.so", b"", "torch.code", "code"),
        ("archive/run.py", b"", "torch.code", "code"),
    ] {
        let (rules, said, _) = with(name, data);
        assert!(rules.contains(&rule) && said.contains(word), "{name}: {rules:?} {said}");
    }
    let (rules, said, _) = with("archive/debug", b"\x80\x02}.");
    assert_eq!(rules, ["torch.member"], "a pickle without names: {said}");
    for folder in ["archive/", "archive/data/", "archive/notes/"] {
        assert_eq!(with(folder, b"").0, [""; 0], "{folder} is no member");
    }
    let mut long = sound();
    long[1].data = vec![b'1'; 256];
    assert_eq!(zipped(&long).0, [""; 0]);
    long[1].data.push(b'1');
    assert_eq!(zipped(&long).0, ["torch.member"]);
    // What stands for weights is not.
    for (data, rule, word) in [
        ([evil, &[0; 10]].concat(), "pickle.hidden", "\"archive/data/0\" are a pickle"),
        ([b"PK\x03\x04".as_slice(), &[0; 20]].concat(), "archive.nested", "are a zip archive"),
        ([b"\x1f\x8b\x08".as_slice(), &[0; 21]].concat(), "", ""),
        ([b"\x80\x02}.".as_slice(), &[0; 20]].concat(), "", ""),
    ] {
        let mut all = sound();
        assert_eq!(all[4].name, b"archive/data/0");
        all[4].data = data;
        let (rules, said, _) = zipped(&all);
        assert_eq!(rules.first().copied().unwrap_or_default(), rule, "{said}");
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn the_version_and_the_byte_order_are_known() {
    let set = |name: &str, data: Option<&[u8]>| {
        let mut all = sound();
        match data {
            Some(data) => {
                all.iter_mut().filter(|e| e.name == name.as_bytes()).for_each(|e| *e = torch_entry(name, data))
            }
            None => all.retain(|e| e.name != name.as_bytes()),
        }
        zipped(&all).0
    };
    for (version, fits) in [
        ("1", true),
        ("3\n", true),
        ("10", true),
        ("0", false),
        ("11", false),
        ("", false),
        ("x", false),
        ("3\n\n", false),
        ("-3", false),
    ] {
        let expected: &[&str] = if fits { &[] } else { &["torch.version"] };
        assert_eq!(set("archive/version", Some(version.as_bytes())), expected, "{version:?}");
    }
    assert_eq!(set("archive/version", None), ["torch.version"]);
    assert_eq!(set("archive/byteorder", None), [""; 0], "old files have none");
    for order in ["big", "", "little\n", "Little"] {
        assert_eq!(set("archive/byteorder", Some(order.as_bytes())), ["torch.byteorder"], "{order:?}");
    }
}

#[test]
fn what_is_no_pytorch_file_is_named() {
    for (bytes, rule, word) in [
        (b"".as_slice(), "torch.foreign", "empty"),
        (b"Rar!\x1a\x07", "torch.foreign", "RAR"),
        (b"\x1f\x8b\x08cos\nsystem\n)R.", "torch.foreign", "gzip"),
        (b"\0\0\0\0ET12", "torch.foreign", "ExecuTorch"),
        (b"\0\0\0\0PTMF", "torch.foreign", "Mobile"),
        (b"words", "torch.foreign", "no PyTorch file"),
        (b"\x80\x02}.", "pickle.bare", "outside torch.save's format"),
        (b"}.", "pickle.bare", "outside torch.save's format"),
        (b"PK\x03\x04", "zip.end", "no end record"),
    ] {
        let (rules, said, _) = look(bytes);
        assert!(rules.contains(&rule) && said.contains(word), "{}: {rules:?} {said}", bytes.escape_ascii());
    }
    for (bytes, rules) in [
        (b"\x80\x02}.".as_slice(), &["pickle.bare"][..]),
        (b"}.", &["pickle.bare"]),
        (b"cos\nsystem\n.", &["pickle.global", "pickle.bare"]),
        (b"cos\nsystem\n", &["pickle.global", "pickle.truncated", "pickle.bare"]),
        (b"\x80\x02}", &["pickle.truncated", "pickle.bare"]),
        (b"}", &["torch.foreign", "pickle.truncated", "pickle.bare"]),
    ] {
        assert_eq!(look(bytes).0, rules, "{}", bytes.escape_ascii());
    }
    let (rules, said, _) =
        look(&build(&[entry("x.npy", b"\x93NUMPY"), entry("model.pkl", b"cos\nsystem\n)R.")], false).bytes);
    for rule in ["archive.zip", "archive.nested", "pickle.call"] {
        assert!(rules.contains(&rule), "{said}");
    }
    // A zip at the end of something else is read as a zip by most.
    for front in [b"\x80\x02}.".as_slice(), b"GIF89a", b"cos\nsystem\n)R."] {
        for zip64 in [false, true] {
            let both = [front, &build(&sound(), zip64).bytes].concat();
            let (rules, said, _) = look(&both);
            assert!(
                rules == ["zip.prefix"] && said.contains(&format!(": {} bytes stand before", front.len())),
                "{said}"
            );
        }
    }
    let (rules, ..) = look(&[b"x".as_slice(), b"PK\x05\x06", &[0; 17]].concat());
    assert_eq!(rules[0], "torch.foreign", "no end record fits");
}

#[test]
fn a_long_pickle_is_no_pytorch_file() {
    let big = [b"N0".repeat(MAX / 2), b"}.".to_vec()].concat();
    const MAX: usize = pickle::MAX_PICKLE as usize;
    assert!(look(&big).0.contains(&"pickle.limit"));
}

#[test]
fn the_streams_of_the_old_form_are_checked() {
    let sound = stream(&specs(), &SIZES);
    let find = |word: &[u8]| sound.windows(word.len()).position(|w| w == word).expect("there");
    let keys = sound.windows(4).rposition(|w| w == b"\x80\x02](").expect("there");
    let data = sound.len() - 8 * 3 - 32;
    let edit = |at: usize, bytes: &[u8]| {
        let mut out = sound.clone();
        out[at..at + bytes.len()].copy_from_slice(bytes);
        look(&out)
    };
    assert_eq!(edit(0, b"\x80").0, [""; 0]);
    for (at, bytes, rule, word) in [
        (find(b"M\xe9\x03") + 1, b"\xe8".as_slice(), "torch.legacy", "1001"),
        (find(b"little_endian\x88") + 13, b"\x89", "torch.byteorder", "little-endian"),
        (find(b"little_endian"), b"L", "torch.byteorder", "little-endian"),
        (keys + 9, b"1", "torch.legacy", "distinct"),
        (keys + 9, b"7", "torch.storage", "storage \"0\" is missing"),
        (keys + 9, b"7", "torch.storage", "\"7\" is in the file"),
        (data, b"\x07", "torch.storage", "has 7 elements"),
        (data, b"\xff\xff\xff\xff\xff\xff\xff\xff", "torch.storage", "has -1 elements"),
        (keys + 2, b"}", "pickle.container", "no list"),
    ] {
        let (rules, said, _) = edit(at, bytes);
        assert!(rules.contains(&rule) && said.contains(word), "{rules:?} {said}");
    }
    for (length, rule) in [
        (sound.len(), ""),
        (sound.len() - 1, "torch.storage"),
        (data + 4, "torch.storage"),
        (data + 31, "torch.storage"),
        (data, "torch.storage"),
        (keys, "pickle.truncated"),
    ] {
        let rules = look(&sound[..length]).0;
        assert_eq!(rules.first().copied().unwrap_or_default(), rule, "{length}");
    }
    let cut = look(&sound[..data + 31]).1;
    assert!(cut.contains("needs 24 bytes, the file has 23 left"), "{cut}");
    let (rules, said, _) = look(&[sound.as_slice(), b"0"].concat());
    assert!(rules == ["torch.legacy"] && said.contains("1 bytes follow"), "{said}");
    // Each of the five streams is walked.
    let evil = b"cos\nsystem\n)R.".as_slice();
    let starts = [find(b"\x80\x02M"), find(b"\x80\x02}("), find(b"\x80\x02ccoll"), keys];
    for start in starts {
        let (rules, said, _) = look(&[&sound[..start], evil, &sound[start..]].concat());
        assert!(rules.contains(&"pickle.call") && said.contains("calls os.system"), "{said}");
    }
    let (rules, ..) = look(&[b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x18.", &sound[15..]].concat());
    assert!(rules.contains(&"pickle.trailing"), "another magic number");
}

#[test]
fn no_mutation_of_a_file_panics() {
    let files = [build(&sound(), true).bytes, stream(&specs(), &SIZES)];
    for bytes in mutations(3, &[&files[0], &files[1]], 10_000) {
        look(&bytes);
    }
}

/// The magic number may be what a pickle leaves after it has called something.
#[test]
fn the_first_pickle_of_the_old_form_is_held_to_the_rules_too() {
    let rest = &stream(&specs(), &SIZES)[2 + 13..];
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    for (first, rule) in [
        (&b"\x80\x02"[..], ""),
        (b"\x80\x02cos\nsystem\n(S'id'\ntR0", "pickle.call"),
        (b"cos\nsystem\n(S'id'\ntR0", "pickle.call"),
        (b"\x80\x02cos\nsystem\n0", "pickle.global"),
        (b"\x80\x02\x82\x010", "pickle.extension"),
    ] {
        let (rules, said, _) = look(&[first, magic, rest].concat());
        assert_eq!(rules.first().copied().unwrap_or_default(), rule, "{said}");
    }
}

#[test]
fn what_readers_find_by_another_spelling_or_place_is_looked_at() {
    let with = |name: &str, data: &[u8]| {
        let mut all = sound();
        all.push(torch_entry(name, data));
        zipped(&all)
    };
    for name in
        ["archive/CONSTANTS.PKL", "archive/Code/__torch__.txt", "archive/a.PY", "archive/ByteCode.pkl", "archive/x.SO"]
    {
        let (rules, said, _) = with(name, b"\x80\x02).");
        assert!(rules.contains(&"torch.code"), "{name}: {said}");
    }
    let (rules, said, _) = with("archive/.data/version", b"9\n");
    assert!(!rules.contains(&"torch.version"), "{said}");
    for bad in [&b"99\n"[..], b"0", b"x"] {
        let (rules, said, _) = with("archive/.data/version", bad);
        assert!(rules.contains(&"torch.version"), "{said}");
    }
    for word in [".data/version", ".format_version", ".data/serialization_id", ".storage_alignment"] {
        let (rules, said, _) = with(&format!("archive/{word}"), b"cos\nsystem\n)R.");
        assert!(rules.contains(&"pickle.call") && rules.contains(&"pickle.hidden"), "{word}: {said}");
        let (rules, said, _) = with(&format!("archive/{word}"), b"1");
        assert!(!rules.contains(&"torch.member"), "{word}: {said}");
    }
    for (data, what) in [
        (&b"#! /bin/sh\nid\n"[..], "a script"),
        (b"\xcb\x0d\r\n\0\0\0\0", "compiled Python"),
        (b"\0asm\x01\0\0\0", "WebAssembly"),
        (b"<?php system('id');", "a PHP script"),
        (b"a zip: PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "a zip archive"),
    ] {
        let (rules, said, _) = with("archive/x", data);
        assert!(rules.contains(&"archive.nested") && said.contains(what), "{said}");
    }
}

/// A few bytes make a tensor of 64 dimensions, each of which takes memory wherever the tensor is told of.
#[test]
fn dimensions_are_bounded_together() {
    let object = |tensors: usize, rank: usize| {
        let ones = ints(&vec![1; rank]);
        let id = [b"(".to_vec(), text("storage"), b"ctorch\nByteStorage\n".to_vec(), text("0"), text("cpu")].concat();
        let before = [
            b"\x80\x02".as_slice(),
            &ones,
            b"q\x000",
            &id,
            &int(1),
            b"tQq\x010",
            b"ctorch._utils\n_rebuild_tensor\nq\x020",
        ]
        .concat();
        let object = [before.as_slice(), b"](", &b"h\x02(h\x01K\0h\0h\0tR".repeat(tensors), b"e."].concat();
        let mut findings = Findings::new();
        let path: RelPath = "model.pt".parse().expect("a path");
        pickle::walk(&object, 0, &mut pickle::Out { path: &path, part: None, findings: &mut findings })
            .expect("no failure");
        findings.list().iter().map(|f| f.rule).collect::<Vec<_>>()
    };
    let limit = pickle::calls::MAX_DIMENSIONS;
    assert_eq!(object(limit / 64, 64), [""; 0]);
    assert_eq!(object(limit / 64 + 1, 64), ["pickle.limit"]);
}

#[test]
fn an_archive_is_known_by_an_end_record_that_lies_in_the_file() {
    let zip = |comment: u16, rest: usize| {
        let end = [b"PK\x05\x06".as_slice(), &[0; 16], &comment.to_le_bytes(), &vec![1; rest]].concat();
        is_zip(b"\x80\x02}.", &end.as_slice()).expect("reads")
    };
    for (comment, rest, is) in
        [(0, 0, true), (3, 3, true), (3, 2, false), (300, 299, false), (0, 65_535, true), (0, 65_536, false)]
    {
        assert_eq!(zip(comment, rest), is, "a comment of {comment} in {rest} bytes");
    }
}

#[test]
fn the_object_is_looked_for_in_its_folder_and_what_stands_before_it_is_outside() {
    let before: Vec<Entry> = [torch_entry("other/a", b"x")].into_iter().chain(sound()).collect();
    let (rules, said, description) = zipped(&before);
    assert!(rules.contains(&"torch.folder") && said.contains("\"other/a\" is outside the folder"), "{said}");
    assert_eq!(description.tensors.len(), 3);
    let code =
        [entry("archive/a.py", b"1"), entry("archive/b.py", b"2"), entry("archive/constants.pkl", b"\x80\x02}.")];
    let (_, said, _) = zipped(&sound().into_iter().chain(code).collect::<Vec<_>>());
    assert!(said.contains("\"archive/a.py\" and 1 other members are code"), "{said}");
    assert!(said.contains("\"archive/constants.pkl\" and 0 other members are TorchScript"), "{said}");
}

/// PyTorch's reader looks at no CRC: what it would load is walked.
#[test]
fn a_pickle_whose_checksum_is_wrong_is_walked_all_the_same() {
    let object = [b"\x80\x02cos\nsystem\n".as_slice(), &text(&"a".repeat(70_000)), b"\x85R."].concat();
    let mut built = build(&entries(&object, &[]), true);
    let at = built.data[0] + object.len() - 9;
    assert_eq!(built.bytes[at], b'a');
    built.bytes[at] = b'b';
    let (rules, said, _) = look(&built.bytes);
    assert!(rules.contains(&"pickle.call") && rules.iter().any(|r| r.starts_with("zip.")), "{said}");
}

#[test]
fn of_a_member_no_more_is_kept_than_is_asked_for() {
    let (path, mut findings) = ("model.pt".parse().expect("a path"), Findings::new());
    let built = build(&[entry("a", &[7; 200_000])], false);
    let members = zip::members(&path, &built.bytes.as_slice(), &mut findings).expect("reads").expect("members");
    for keep in [0, 100, 65_536, 70_000, 200_000, 300_000] {
        let kept = read(&path, &built.bytes.as_slice(), &members[0], keep, &mut findings).expect("reads");
        assert_eq!(kept.map(|kept| kept.len()), Some(keep.min(200_000)));
    }
    assert_eq!(findings.list(), []);
    // The object, by the size that it claims.
    for (size, rule) in [(pickle::MAX_PICKLE, "zip.size"), (pickle::MAX_PICKLE + 1, "pickle.limit")] {
        let (member, mut findings) = (Member { size, ..members[0].clone() }, Findings::new());
        let kept = whole(&path, &built.bytes.as_slice(), &member, &mut findings).expect("reads");
        assert_eq!((findings.list()[0].rule, kept.is_some()), (rule, rule == "zip.size"));
    }
}
