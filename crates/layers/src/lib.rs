//! Layers that are archives.
//!
//! Owns: tar, plain, gzip or zstd, unpacked into a private folder. Promises: regular files and folders only, names as the core's
//! allow-list has them, no file twice, no more bytes than the disk may give; the folder goes when this is dropped; what
//! is read, the caller has checked or checks. Leaves out: judging what was in them.

#![forbid(unsafe_code)]

use flate2::read::MultiGzDecoder;
use rustix::fs::{FlockOperation, Mode, OFlags};
use securereg::{Error, ErrorKind, RelPath, Result, VerifiedFile};
use securereg_oci::model::Packaging;
use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use tempfile::TempDir;

/// Files of one model, as the core has it.
const MAX_FILES: usize = 10_000;
/// An archive of more than this many times its size is a bomb: weights hardly compress, text at most so much.
const MAX_RATIO: u64 = 200;

/// A private folder, and what was unpacked into it.
#[derive(Debug)]
pub struct Unpacked {
    folder: TempDir,
    /// Locked for as long as the folder is in use.
    _in_use: OwnedFd,
    files: usize,
}

const PREFIX: &str = ".unpacked-";

/// Removes what processes that were killed had unpacked below `parent`; how many folders.
pub fn sweep(parent: &Path) -> Result<usize> {
    // While nobody makes one, which would not be locked yet.
    let alone = locked(parent, FlockOperation::LockExclusive)?;
    let mut left = Vec::new();
    for entry in fs::read_dir(parent).map_err(|e| io("looking for what was unpacked", &e))? {
        let entry = entry.map_err(|e| io("looking for what was unpacked", &e))?;
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let unused = locked(&entry.path(), FlockOperation::NonBlockingLockExclusive).ok();
            left.extend(unused.map(|lock| (entry.path(), lock)));
        }
    }
    // They stay locked; who unpacks need not wait until they are gone.
    drop(alone);
    let removed: Vec<_> = left.iter().map(|(folder, _)| fs::remove_dir_all(folder)).collect();
    let swept = removed.iter().filter(|removed| removed.is_ok()).count();
    match removed.into_iter().find_map(Result::err) {
        None => Ok(swept),
        Some(e) => Err(io("removing what was unpacked", &e)),
    }
}

fn locked(folder: &Path, how: FlockOperation) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = rustix::fs::open(folder, flags, Mode::empty());
    let locked = opened.and_then(|folder| rustix::fs::flock(&folder, how).map(|()| folder));
    locked.map_err(|e| io("locking a folder to unpack into", &e.into()))
}

impl Unpacked {
    /// An empty folder below `parent`.
    pub fn new(parent: &Path) -> Result<Unpacked> {
        let _unswept = locked(parent, FlockOperation::LockShared)?;
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(parent)
            .map_err(|e| io("making a folder to unpack into", &e))?;
        let in_use = locked(folder.path(), FlockOperation::LockShared)?;
        Ok(Unpacked { folder, _in_use: in_use, files: 0 })
    }

    /// Unpacks one layer of `size` bytes; of one that is no archive, nothing.
    ///
    /// # Errors
    /// `Refused` when it is no whole archive, holds anything but files and folders, a path that is there already, or too much; or when
    /// another reader would find more in it than this one.
    pub fn add(&mut self, layer: impl Read, packaging: Packaging, size: u64) -> Result<()> {
        let limit = size.saturating_mul(MAX_RATIO).saturating_add(1 << 20);
        let mut reader = BufReader::with_capacity(1 << 20, layer);
        let (folder, files) = (self.folder.path(), &mut self.files);
        match packaging {
            Packaging::Raw => return Ok(()),
            Packaging::Tar => unpack(&mut reader, folder, limit, files)?,
            Packaging::TarGzip => unpack(MultiGzDecoder::new(&mut reader), folder, limit, files)?,
            Packaging::TarZstd => {
                let plain = ruzstd::decoding::StreamingDecoder::new(&mut reader)
                    .map_err(|e| refused(format!("a layer is no zstd: {e}")))?;
                unpack(plain, folder, limit, files)?;
            }
        }
        // A second frame, say, which some decoders take and this one does not.
        match reader.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(refused("a layer has bytes behind its end: pack it in one piece".into())),
            Err(e) => Err(io("reading a layer", &e)),
        }
    }

    /// The folder; it goes when this is dropped.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A stored blob as a stream.
#[derive(Debug)]
pub struct Verified {
    file: VerifiedFile,
    at: u64,
}

impl Verified {
    /// From its first byte on.
    pub fn new(file: VerifiedFile) -> Verified {
        Verified { file, at: 0 }
    }
}

impl Read for Verified {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(out, self.at).map_err(std::io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::Refused, why)
}

/// A stream that may give so much, and so much at once outside of files: long names and the like are read into memory.
struct Bounded<R> {
    inner: R,
    left: u64,
    /// Bytes until the next file's; unbounded inside of one.
    between: Rc<Cell<u64>>,
}

/// What stands between two files: padding, headers, long names, attributes.
const BETWEEN: u64 = 256 << 10;

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(out)? as u64;
        self.left = self.left.checked_sub(n).ok_or_else(|| std::io::Error::other("it unpacks to too much"))?;
        let between = self.between.get().checked_sub(n);
        self.between
            .set(between.ok_or_else(|| std::io::Error::other("it has a name or attributes that are too long"))?);
        Ok(n as usize)
    }
}

fn unpack(archive: impl Read, folder: &Path, limit: u64, files: &mut usize) -> Result<()> {
    let broken = |e: std::io::Error| refused(format!("a layer is no whole archive: {e}"));
    let between = Rc::new(Cell::new(BETWEEN));
    let mut archive = tar::Archive::new(Bounded { inner: archive, left: limit, between: Rc::clone(&between) });
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        between.set(BETWEEN);
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        check_attributes(&mut entry, &name)?;
        *files += 1;
        if *files > MAX_FILES {
            return Err(refused(format!("the layers hold more than {MAX_FILES} files and folders")));
        }
        let plain = name.strip_prefix("./").unwrap_or(&name).trim_end_matches('/');
        if kind.is_dir() && (plain.is_empty() || plain == ".") {
            continue;
        }
        let path: RelPath = plain.parse()?;
        if kind.is_dir() {
            fs::create_dir_all(folder.join(&path)).map_err(|e| io("unpacking", &e))?;
            continue;
        }
        if !kind.is_file() {
            return Err(refused(format!("{path} in a layer is a link or a device: only files and folders are taken")));
        }
        let to = folder.join(&path);
        if let Some(above) = to.parent() {
            fs::create_dir_all(above).map_err(|e| io("unpacking", &e))?;
        }
        // No file twice: the second would hide what the first was.
        let mut file = OpenOptions::new().write(true).create_new(true).open(&to).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => refused(format!("{path} is in the layers twice")),
            _ => io(&format!("unpacking {path}"), &e),
        })?;
        let size = entry.size();
        between.set(u64::MAX);
        let written = std::io::copy(&mut entry, &mut file).map_err(|e| match e.kind() {
            std::io::ErrorKind::Other => refused(format!("{path} in a layer: {e}")),
            _ => io(&format!("unpacking {path}"), &e),
        })?;
        between.set(BETWEEN);
        if written != size {
            return Err(refused(format!("{path} in a layer ends early")));
        }
    }
    // Behind the end of an archive stand zeros; a reader that goes on behind them must find nothing.
    between.set(u64::MAX);
    let mut rest = archive.into_inner();
    let mut bytes = vec![0; 64 << 10];
    loop {
        match rest.read(&mut bytes).map_err(broken)? {
            0 => return Ok(()),
            n if bytes[..n].iter().all(|b| *b == 0) => {}
            _ => return Err(refused("a layer has something behind the end of its archive".into())),
        }
    }
}

/// Attributes (POSIX pax) that make other readers see another name, size or content than this one: sparse files and global headers.
fn check_attributes<R: Read>(entry: &mut tar::Entry<'_, R>, name: &str) -> Result<()> {
    if entry.header().entry_type().is_pax_global_extensions() {
        return Err(refused(
            "a layer has a global header, which readers take in different ways: pack it without".into(),
        ));
    }
    let extensions = entry.pax_extensions().map_err(|e| refused(format!("a layer is no whole archive: {e}")))?;
    for extension in extensions.into_iter().flatten() {
        let extension = extension.map_err(|e| refused(format!("a layer is no whole archive: {e}")))?;
        if extension.key_bytes().starts_with(b"GNU.sparse") {
            return Err(refused(format!("{name:?} in a layer is a sparse file: pack it as it is")));
        }
    }
    Ok(())
}

fn io(what: &str, e: &std::io::Error) -> Error {
    let kind = if e.kind() == std::io::ErrorKind::StorageFull { ErrorKind::NoSpace } else { ErrorKind::Io };
    Error::new(kind, format!("{what}: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn archive(files: &[(&str, &[u8])]) -> tar::Builder<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder
    }

    fn whole(files: &[(&str, &[u8])]) -> Vec<u8> {
        archive(files).into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn add(layer: &[u8], packaging: Packaging) -> std::result::Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let mut unpacked = Unpacked::new(dir.path()).unwrap();
        unpacked.add(layer, packaging, layer.len() as u64).map_err(|e| e.to_string())?;
        let mut names: Vec<String> =
            fs::read_dir(unpacked.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        Ok(names)
    }

    /// What a killed process leaves is swept, what is in use or not ours is not.
    #[test]
    fn folders_of_killed_processes_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let used = Unpacked::new(dir.path()).unwrap();
        for left in [".unpacked-left", "mine"] {
            fs::create_dir_all(dir.path().join(left).join("sub")).unwrap();
            fs::write(dir.path().join(left).join("sub/weights"), b"w").unwrap();
        }
        std::os::unix::fs::symlink("mine", dir.path().join(".unpacked-link")).unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), 1);
        assert!(!dir.path().join(".unpacked-left").exists());
        assert!(used.path().exists() && dir.path().join("mine/sub/weights").exists());
        drop(used);
        assert_eq!(sweep(dir.path()).unwrap(), 0);
        assert!(sweep(&dir.path().join("none")).is_err());
    }

    #[test]
    fn ordinary_archives_are_unpacked() {
        let plain = whole(&[("a.txt", b"a"), ("dir/b.txt", b"b")]);
        for (layer, packaging) in [
            (plain.clone(), Packaging::Tar),
            (gzip(&plain), Packaging::TarGzip),
            (zstd(&plain), Packaging::TarZstd),
            ([plain.clone(), vec![0; 10_240]].concat(), Packaging::Tar),
        ] {
            assert_eq!(add(&layer, packaging).unwrap(), ["a.txt", "dir"], "{packaging:?}");
        }
    }

    /// What one reader unpacks and another does not would be pulled by some without having been judged.
    #[test]
    fn archives_that_readers_take_in_different_ways_are_refused() {
        let (one, two) = (whole(&[("a", b"1")]), whole(&[("b", b"2")]));
        let unended = one[..1024].to_vec();
        let pax = |key: &str| {
            let mut builder = archive(&[]);
            builder.append_pax_extensions([(key, b"x".as_slice())]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(1);
            builder.append_data(&mut header, "a", b"1".as_slice()).unwrap();
            builder.into_inner().unwrap()
        };
        let global = {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::XGlobalHeader);
            header.set_size(0);
            header.set_cksum();
            [header.as_bytes().as_slice(), &one].concat()
        };
        for (layer, packaging, why) in [
            ([zstd(&unended), zstd(&two)].concat(), Packaging::TarZstd, "behind its end"),
            ([zstd(&one), b"x".to_vec()].concat(), Packaging::TarZstd, "behind its end"),
            ([one.clone(), two.clone()].concat(), Packaging::Tar, "behind the end of its archive"),
            (gzip(&[one.clone(), two].concat()), Packaging::TarGzip, "behind the end of its archive"),
            (pax("GNU.sparse.major"), Packaging::Tar, "sparse"),
            (pax("GNU.sparse.name"), Packaging::Tar, "sparse"),
            (global, Packaging::Tar, "global header"),
            (whole(&[("a", b"1"), ("a", b"2")]), Packaging::Tar, "twice"),
            (one[..700].to_vec(), Packaging::Tar, "whole archive"),
            (b"not a gzip".to_vec(), Packaging::TarGzip, "whole archive"),
        ] {
            let refused = add(&layer, packaging).unwrap_err();
            assert!(refused.contains(why), "{refused} should say {why:?}");
        }
        assert!(add(&pax("comment"), Packaging::Tar).is_ok());
    }

    #[test]
    fn bombs_are_refused_before_they_fill_anything() {
        let zeros = vec![0; 64 << 20];
        let bomb = gzip(&whole(&[("a", &zeros)]));
        assert!(add(&bomb, Packaging::TarGzip).unwrap_err().contains("too much"));
        // At the limit, nothing is taken for the end.
        let long = "x".repeat(1 << 20);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(long.len() as u64);
        header.set_cksum();
        let name = [header.as_bytes().as_slice(), long.as_bytes(), &whole(&[("a", b"1")])].concat();
        assert!(add(&name, Packaging::Tar).unwrap_err().contains("too long"));
        let mut folders = archive(&[]);
        for n in 0..=MAX_FILES {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            folders.append_data(&mut header, format!("d/{n}"), std::io::empty()).unwrap();
        }
        assert!(add(&folders.into_inner().unwrap(), Packaging::Tar).unwrap_err().contains("more than"));
    }
}
