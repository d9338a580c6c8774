use super::*;
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
