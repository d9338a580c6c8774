//! What `torch.save` writes: a state dict of tensors, in a zip, in one stream, or in a tar.
//!
//! Owns: which of the forms a file has, and the zip form. Promises: a file without findings holds tensors, numbers and text,
//! and nothing that runs; each tensor lies within its storage, and each storage is there with its size; everything else in
//! the file is named. Leaves out: pickles (`pickle`), archives (`zip`, `tar`), the stream form (`legacy`).
//!
//! ```text
//! NAME/data.pkl                      the object: a pickle with persistent ids for storages     (torch/serialization.py, _save)
//! NAME/data/KEY                      a storage's bytes
//! NAME/version, NAME/byteorder, NAME/.format_version, NAME/.storage_alignment, NAME/.data/serialization_id
//! ```
//! TorchScript (`code/`, `constants.pkl`), torch.package and exported programs use the same archive and are code.

mod legacy;
mod state;

#[cfg(test)]
pub(crate) use state::tensors as tensors_of;

use super::Kind;
use super::description::Description;
use super::finding::{Findings, Halt, Place, rules};
use super::input::Input;
use super::pickle::heap::StorageRef;
use super::recognise::{Content, Sort, recognise};
use super::zip::{Member, contents};
use super::{pickle, tar, zip};
use crate::artifact::Format;
use crate::digest::shorten;
use crate::error::Result;
use crate::name::RelPath;
use std::collections::{HashMap, HashSet};

rules! {
    BOUNDS "torch.bounds" Critical "a tensor that reaches past its storage: a loader would read out of bounds"
    STORAGE "torch.storage" Critical "a storage that is missing, has another size, or is asked for as different things"
    KEY "torch.key" Critical "a storage key that is a path: a loader would read another member"
    VERSION "torch.version" Critical "no version, or one that no PyTorch writes"
    BYTEORDER "torch.byteorder" Critical "a byte order that is not little-endian"
    FOLDER "torch.folder" Critical "members outside the archive's one folder"
    LEGACY "torch.legacy" Critical "the old stream form, malformed"
    CODE "torch.code" Critical "TorchScript, a package or an exported program: loading it runs what it holds"
    OTHER "archive.zip" Critical "a zip archive that is no PyTorch file: what reads it is not known"
    NESTED "archive.nested" Critical "an archive or a program within the file, where scanners do not look"
    FOREIGN "torch.foreign" Critical "neither a zip, nor a pickle, nor a tar: no PyTorch file"
    HOOKS "torch.hooks" Critical "a tensor with hooks, which run when it is used"
    SPARSE "torch.sparse" High "a sparse tensor: loaders trust its indices"
    EXPANDED "torch.expanded" High "a tensor larger than its storage: copying it could exhaust memory"
    LOCATION "torch.location" High "a storage on what is no device"
    PLAIN "torch.plain" High "holds what no state dict of tensors holds"
    REPEATED "torch.repeated" High "two values under one name: readers disagree on which one counts"
    MEMBER "torch.member" Warning "a member that torch.save does not write"
    UNUSED "torch.unused" Warning "a storage that no tensor is in"
}

/// Bytes of a member that are looked at for what they are.
const HEAD: usize = 64 << 10;
/// Bytes of `version`, `byteorder` and their like.
const MAX_WORD: usize = 256;
/// The versions that PyTorch reads (caffe2/serialize/versions.h).
const VERSIONS: std::ops::RangeInclusive<u64> = 1..=10;

/// Looks at a file that should be PyTorch's.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let mut head = vec![0; input.size().min(1024) as usize];
    input.read_at(0, &mut head)?;
    let unknown = |what: &str| Description::new(Kind::Model(Format::Pytorch), what);
    if is_zip(&head, input)? {
        return archive(path, input, findings);
    }
    if tar::is_tar(&head) {
        return tar::inspect(path, input, findings);
    }
    if let Some(what) = foreign(&head).or((head.is_empty()).then_some("an empty file")) {
        let why = format!("the file is {what}, no PyTorch file: other tools would unpack or run it");
        findings.add(path, &FOREIGN, Place::whole(), why);
        return Ok(unknown(what));
    }
    legacy::inspect(path, input, findings)
}

/// Whether the file is a zip by its front, or by its end as readers look for it.
fn is_zip(head: &[u8], input: &dyn Input) -> Result<bool> {
    if head.starts_with(b"PK") {
        return Ok(true);
    }
    let length = input.size().min(22 + 0xffff) as usize;
    let mut tail = vec![0; length];
    input.read_at(input.size() - length as u64, &mut tail)?;
    // Four bytes alone may be a weight's: what follows them must be an end record that stands at the end.
    Ok(tail.windows(22).enumerate().any(|(at, w)| {
        w.starts_with(b"PK\x05\x06") && at + 22 + usize::from(u16::from_le_bytes([w[20], w[21]])) <= length
    }))
}

/// What these first bytes are, when it is something that is unpacked or run and no PyTorch file.
fn foreign(head: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 20] = [
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\xfd7zXZ\0", "xz data"),
        (b"\x28\xb5\x2f\xfd", "zstd data"),
        (b"\x04\x22\x4d\x18", "lz4 data"),
        (b"BZh91AY&SY", "bzip2 data"),
        (b"\x7fELF", "a program (ELF)"),
        (b"\xcf\xfa\xed\xfe", "a program (Mach-O)"),
        (b"\xca\xfe\xba\xbe", "a program (Java, Mach-O)"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"MSCF\0\0\0\0", "a cabinet archive"),
        (b"!<arch>\n", "an ar archive"),
        (b"PYTORCH1", "a preview of PyTorch's archive"),
        (b"#!/", "a script"),
        (b"<?xml", "XML"),
        (b"<!DOCTYPE", "a web page"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b"MZ", "a program (Windows)"),
    ];
    if matches!(head.get(4..8), Some(b"ET12" | b"PTMF")) {
        return Some("a program for ExecuTorch or PyTorch Mobile");
    }
    MAGICS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, what)| *what)
}

/// The same for what may be weights: only of what could not be by chance.
fn foreign_in_weights(head: &[u8]) -> Option<&'static str> {
    foreign(head).filter(|what| !matches!(*what, "gzip data" | "a script" | "a program (Windows)"))
}

/// The members of a zip by their roles.
struct Roles<'a> {
    object: &'a Member,
    /// In each place that readers look for it.
    versions: Vec<&'a Member>,
    byteorder: Option<&'a Member>,
    storages: HashMap<&'a str, &'a Member>,
    words: Vec<&'a Member>,
    others: Vec<&'a Member>,
}

impl<'a> Roles<'a> {
    /// None when the object is missing.
    fn of(members: &'a [Member], folder: &str) -> Option<Roles<'a>> {
        let below = |m: &'a Member| m.name.strip_prefix(folder)?.strip_prefix('/');
        let find = |what: &str| members.iter().find(|m| below(m) == Some(what));
        let object = find("data.pkl")?;
        let versions = [find("version"), find(".data/version")].into_iter().flatten().collect();
        let mut roles = Roles {
            object,
            versions,
            byteorder: find("byteorder"),
            storages: HashMap::new(),
            words: Vec::new(),
            others: Vec::new(),
        };
        for member in members.iter().filter(|m| !m.is_folder()) {
            match below(member) {
                Some("data.pkl" | "version" | ".data/version" | "byteorder") => {}
                Some(".format_version" | ".storage_alignment" | ".data/serialization_id") => roles.words.push(member),
                Some(name) => match name.strip_prefix("data/") {
                    Some(key) => drop(roles.storages.insert(key, member)),
                    None => roles.others.push(member),
                },
                None => roles.others.push(member),
            }
        }
        Some(roles)
    }
}

fn archive(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let mut description = Description::new(Kind::Model(Format::Pytorch), "a zip archive");
    let Some(members) = zip::members(path, input, findings)? else { return Ok(description) };
    let object = members.iter().find(|m| m.name.ends_with("/data.pkl") && m.name.matches('/').count() == 1);
    let folder = object.and_then(|m| m.name.split('/').next());
    code(path, &members, findings);
    let Some((folder, roles)) = folder.and_then(|folder| Some((folder, Roles::of(&members, folder)?))) else {
        findings.add(
            path,
            &OTHER,
            Place::whole(),
            "a zip archive that is no PyTorch file (it has no data.pkl in a folder)",
        );
        for member in &members {
            look_into(path, input, member, findings)?;
        }
        return Ok(description);
    };
    for member in members.iter().filter(|m| !m.name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))) {
        let why = format!(
            "{:?} is outside the folder {:?}: PyTorch does not see it, or not the rest",
            shorten(&member.name),
            shorten(folder)
        );
        findings.add(path, &FOLDER, Place::part(&member.name), why);
    }
    for member in roles.others.iter().filter(|m| kind_of_code(&m.name).is_none()) {
        let why = format!("torch.save writes no {:?}", shorten(&member.name));
        findings.add(path, &MEMBER, Place::part(&member.name), why);
        look_into(path, input, member, findings)?;
    }
    for member in &roles.words {
        word(path, input, member, findings)?;
    }
    version(path, input, &roles.versions, findings)?;
    if let Some(member) = roles.byteorder {
        let said = word(path, input, member, findings)?;
        if said.as_deref() != Some(b"little") {
            let said = shorten(&String::from_utf8_lossy(&said.unwrap_or_default()));
            let why = format!(
                "the byte order is {said:?}: only little-endian files are supported, others are read as nonsense"
            );
            findings.add(path, &BYTEORDER, Place::part(&member.name), why);
        }
    }
    let Some(bytes) = whole(path, input, roles.object, findings)? else { return Ok(description) };
    let mut out = pickle::Out { path, part: Some(&roles.object.name), findings };
    let walk = pickle::walk(&bytes, 0, &mut out)?;
    if let Some(root) = walk.root {
        pickle::walk_trailing(&bytes, walk.end, &mut out)?;
        description.tensors = state::tensors(&walk, root, &mut out);
    }
    let used = sizes(&walk.heap.storages, &roles, &mut out);
    let count = roles.storages.len();
    storages(path, input, &roles, &used, findings)?;
    let kind =
        if walk.root.is_some_and(|root| state::is_dict(&walk, root)) { "PyTorch state dict" } else { "PyTorch object" };
    description.what = format!("{kind}, {} tensors in {count} storages, zip", description.tensors.len());
    Ok(description)
}

/// Archives of the same form that hold code: each kind of it is named once.
fn code(path: &RelPath, members: &[Member], findings: &mut Findings) {
    let mut kinds: Vec<(&str, &str, usize)> = Vec::new();
    for member in members {
        let Some(what) = kind_of_code(&member.name) else { continue };
        match kinds.iter_mut().find(|(kind, ..)| *kind == what) {
            Some((_, _, more)) => *more += 1,
            None => kinds.push((what, &member.name, 0)),
        }
    }
    for (what, name, more) in kinds {
        let why =
            format!("{:?} and {more} other members are {what}: loading the archive runs what it holds", shorten(name));
        findings.add(path, &CODE, Place::part(name), why);
    }
}

/// What a member's name makes of an archive.
fn kind_of_code(name: &str) -> Option<&'static str> {
    // PyTorch's reader (miniz) does not tell cases apart.
    let name = name.to_ascii_lowercase();
    let below = name.split_once('/').map_or(name.as_str(), |(_, below)| below);
    Some(match below {
        "constants.pkl" => "TorchScript",
        _ if below.starts_with("code/") || below.starts_with("constants/") => "TorchScript",
        ".data/extern_modules" | ".data/python_version" => "a torch.package",
        "archive_format" => "an exported program",
        "bytecode.pkl" | "mobile_debug_handles.pkl" => "a program for PyTorch Mobile",
        _ if below.ends_with(".py") || below.ends_with(".so") => "code",
        _ => return None,
    })
}

/// A member's bytes as far as `keep`, after its size and CRC were checked; none when they were not as they should be.
fn read(
    path: &RelPath,
    input: &dyn Input,
    member: &Member,
    keep: usize,
    findings: &mut Findings,
) -> Result<Option<Vec<u8>>> {
    let mut kept = Vec::new();
    let result = contents(input, member, &mut |bytes| {
        let more = bytes.len().min(keep - kept.len());
        kept.extend_from_slice(&bytes[..more]);
    });
    match result {
        Ok(()) => Ok(Some(kept)),
        Err(Halt::Failed(e)) => Err(e),
        // What loaders would see all the same is walked: PyTorch's reader looks at no CRC.
        Err(found) => {
            findings.halt(path, found)?;
            Ok((!kept.is_empty()).then_some(kept))
        }
    }
}

/// The object's pickle.
fn whole(path: &RelPath, input: &dyn Input, member: &Member, findings: &mut Findings) -> Result<Option<Vec<u8>>> {
    if member.size > pickle::MAX_PICKLE {
        let why = format!("{:?} has {} bytes, more than {}", shorten(&member.name), member.size, pickle::MAX_PICKLE);
        findings.add(path, &pickle::LIMIT, Place::part(&member.name), why);
        return Ok(None);
    }
    read(path, input, member, pickle::MAX_PICKLE as usize, findings)
}

/// A short word; none when it is too long to be one.
fn word(path: &RelPath, input: &dyn Input, member: &Member, findings: &mut Findings) -> Result<Option<Vec<u8>>> {
    let bytes = read(path, input, member, MAX_WORD + 1, findings)?;
    let bytes = bytes.filter(|bytes| bytes.len() <= MAX_WORD);
    let program = match &bytes {
        Some(bytes) => pickle::is_program(path, bytes)?,
        None => true,
    };
    if program {
        look_into(path, input, member, findings)?;
        let why = format!("{:?} holds more than the word that belongs there", shorten(&member.name));
        findings.add(path, &MEMBER, Place::part(&member.name), why);
    }
    Ok(bytes)
}

fn version(path: &RelPath, input: &dyn Input, members: &[&Member], findings: &mut Findings) -> Result<()> {
    if members.is_empty() {
        findings.add(
            path,
            &VERSION,
            Place::whole(),
            "there is no version: PyTorch refuses the file, other readers do not",
        );
    }
    for member in members {
        let said = word(path, input, member, findings)?.unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let digits = said.strip_suffix('\n').unwrap_or(&said);
        let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        if !number.is_some_and(|n| VERSIONS.contains(&n)) {
            let why = format!("the version is {:?}; {VERSIONS:?} are known", shorten(&said));
            findings.add(path, &VERSION, Place::part(&member.name), why);
        }
    }
    Ok(())
}

/// A member that nobody expects: its bytes are checked, and pickles and archives in it are found, by whatever name.
fn look_into(path: &RelPath, input: &dyn Input, member: &Member, findings: &mut Findings) -> Result<()> {
    let fits = member.size <= pickle::MAX_PICKLE;
    let keep = if fits { pickle::MAX_PICKLE as usize } else { HEAD };
    let Some(bytes) = read(path, input, member, keep, findings)? else { return Ok(()) };
    let content = recognise(&bytes.as_slice())?;
    let sorted = matches!(content.sort(), Sort::Executable | Sort::Archive | Sort::OtherModel)
        || matches!(content, Content::Llamafile | Content::Php | Content::Zip | Content::Tar);
    if let Some(what) = foreign(&bytes).or(sorted.then_some(content.name())) {
        let why = format!("{:?} is {what} within the archive, where scanners do not look", shorten(&member.name));
        findings.add(path, &NESTED, Place::part(&member.name), why);
    }
    let extension = member.name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase());
    let named =
        matches!(extension.as_deref(), Some("pkl" | "pickle" | "pt" | "pth" | "ckpt" | "bin" | "joblib" | "dill"));
    let looks = matches!(bytes.as_slice(), [0x80, 2..=5, ..]);
    if named || looks || pickle::is_program(path, &bytes)? {
        let mut out = pickle::Out { path, part: Some(&member.name), findings };
        let walk = pickle::walk(&bytes, 0, &mut out)?;
        if walk.root.is_some() {
            pickle::walk_trailing(&bytes, walk.end, &mut out)?;
        }
        if walk.named {
            let why = format!("{:?} is a pickle that names functions, where none belongs", shorten(&member.name));
            out.add(&pickle::HIDDEN, Place::part(&member.name), why);
        }
    }
    Ok(())
}

/// Holds the storages that the pickle asks for against the members; the keys of those that are there.
fn sizes<'a>(asked: &'a [StorageRef], roles: &Roles<'_>, out: &mut pickle::Out<'_>) -> HashSet<&'a str> {
    let mut used = HashSet::new();
    for storage in asked {
        let (place, needs) = (out.place(storage.at), storage.count.saturating_mul(storage.element.bytes));
        match roles.storages.get(storage.key.as_str()) {
            None => out.add(&STORAGE, place, format!("storage {:?} is missing from the archive", storage.key)),
            Some(member) if member.size != needs => {
                let why = format!(
                    "storage {:?} needs {needs} bytes, its member has {}: a loader would read out of bounds",
                    storage.key, member.size
                );
                out.add(&STORAGE, place, why);
            }
            Some(_) => {}
        }
        used.insert(storage.key.as_str());
    }
    used
}

/// Reads all storages through, for their CRC and for what does not belong in them.
fn storages(
    path: &RelPath,
    input: &dyn Input,
    roles: &Roles<'_>,
    used: &HashSet<&str>,
    findings: &mut Findings,
) -> Result<()> {
    let mut all: Vec<(&&str, &&Member)> = roles.storages.iter().collect();
    all.sort_by_key(|(_, member)| member.data_at);
    for (key, member) in all {
        if !used.contains(*key) {
            let why = format!("no tensor is in {:?}", shorten(&member.name));
            findings.add(path, &UNUSED, Place::part(&member.name), why);
            look_into(path, input, member, findings)?;
            continue;
        }
        let Some(head) = read(path, input, member, HEAD, findings)? else { continue };
        if let Some(what) = foreign_in_weights(&head) {
            let why = format!("the weights {:?} are {what}", shorten(&member.name));
            findings.add(path, &NESTED, Place::part(&member.name), why);
        }
        if pickle::is_program(path, &head)? {
            let why = format!("the weights {:?} are a pickle that names functions", shorten(&member.name));
            findings.add(path, &pickle::HIDDEN, Place::part(&member.name), why);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
