//! The content of repositories: what is pushed is durable, is its repository's own, and is dropped when nobody holds it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use securereg::*;
use sha2::Digest as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use support::*;

fn repo(s: &str) -> RepositoryName {
    s.parse().unwrap()
}

fn sha256(bytes: &[u8]) -> ContentDigest {
    Sha256Digest::of(bytes).into()
}

fn sha512(bytes: &[u8]) -> ContentDigest {
    ContentDigest::Sha512(sha2::Sha512::digest(bytes).into())
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u64).wrapping_mul(0x9e37_79b9).to_le_bytes()[3]).collect()
}

fn push(content: &Content, to: &str, bytes: &[u8]) -> Result<Held> {
    let mut upload = content.begin(&repo(to))?;
    upload.append(bytes)?;
    upload.finish(&sha256(bytes))
}

fn read(content: &Content, from: &str, digest: &ContentDigest) -> Result<Vec<u8>> {
    let file = content.open(&repo(from), digest)?;
    let mut out = vec![0; file.len() as usize];
    assert_eq!(file.read_at(&mut out, 0)?, out.len());
    Ok(out)
}

fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.unwrap_err().kind()
}

impl Stored for Root {}

trait Stored {
    fn blob_at(&self, bytes: &[u8]) -> PathBuf
    where
        Self: AsRoot,
    {
        self.root().join("blobs/sha256").join(Sha256Digest::of(bytes).to_hex())
    }

    fn is_stored(&self, bytes: &[u8]) -> bool
    where
        Self: AsRoot,
    {
        let tree = self.root().join("trees").join(Sha256Digest::of(bytes).to_hex());
        assert_eq!(tree.exists(), self.blob_at(bytes).exists());
        tree.exists()
    }
}

trait AsRoot {
    fn root(&self) -> PathBuf;
}

impl AsRoot for Root {
    fn root(&self) -> PathBuf {
        self.path().to_owned()
    }
}

const G: usize = GROUP as usize;
const PIECE: usize = 2 << 20;

#[test]
fn what_is_pushed_in_any_pieces_is_held_and_reads_back() {
    let root = Root::new();
    let content = root.registry.content();
    for len in [0, 1, G - 1, G, G + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + G + 7] {
        let bytes = data(len);
        for piece in [len.max(1), G - 1, PIECE + 5] {
            let mut upload = content.begin(&repo("a/b")).unwrap();
            for piece in bytes.chunks(piece) {
                upload.append(piece).unwrap();
            }
            assert_eq!(upload.size(), len as u64);
            let held = upload.finish(&sha256(&bytes)).unwrap();
            assert_eq!((held.size_bytes, held.sha256), (len as u64, Sha256Digest::of(&bytes)));
            assert_eq!(held.blake3.as_bytes(), blake3::hash(&bytes).as_bytes());
            assert_eq!(content.blob(&repo("a/b"), &sha256(&bytes)).unwrap(), Some(held));
            assert!(read(&content, "a/b", &sha256(&bytes)).unwrap() == bytes, "{len} in pieces of {piece}");
        }
        let mode = root.blob_at(&bytes).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
    }
}

#[test]
fn a_session_goes_on_here_and_in_another_process() {
    let root = Root::new();
    let (content, other) = (root.registry.content(), root.again().content());
    let bytes = data(2 * PIECE + G + 100);
    for cuts in [vec![5], vec![PIECE, PIECE + 1], vec![G, 2 * G + 1, PIECE + 3, 2 * PIECE]] {
        for second in [&content, &other] {
            let mut upload = content.begin(&repo("r")).unwrap();
            let id = upload.id().to_owned();
            let mut at = 0;
            for (i, cut) in cuts.iter().enumerate() {
                upload.append(&bytes[at..*cut]).unwrap();
                at = *cut;
                assert_eq!(kind(content.resume(&repo("r"), &id)), ErrorKind::Conflict);
                assert_eq!(kind(other.resume(&repo("r"), &id)), ErrorKind::Conflict);
                assert_eq!(kind(other.abandon(&repo("r"), &id)), ErrorKind::Conflict);
                // A connection that breaks leaves it as well.
                if i % 2 == 0 {
                    upload.suspend().unwrap()
                } else {
                    drop(upload)
                }
                assert_eq!(second.upload_size(&repo("r"), &id).unwrap(), at as u64);
                upload = if i % 2 == 0 { second } else { &content }.resume(&repo("r"), &id).unwrap();
                assert_eq!(upload.size(), at as u64);
            }
            upload.append(&bytes[at..]).unwrap();
            upload.finish(&sha256(&bytes)).unwrap();
            assert!(read(&content, "r", &sha256(&bytes)).unwrap() == bytes);
            assert_eq!(kind(content.resume(&repo("r"), &id)), ErrorKind::NotFound);
        }
    }
}
