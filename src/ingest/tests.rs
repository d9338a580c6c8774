//! Tests of the pass.
//!
//! Owns: what one pass over a source comes to, and what it leaves when it fails. Promises: nothing. Leaves out: promotion as a
//! whole (tests/core.rs).

use super::*;
use crate::layout::Access;
use crate::source::Source;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1]).collect()
}

/// A GGUF of tensors of bytes at `(offset, length)`, in any order, with `extra` bytes after the last of them; and where its data
/// begin.
fn gguf(tensors: &[(u64, u64)], extra: usize) -> (Vec<u8>, usize) {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend([tensors.len() as u64, 0].map(u64::to_le_bytes).as_flattened());
    for (i, (offset, length)) in tensors.iter().enumerate() {
        let name = format!("t{i}");
        file.extend((name.len() as u64).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(length.to_le_bytes());
        // I8.
        file.extend(24u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    let start = file.len();
    let end = tensors.iter().map(|(offset, length)| offset + length).max().unwrap_or(0);
    file.extend(data(end as usize + extra));
    (file, start)
}

struct Fixture {
    dir: tempfile::TempDir,
    layout: Layout,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::open(&dir.path().join("root"), Access::Create).expect("a root");
        Fixture { dir, layout }
    }

    fn source(&self, bytes: &[u8], name: &str) -> Source {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        Source::open(&path).expect("opens")
    }

    fn temp(&self) -> std::path::PathBuf {
        self.dir.path().join("root/tmp")
    }

    fn take(&self, source: &Source, transfer: Transfer, task: &Task<'_>) -> Result<Staged> {
        let mut meter = Meter { task, done: 0, total: source.size_bytes() };
        take_in(&self.layout, &source.files[0], transfer, &mut meter)
    }

    fn is_clean(&self) -> bool {
        std::fs::read_dir(self.temp()).expect("there").next().is_none()
    }
}

fn plain(bytes: &[u8], start: usize, tensors: &[(u64, u64)]) -> Vec<Sha256Digest> {
    let tensor =
        |(offset, length): &(u64, u64)| Sha256Digest::of(&bytes[start + *offset as usize..][..*length as usize]);
    tensors.iter().map(tensor).collect()
}

const P: u64 = PIECE as u64;

#[test]
fn one_pass_hashes_the_file_its_tree_and_every_tensor() {
    let fixture = Fixture::new();
    for (tensors, extra) in [
        (&[][..], 0),
        (&[(0, 1)], 0),
        (&[(0, 100), (128, 1000), (1152, 7)], 25),
        // Out of order, with gaps, over the ends of pieces, and over more pieces than are in flight.
        (&[(3 * P, 20 * P + 77), (32, P - 32), (P, P + 5), (24 * P, 64), (24 * P + 64, 3 * P)], 4097),
    ] {
        let (bytes, start) = gguf(tensors, extra);
        for (transfer, method) in [(Transfer::Copy, Method::Copied), (Transfer::Move, Method::Adopted)] {
            let source = fixture.source(&bytes, "m.gguf");
            let staged = fixture.take(&source, transfer, &Task::unattended()).expect("taken in");
            let FileEntry { sha256, blake3, size_bytes, .. } = staged.entry;
            assert_eq!(sha256, Sha256Digest::of(&bytes));
            assert_eq!(blake3.as_bytes(), ::blake3::hash(&bytes).as_bytes());
            assert_eq!(size_bytes, bytes.len() as u64);
            let taken = staged.tensors.as_ref().expect("a sound header");
            assert_eq!(taken.digests, plain(&bytes, start, tensors));
            assert_eq!(taken.header.tensors.len(), tensors.len());
            assert!(
                std::fs::read(fixture.temp().join(staged.temps().next().expect("a copy"))).expect("there") == bytes
            );
            // A file system that shares blocks copies none.
            assert!(staged.method == method || staged.method == Method::Reflinked, "{:?}", staged.method);
            staged.temps().for_each(|temp| fixture.layout.discard(temp));
            drop(staged);
            std::fs::remove_file(fixture.dir.path().join("m.gguf")).expect("there");
        }
    }
    assert!(fixture.is_clean());
}

#[test]
fn what_is_not_a_sound_gguf_has_no_tensors_and_is_hashed_all_the_same() {
    let fixture = Fixture::new();
    let safetensors = [b"\x02\0\0\0\0\0\0\0{}".as_slice(), &data(100)].concat();
    let (overlapping, _) = gguf(&[(0, 100), (64, 100)], 0);
    let (mut past_the_end, _) = gguf(&[(0, 100)], 0);
    past_the_end.truncate(past_the_end.len() - 1);
    for (bytes, name) in [
        (&safetensors, "m.safetensors"),
        (&b"{}".to_vec(), "config.json"),
        (&overlapping, "m.gguf"),
        (&past_the_end, "m.gguf"),
    ] {
        let staged = fixture.take(&fixture.source(bytes, name), Transfer::Copy, &Task::unattended()).expect("taken in");
        assert!(staged.tensors.is_none(), "{name}");
        assert_eq!(staged.entry.sha256, Sha256Digest::of(bytes));
        staged.temps().for_each(|temp| fixture.layout.discard(temp));
    }
    assert!(fixture.is_clean());
}

/// Whatever is in flight then: the reader helps with tensors, waits for the hash, or waits for a write.
#[test]
fn a_pass_that_ends_early_leaves_nothing() {
    let (bytes, _) = gguf(&[(0, 14 * P)], 0);
    for stop in [0, 7, 12] {
        for cause in ["cancelled", "longer", "shorter", "written"] {
            let fixture = Fixture::new();
            let source = fixture.source(&bytes, "m.gguf");
            let path = fixture.dir.path().join("m.gguf");
            let (flag, mut steps) = (AtomicBool::new(false), 0);
            let act = |_: Progress| {
                if steps == stop {
                    interfere(&path, cause, &flag);
                }
                steps += 1;
            };
            let task = Task::unattended().with_progress(act).cancelled_by(&flag);
            let kind = fixture.take(&source, Transfer::Copy, &task).expect_err(cause).kind();
            let expected = if cause == "cancelled" { ErrorKind::Cancelled } else { ErrorKind::SourceChanged };
            assert_eq!(kind, expected, "{cause} after {stop} pieces");
            assert!(fixture.is_clean(), "{cause} after {stop} pieces");
        }
    }
}

fn interfere(path: &Path, cause: &str, flag: &AtomicBool) {
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(path).expect("opens");
    let len = file.metadata().expect("there").len();
    match cause {
        "cancelled" => flag.store(true, Ordering::Relaxed),
        "longer" => file.set_len(len + 1).expect("longer"),
        "shorter" => file.set_len(len - 1).expect("shorter"),
        _ => file.write_all_at(b"x", len / 2).expect("written"),
    }
}

#[test]
fn the_staged_copy_is_read_through_its_tree() {
    use crate::format::input::Input;
    use std::os::unix::fs::FileExt;
    let fixture = Fixture::new();
    let (bytes, _) = gguf(&[(0, 300_000)], 0);
    let source = fixture.source(&bytes, "m.gguf");
    let staged = fixture.take(&source, Transfer::Copy, &Task::unattended()).expect("taken in");
    let open = || staged.checked(&fixture.layout).expect("its own tree");
    let mut out = vec![0; bytes.len()];
    open().read_at(0, &mut out).expect("good");
    assert!(out == bytes);
    let path = fixture.temp().join(staged.temps().next().expect("a copy"));
    rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR).expect("ours");
    File::options().write(true).open(&path).expect("ours").write_all_at(b"?", 150_000).expect("written");
    assert_eq!(open().read_at(0, &mut out).expect_err("changed").kind(), ErrorKind::SourceChanged);
}
