//! The content of repositories: what is pushed is durable, is its repository's own, and is dropped when nobody holds it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use securereg::*;
use sha2::Digest as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
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

fn is_stored(root: &Root, bytes: &[u8]) -> bool {
    let blob = root.blob_of(bytes);
    let tree = root.path().join("trees").join(blob.file_name().unwrap());
    assert_eq!(tree.exists(), blob.exists());
    blob.exists()
}

/// What no upload may leave behind.
fn no_garbage(root: &Root, at: &str) {
    assert_eq!(root.names("tmp"), [""; 0]);
    let uploads = root.path().join("oci").join(at).join("_uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
}

const G: usize = GROUP as usize;
const PIECE: usize = 1 << 20;

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
        let mode = root.blob_of(&bytes).metadata().unwrap().permissions().mode();
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

/// A process that was killed leaves what it had written, and nobody in this one knows of it.
#[test]
fn what_a_killed_process_had_written_is_hashed_once_and_goes_on() {
    let root = Root::new();
    let content = root.registry.content();
    drop(content.begin(&repo("r")).unwrap());
    let id = "0123456789abcdef0123456789abcdef";
    let bytes = data(2 * PIECE + 77);
    std::fs::write(root.path().join("oci/r/_uploads").join(id), &bytes[..PIECE + 9]).unwrap();
    let mut upload = content.resume(&repo("r"), id).unwrap();
    assert_eq!(upload.size(), PIECE as u64 + 9);
    upload.append(&bytes[PIECE + 9..]).unwrap();
    upload.finish(&sha256(&bytes)).unwrap();
    assert!(read(&content, "r", &sha256(&bytes)).unwrap() == bytes);
}

/// A chunk that is refused for its range costs nothing: else each would cost the hashing of all that is there.
#[test]
fn what_a_killed_process_had_written_is_hashed_only_when_there_is_more() {
    let root = Root::new();
    let content = root.registry.content();
    drop(content.begin(&repo("r")).unwrap());
    let id = "0123456789abcdef0123456789abcdef";
    // A hole, which would take many minutes to hash.
    let size = 1 << 40;
    std::fs::File::create(root.path().join("oci/r/_uploads").join(id)).unwrap().set_len(size).unwrap();
    for leave in [|upload: securereg::Upload| upload.suspend().unwrap(), drop] {
        let upload = content.resume(&repo("r"), id).unwrap();
        assert_eq!(upload.size(), size);
        leave(upload);
    }
    assert_eq!(content.upload_size(&repo("r"), id).unwrap(), size);
    content.abandon(&repo("r"), id).unwrap();
}

/// Hashes that were kept are of the file as it was.
#[test]
fn a_session_that_was_changed_behind_us_is_hashed_again() {
    let root = Root::new();
    let content = root.registry.content();
    let bytes = data(PIECE + 9);
    let mut upload = content.begin(&repo("r")).unwrap();
    let path = root.path().join("oci/r/_uploads").join(upload.id());
    upload.append(&bytes).unwrap();
    let id = upload.id().to_owned();
    upload.suspend().unwrap();
    flip(&path, 3);
    let e = content.resume(&repo("r"), &id).unwrap().finish(&sha256(&bytes)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DigestMismatch);
    no_garbage(&root, "r");
}

#[test]
fn another_digest_than_claimed_is_refused_and_leaves_nothing() {
    let root = Root::new();
    let content = root.registry.content();
    let (good, bad) = (data(G + 1), data(G + 2));
    for claimed in [sha256(&good), sha512(&good)] {
        let mut upload = content.begin(&repo("r")).unwrap();
        let id = upload.id().to_owned();
        upload.append(&bad).unwrap();
        let e = upload.finish(&claimed).unwrap_err();
        let actual = if matches!(claimed, ContentDigest::Sha256(_)) { sha256(&bad) } else { sha512(&bad) };
        assert_eq!(e.kind(), ErrorKind::DigestMismatch);
        assert_eq!(e.digests(), Some((claimed.to_string().as_str(), actual.to_string().as_str())));
        assert_eq!(kind(content.resume(&repo("r"), &id)), ErrorKind::NotFound);
    }
    no_garbage(&root, "r");
    assert!(!is_stored(&root, &bad) && content.repositories(None, 9).unwrap().is_empty());
}

#[test]
fn a_blob_is_its_repositorys_own_until_it_is_mounted_and_is_dropped_with_the_last() {
    let root = Root::new();
    let content = root.registry.content();
    let bytes = data(G + 5);
    for digest in [sha256(&bytes), sha512(&bytes)] {
        let mut upload = content.begin(&repo("a")).unwrap();
        upload.append(&bytes).unwrap();
        let held = upload.finish(&digest).unwrap();
        for other in ["b", "a/b"] {
            assert_eq!(content.blob(&repo(other), &digest).unwrap(), None);
            assert_eq!(kind(content.open(&repo(other), &digest)), ErrorKind::NotFound);
            assert!(!content.remove_blob(&repo(other), &digest).unwrap());
            assert!(!content.mount(&repo(other), &repo("c"), &digest).unwrap(), "a foreign blob");
        }
        // By the digest it was pushed by, and by no other.
        let by_other = if digest == sha256(&bytes) { sha512(&bytes) } else { sha256(&bytes) };
        assert_eq!(content.blob(&repo("a"), &by_other).unwrap(), None);
        assert!(content.mount(&repo("a"), &repo("a/b"), &digest).unwrap());
        assert_eq!(content.blob(&repo("a/b"), &digest).unwrap(), Some(held));
        assert!(content.remove_blob(&repo("a"), &digest).unwrap());
        assert!(!content.remove_blob(&repo("a"), &digest).unwrap());
        assert_eq!(content.blob(&repo("a"), &digest).unwrap(), None);
        let open = content.open(&repo("a/b"), &digest).unwrap();
        assert!(is_stored(&root, &bytes), "another repository holds it");
        assert!(content.remove_blob(&repo("a/b"), &digest).unwrap());
        assert!(!is_stored(&root, &bytes), "nobody holds it");
        assert_eq!(open.read_at(&mut [0; 5], 0).unwrap(), 5, "who has it open reads on");
    }
    // Pushed by both, it stays until both are gone.
    push(&content, "a", &bytes).unwrap();
    let mut upload = content.begin(&repo("a")).unwrap();
    upload.append(&bytes).unwrap();
    upload.finish(&sha512(&bytes)).unwrap();
    for (i, digest) in [sha512(&bytes), sha256(&bytes)].iter().enumerate() {
        assert!(is_stored(&root, &bytes));
        assert!(content.remove_blob(&repo("a"), digest).unwrap());
        assert_eq!(content.blob(&repo("a"), &sha256(&bytes)).unwrap().is_some(), i == 0);
    }
    assert!(!is_stored(&root, &bytes));
    let none = std::fs::read_dir(root.path().join("oci/a/_blobs")).unwrap().count();
    assert_eq!((none, root.names("stamps").len()), (0, 0));
}

#[test]
fn a_model_and_a_repository_keep_the_bytes_for_each_other() {
    let root = Root::new();
    let content = root.registry.content();
    for digest in [sha256 as fn(&[u8]) -> ContentDigest, sha512] {
        let bytes = gguf(G + 100, 1);
        let digest = digest(&bytes);
        let hold = || {
            let mut upload = content.begin(&repo("r")).unwrap();
            upload.append(&bytes).unwrap();
            upload.finish(&digest).unwrap();
        };
        root.promote("m", &bytes);
        hold();
        root.registry.delete(&name("m"), &me()).unwrap();
        assert!(is_stored(&root, &bytes), "the repository holds it");
        assert!(read(&content, "r", &digest).unwrap() == bytes);
        root.promote("m", &bytes);
        assert!(content.remove_blob(&repo("r"), &digest).unwrap());
        assert!(root.read("m").unwrap() == bytes, "the model holds it");
        root.registry.delete(&name("m"), &me()).unwrap();
        assert!(!is_stored(&root, &bytes));
    }
}

/// Whoever is told that a removal failed would think that the repository still holds it.
#[test]
fn a_blob_is_removed_though_its_bytes_cannot_be_dropped() {
    let root = Root::new();
    let content = root.registry.content();
    let bytes = data(100);
    push(&content, "r", &bytes).unwrap();
    let lock = root.registry.root().join("run/commit.lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    assert!(content.remove_blob(&repo("r"), &sha256(&bytes)).unwrap());
    assert_eq!(content.blob(&repo("r"), &sha256(&bytes)).unwrap(), None);
    assert!(is_stored(&root, &bytes), "left behind for gc");
}

/// A promotion that fails after it published takes away what it brought, and nothing else.
#[test]
fn a_failed_promotion_leaves_a_repositorys_blob() {
    let root = Root::new();
    let content = root.registry.content();
    let bytes = gguf(G, 3);
    push(&content, "r", &bytes).unwrap();
    let log = root.path().join("audit.jsonl");
    std::fs::create_dir(&log).unwrap();
    assert!(root.promote_path("m", &root.source("m.gguf", &bytes)).is_err());
    std::fs::remove_dir(&log).unwrap();
    assert!(read(&content, "r", &sha256(&bytes)).unwrap() == bytes);
}

#[test]
fn bytes_under_an_incident_are_pushed_and_read_and_not_promoted() {
    let root = Root::new();
    let content = root.registry.content();
    let bytes = gguf(G + 100, 1);
    root.promote("m", &bytes);
    root.registry.quarantine(&name("m"), "CVE", Some("CVE-1"), &me()).unwrap();
    for deleted in [false, true] {
        if deleted {
            root.registry.delete(&name("m"), &me()).unwrap();
        }
        push(&content, "r", &bytes).unwrap();
        assert!(read(&content, "r", &sha256(&bytes)).unwrap() == bytes);
        let files = vec![(rel("n.gguf"), sha256(&bytes))];
        let source = Source::of_content(&content, &repo("r"), files).unwrap();
        let refused =
            root.registry.promote(PromoteRequest::new(name("n")), source, &me(), &Task::unattended()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    }
}

#[test]
fn a_damaged_blob_is_refused_and_healed_by_another_push() {
    let root = Root::new();
    let (content, digest) = (root.registry.content(), sha256(&data(3 * G)));
    let other = root.again().content();
    let bytes = data(3 * G);
    push(&content, "r", &bytes).unwrap();
    let open = content.open(&repo("r"), &digest).unwrap();
    flip(&root.blob_of(&bytes), G as u64 + 5);
    assert_eq!(kind(open.read_at(&mut [0; 9], G as u64)), ErrorKind::Corrupt);
    assert_eq!(open.read_at(&mut [0; 9], 0).unwrap(), 9, "the first group is good");
    for content in [&content, &other] {
        for _ in 0..2 {
            assert_eq!(kind(content.open(&repo("r"), &digest)), ErrorKind::Corrupt);
            assert_eq!(content.blob(&repo("r"), &digest).unwrap(), None, "it is not there, so it is pushed again");
            assert!(!content.mount(&repo("r"), &repo("s"), &digest).unwrap());
        }
    }
    let files = || Source::of_content(&root.again().content(), &repo("r"), vec![(rel("m.gguf"), digest)]);
    let promoted = root.registry.promote(PromoteRequest::new(name("m")), files().unwrap(), &me(), &Task::unattended());
    assert_eq!(kind(promoted), ErrorKind::Refused, "it is junk in any case");
    push(&content, "r", &bytes).unwrap();
    for content in [&content, &other] {
        assert!(read(content, "r", &digest).unwrap() == bytes);
        assert!(content.blob(&repo("r"), &digest).unwrap().is_some());
    }
    // Lost bytes and a lost tree are the same.
    for folder in ["blobs/sha256", "trees"] {
        std::fs::remove_file(root.path().join(folder).join(root.blob_of(&bytes).file_name().unwrap())).unwrap();
        assert_eq!(kind(content.open(&repo("r"), &digest)), ErrorKind::Corrupt);
        assert_eq!(content.blob(&repo("r"), &digest).unwrap(), None);
        push(&content, "r", &bytes).unwrap();
        assert!(read(&content, "r", &digest).unwrap() == bytes);
    }
    // An altered record is refused, and another push replaces it.
    let record = root.path().join("oci/r/_blobs").join(digest.to_string().replace(':', "-"));
    for text in [
        "",
        "{}",
        "null",
        &std::fs::read_to_string(&record).unwrap().replace(&digest.to_string()[7..], &"0".repeat(64)),
    ] {
        std::fs::write(&record, text).unwrap();
        assert_eq!(kind(content.open(&repo("r"), &digest)), ErrorKind::Corrupt, "{text}");
        assert_eq!(content.blob(&repo("r"), &digest).unwrap(), None, "so that it is pushed again");
        push(&content, "r", &bytes).unwrap();
        assert!(content.blob(&repo("r"), &digest).unwrap().is_some());
    }
    std::fs::write(&record, "").unwrap();
    assert!(content.remove_blob(&repo("r"), &digest).unwrap());
    assert!(!is_stored(&root, &bytes));
}

#[test]
fn documents_are_put_under_conditions_listed_in_order_and_removed() {
    let root = Root::new();
    let content = root.registry.content();
    let (r, digest) = (repo("a/b"), sha256(b"x").to_string().replace(':', "-"));
    let kinds = [Kind::Manifest, Kind::Tag, Kind::Referrer(&digest)];
    for kind in &kinds {
        let get = |name| content.get(&r, kind, name).unwrap();
        let put = |name, bytes: &[u8], how| content.put(&r, kind, name, bytes, how).unwrap();
        assert_eq!((get("v1"), content.remove(&r, kind, "v1").unwrap()), (None, false));
        assert!(!put("v1", b"1", Put::IfIs(b"")));
        assert!(put("v1", b"1", Put::New));
        assert!(!put("v1", b"2", Put::New) && !put("v1", b"2", Put::IfIs(b"2")));
        assert_eq!(get("v1").as_deref(), Some(&b"1"[..]));
        assert!(put("v1", b"2", Put::IfIs(b"1")) && put("v1", b"", Put::Any));
        assert_eq!(get("v1").as_deref(), Some(&b""[..]));
        for name in ["b", "B", "_", "a-1", "a.1", "10", "9"] {
            assert!(put(name, name.as_bytes(), Put::Any));
        }
        let list = |after, limit| content.list(&r, kind, after, limit).unwrap();
        assert_eq!(list(None, 99), ["10", "9", "B", "_", "a-1", "a.1", "b", "v1"]);
        assert_eq!(list(None, 2), ["10", "9"]);
        assert_eq!(list(Some("9"), 2), ["B", "_"]);
        assert_eq!(list(Some("a"), usize::MAX), ["a-1", "a.1", "b", "v1"]);
        assert!(list(Some("v1"), 9).is_empty() && list(None, 0).is_empty());
        assert!(content.remove(&r, kind, "v1").unwrap() && !content.remove(&r, kind, "v1").unwrap());
        for bad in ["", ".", "..", "../x", "a/b", "a b", ".x", "-x", "\0", &"a".repeat(256)] {
            assert_eq!(self::kind(content.put(&r, kind, bad, b"", Put::Any)), ErrorKind::InvalidInput, "{bad:?}");
            assert_eq!(self::kind(content.get(&r, kind, bad)), ErrorKind::InvalidInput);
            assert_eq!(self::kind(content.remove(&r, kind, bad)), ErrorKind::InvalidInput);
        }
        assert_eq!(self::kind(content.put(&r, kind, "x", &vec![0; (8 << 20) + 1], Put::Any)), ErrorKind::TooLarge);
        assert!(content.list(&repo("none"), kind, None, 9).unwrap().is_empty());
    }
    for bad in ["", "..", "sha256-..", "latest", &digest[1..]] {
        assert_eq!(kind(content.list(&r, &Kind::Referrer(bad), None, 9)), ErrorKind::InvalidInput, "{bad:?}");
    }
    assert_eq!(root.names("tmp"), [""; 0]);
}

#[test]
fn repositories_are_those_that_hold_something_in_order() {
    let root = Root::new();
    let content = root.registry.content();
    for name in ["a/b", "a", "a-b", "a.c/d/e", "z"] {
        content.put(&repo(name), &Kind::Tag, "t", b"", Put::Any).unwrap();
    }
    push(&content, "only/blobs", b"x").unwrap();
    drop(content.begin(&repo("only/uploads")).unwrap());
    content.put(&repo("was"), &Kind::Tag, "t", b"", Put::Any).unwrap();
    content.remove(&repo("was"), &Kind::Tag, "t").unwrap();
    std::fs::create_dir_all(root.path().join("oci/Not Ours/_tags")).unwrap();
    let all = ["a", "a-b", "a.c/d/e", "a/b", "only/blobs", "z"];
    assert_eq!(content.repositories(None, 99).unwrap(), all);
    for at in 0..all.len() {
        assert_eq!(
            content.repositories(Some(all[at]), 2).unwrap(),
            all[at + 1..].iter().take(2).copied().collect::<Vec<_>>()
        );
    }
    assert!(content.repositories(None, 0).unwrap().is_empty());
}

#[test]
fn a_link_below_oci_is_refused_wherever_it_is() {
    let root = Root::new();
    let content = root.registry.content();
    let bytes = data(10);
    push(&content, "good", &bytes).unwrap();
    content.put(&repo("good"), &Kind::Tag, "t", b"", Put::Any).unwrap();
    let oci = root.path().join("oci");
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(oci.join(to), oci.join(at)).unwrap();
    link("good", "linked");
    std::fs::create_dir_all(oci.join("part")).unwrap();
    for folder in ["_blobs", "_tags", "_uploads"] {
        link(&format!("good/{folder}"), &format!("part/{folder}"));
    }
    for r in ["linked", "part"] {
        let r = repo(r);
        assert_eq!(content.blob(&r, &sha256(&bytes)).unwrap(), None);
        assert_eq!(kind(content.open(&r, &sha256(&bytes))), ErrorKind::Corrupt);
        assert_eq!(kind(content.mount(&repo("good"), &r, &sha256(&bytes))), ErrorKind::Corrupt);
        assert_eq!(kind(content.begin(&r)), ErrorKind::Corrupt);
        assert_eq!(kind(content.get(&r, &Kind::Tag, "t")), ErrorKind::Corrupt);
        assert_eq!(kind(content.put(&r, &Kind::Tag, "t", b"", Put::Any)), ErrorKind::Corrupt);
        assert_eq!(kind(content.list(&r, &Kind::Tag, None, 9)), ErrorKind::Corrupt);
    }
    let record = sha256(&bytes).to_string().replace(':', "-");
    std::fs::create_dir_all(oci.join("files/_blobs")).unwrap();
    std::fs::create_dir_all(oci.join("files/_tags")).unwrap();
    std::fs::create_dir_all(oci.join("files/_uploads")).unwrap();
    link(&format!("good/_blobs/{record}"), &format!("files/_blobs/{record}"));
    link("good/_tags/t", "files/_tags/t");
    let id = "0123456789abcdef0123456789abcdef";
    link("good/_tags/t", &format!("files/_uploads/{id}"));
    assert_eq!(kind(content.open(&repo("files"), &sha256(&bytes))), ErrorKind::Corrupt);
    assert_eq!(kind(content.get(&repo("files"), &Kind::Tag, "t")), ErrorKind::Corrupt);
    assert_eq!(kind(content.resume(&repo("files"), id)), ErrorKind::Corrupt);
    // While it cannot be told who holds what, nothing is dropped.
    assert!(content.remove_blob(&repo("good"), &sha256(&bytes)).unwrap());
    assert!(is_stored(&root, &bytes));
}

#[test]
fn t19_sessions_are_bound_to_their_repository_limited_and_expire() {
    let root = Root::new();
    let content = root.registry.content();
    let mut upload = content.begin(&repo("r")).unwrap();
    upload.append(b"abc").unwrap();
    let id = upload.id().to_owned();
    assert!(id.len() == 32 && id != content.begin(&repo("r")).unwrap().id());
    assert_eq!(content.expire_uploads(Duration::ZERO).unwrap(), 1, "the other one: this one is in use");
    upload.suspend().unwrap();
    for (r, id) in [("s", id.as_str()), ("r", "../_uploads"), ("r", ""), ("r", &id.to_uppercase()), ("r", &id[1..])] {
        assert_eq!(kind(content.resume(&repo(r), id)), ErrorKind::NotFound);
        assert_eq!(kind(content.upload_size(&repo(r), id)), ErrorKind::NotFound);
        assert_eq!(kind(content.abandon(&repo(r), id)), ErrorKind::NotFound);
    }
    assert_eq!(content.expire_uploads(Duration::from_secs(60)).unwrap(), 0);
    assert_eq!(content.upload_size(&repo("r"), &id).unwrap(), 3);
    content.abandon(&repo("r"), &id).unwrap();
    assert_eq!(kind(content.abandon(&repo("r"), &id)), ErrorKind::NotFound);
    for _ in 0..1000 {
        drop(content.begin(&repo("r")).unwrap());
    }
    assert_eq!(kind(content.begin(&repo("r"))), ErrorKind::Conflict);
    push(&content, "s", b"x").unwrap();
    assert_eq!(content.expire_uploads(Duration::ZERO).unwrap(), 1000);
    no_garbage(&root, "r");
    push(&content, "r", b"x").unwrap();
}

#[test]
fn a_registry_that_is_open_to_read_only_shows_content_and_changes_none() {
    let root = Root::new();
    let content = root.registry.content();
    push(&content, "r", b"abc").unwrap();
    content.put(&repo("r"), &Kind::Tag, "t", b"1", Put::Any).unwrap();
    let reader = Registry::open_read_only(root.path()).unwrap().content();
    assert_eq!(read(&reader, "r", &sha256(b"abc")).unwrap(), b"abc");
    assert_eq!(reader.get(&repo("r"), &Kind::Tag, "t").unwrap().as_deref(), Some(&b"1"[..]));
    let denied = ErrorKind::Permission;
    assert_eq!(kind(reader.begin(&repo("r"))), denied);
    assert_eq!(kind(reader.mount(&repo("r"), &repo("s"), &sha256(b"abc"))), denied);
    assert_eq!(kind(reader.remove_blob(&repo("r"), &sha256(b"abc"))), denied);
    assert_eq!(kind(reader.put(&repo("r"), &Kind::Tag, "t", b"", Put::Any)), denied);
    assert_eq!(kind(reader.remove(&repo("r"), &Kind::Tag, "t")), denied);
    assert_eq!(kind(reader.expire_uploads(Duration::ZERO)), denied);
}

#[test]
fn two_pushes_of_one_digest_at_once_both_succeed() {
    let root = Root::new();
    let handles = [root.registry.content(), root.again().content()];
    for round in 0..8 {
        let bytes = noise(PIECE + round, round as u64);
        std::thread::scope(|scope| {
            for i in 0..4 {
                let (content, bytes) = (&handles[i % 2], &bytes);
                scope.spawn(move || push(content, if i < 2 { "a" } else { "b" }, bytes).unwrap());
            }
        });
        for r in ["a", "b"] {
            assert!(read(&handles[0], r, &sha256(&bytes)).unwrap() == bytes);
        }
    }
    no_garbage(&root, "a");
}

/// Whatever the order, what was acknowledged is there until it is removed, and nothing is left when all is removed.
#[test]
fn pushes_mounts_promotions_and_deletes_race_and_no_holder_loses_its_bytes() {
    let root = Root::new();
    let bytes = gguf(G + 100, 9);
    let digest = sha256(&bytes);
    std::thread::scope(|scope| {
        for i in 0..3 {
            let (content, bytes) = (root.again().content(), &bytes);
            scope.spawn(move || {
                let (mine, second) = (format!("r{i}"), format!("r{i}/second"));
                for _ in 0..25 {
                    push(&content, &mine, bytes).unwrap();
                    assert!(content.mount(&repo(&mine), &repo(&second), &digest).unwrap());
                    assert!(content.remove_blob(&repo(&mine), &digest).unwrap());
                    assert!(read(&content, &second, &digest).unwrap() == *bytes);
                    assert!(content.remove_blob(&repo(&second), &digest).unwrap());
                }
            });
        }
        let (registry, content) = (root.again(), root.again().content());
        let bytes = &bytes;
        scope.spawn(move || {
            for _ in 0..15 {
                push(&content, "models", bytes).unwrap();
                let files = vec![(rel("m.gguf"), digest)];
                let source = Source::of_content(&content, &repo("models"), files).unwrap();
                registry.promote(PromoteRequest::new(name("m")), source, &me(), &Task::unattended()).unwrap();
                assert!(content.remove_blob(&repo("models"), &digest).unwrap());
                let file = registry.open_file(&name("m"), &rel("m.gguf"), ReadMode::Cached).unwrap();
                assert_eq!(file.read_at(&mut vec![0; G], 0).unwrap(), G);
                registry.delete(&name("m"), &me()).unwrap();
            }
        });
    });
    assert!(!is_stored(&root, &bytes));
}

/// How many of eight at once did it.
fn won(act: impl Fn(usize) -> bool + Sync) -> usize {
    std::thread::scope(|scope| {
        let act = &act;
        let all: Vec<_> = (0..8).map(|i| scope.spawn(move || act(i))).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    })
}

#[test]
fn of_many_conditional_puts_at_once_one_is_met() {
    let root = Root::new();
    let handles = [root.registry.content(), root.again().content()];
    let put = |i: usize, name: &str, how: Put<'_>| {
        handles[i % 2].put(&repo("r"), &Kind::Tag, name, format!("{i}").as_bytes(), how).unwrap()
    };
    for round in 0..5 {
        let name = format!("t{round}");
        assert_eq!(won(|i| put(i, &name, Put::New)), 1);
        let now = handles[0].get(&repo("r"), &Kind::Tag, &name).unwrap().unwrap();
        let now = &now[..];
        assert_eq!(won(|i| put(i + 8, &name, Put::IfIs(now))), 1);
        // Different tags are not in each other's way.
        assert_eq!(won(|i| put(i, &format!("{name}-{i}"), Put::New)), 8);
    }
    assert_eq!(handles[0].list(&repo("r"), &Kind::Tag, None, 99).unwrap().len(), 45);
}

/// Runs the test again in a process of its own, whose limits it may set.
fn alone(name: &str) -> bool {
    const CHILD: &str = "SECUREREG_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let output = std::process::Command::new("/proc/self/exe").args([name, "--exact"]).env(CHILD, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    false
}

#[test]
fn what_does_not_fit_is_no_space_and_leaves_nothing() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if !alone("what_does_not_fit_is_no_space_and_leaves_nothing") {
        return;
    }
    let root = Root::new();
    let content = root.registry.content();
    push(&content, "r", b"first").unwrap();
    let maximum = getrlimit(Resource::Fsize).maximum;
    let limit =
        |current: Option<u64>| setrlimit(Resource::Fsize, Rlimit { current: current.or(maximum), maximum }).unwrap();
    let bytes = data(PIECE + 5);
    // Within a piece, at its end, at the end of the blob, in the tree, in the record.
    for (most, len) in [(G, PIECE), (PIECE, PIECE + 5), (100, 101), (40, 30), (100, 30)] {
        limit(Some(most as u64));
        let outcome = push(&content, "r", &bytes[..len]);
        let put = content.put(&repo("r"), &Kind::Tag, "t", &bytes[..most + 1], Put::Any);
        limit(None);
        assert_eq!((kind(outcome), kind(put)), (ErrorKind::NoSpace, ErrorKind::NoSpace), "{most} {len}");
        no_garbage(&root, "r");
        assert!(!is_stored(&root, &bytes[..len]), "{most} {len}");
    }
    // What was accepted before stays, when it is left in time.
    let mut upload = content.begin(&repo("r")).unwrap();
    upload.append(&bytes[..100]).unwrap();
    let id = upload.id().to_owned();
    limit(Some(50));
    let outcome = upload.suspend();
    limit(None);
    assert_eq!(kind(outcome), ErrorKind::NoSpace);
    assert_eq!(kind(content.resume(&repo("r"), &id)), ErrorKind::NotFound);
    push(&content, "r", &bytes).unwrap();
}

/// A file's name and bytes.
type Named = (String, Vec<u8>);

fn hold(content: &Content, files: &[Named]) -> Vec<(RelPath, ContentDigest)> {
    let held = files.iter().map(|(path, bytes)| {
        push(content, "r", bytes).unwrap();
        (rel(path), sha256(bytes))
    });
    held.collect()
}

fn promote(root: &Root, model: &str, source: Source) -> Result<Promotion> {
    root.registry.promote(PromoteRequest::new(name(model)), source, &me(), &Task::unattended())
}

#[test]
fn a_model_is_promoted_from_content_without_a_second_copy() {
    let root = Root::new();
    let content = root.registry.content();
    let file = |path: &str, bytes: &[u8]| (path.to_owned(), bytes.to_vec());
    let weights = safetensors(&[("t", "I8", &[2], b"ab")]);
    let folder = [file("config.json", b"{}"), file("sub/model.safetensors", &weights)];
    let cases: [(&str, Vec<Named>, Layout, &str); 4] = [
        ("one:v1", vec![file("m.gguf", &gguf(3 * G, 1))], Layout::File, "one/v1/m.gguf"),
        ("deep:v1", vec![file("d/m.gguf", &gguf(3 * G, 2))], Layout::Folder, "deep/v1"),
        ("split:v1", split(1), Layout::Split, "split/v1/m-00001-of-00002.gguf"),
        ("hf:v1", folder.to_vec(), Layout::Folder, "hf/v1"),
    ];
    for (model, files, layout, path) in cases {
        let mut held = hold(&content, &files);
        held.reverse();
        let inode = |bytes: &[u8]| std::os::unix::fs::MetadataExt::ino(&root.blob_of(bytes).metadata().unwrap());
        let before: Vec<u64> = files.iter().map(|(_, bytes)| inode(bytes)).collect();
        let source = Source::of_content(&content, &repo("r"), held.clone()).unwrap();
        assert_eq!(source.size_bytes(), files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
        let promoted = promote(&root, model, source).unwrap();
        assert_eq!((promoted.method, promoted.outcome), (Method::Shared, Outcome::Promoted));
        assert_eq!((promoted.artifact.layout, promoted.artifact.entry_path().as_str()), (layout, path));
        assert_eq!(files.iter().map(|(_, bytes)| inode(bytes)).collect::<Vec<_>>(), before, "the same files");
        let again = promote(&root, model, Source::of_content(&content, &repo("r"), held.clone()).unwrap()).unwrap();
        assert_eq!(again.outcome, Outcome::AlreadyThere);
        for (path, digest) in &held {
            content.remove_blob(&repo("r"), digest).unwrap();
            assert_eq!(content.blob(&repo("r"), digest).unwrap(), None);
            let bytes = &files.iter().find(|(p, _)| p == path.as_str()).unwrap().1;
            let open = root.registry.open_file(&name(model), path, ReadMode::Cached).unwrap();
            let mut out = vec![0; bytes.len()];
            open.read_at(&mut out, 0).unwrap();
            assert!(out == *bytes);
        }
        assert_eq!(root.verify(model).status, VerifyStatus::Verified);
        root.registry.delete(&name(model), &me()).unwrap();
        assert!(files.iter().all(|(_, bytes)| !is_stored(&root, bytes)));
    }
    // Its tensors were hashed in that pass.
    let held = hold(&content, &[file("m.gguf", &gguf(3 * G, 1))]);
    promote(&root, "t", Source::of_content(&content, &repo("r"), held).unwrap()).unwrap();
    let report = root.registry.verify_manifest(&name("t"), &me(), &Task::unattended()).unwrap();
    assert_eq!(report.whole.status, VerifyStatus::Verified);
}

#[test]
fn unpacked_members_and_blobs_make_one_model() {
    let root = Root::new();
    let content = root.registry.content();
    let weights = safetensors(&[("t", "I8", &[2], b"ab")]);
    let held = hold(&content, &[("model.safetensors".into(), weights.clone())]);
    root.source("members/config.json", b"{}");
    let members = || Source::open(&root.dir.path().join("source/members")).unwrap();
    let blobs = || Source::of_content(&content, &repo("r"), held.clone()).unwrap();
    let promoted = promote(&root, "m:v1", members().join(blobs()).unwrap()).unwrap();
    let paths: Vec<&str> = promoted.artifact.files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!((promoted.artifact.layout, paths), (Layout::Folder, vec!["config.json", "model.safetensors"]));
    assert_eq!(promoted.method, Method::Copied.min(promoted.method), "the member was taken in");
    assert_eq!(kind(blobs().join(blobs())), ErrorKind::Conflict, "named twice");
    // A move takes the members and leaves what the repository holds.
    let request = PromoteRequest { transfer: Transfer::Move, ..PromoteRequest::new(name("n:v1")) };
    root.registry.promote(request, blobs().join(members()).unwrap(), &me(), &Task::unattended()).unwrap();
    assert!(!Path::new(&root.dir.path().join("source/members/config.json")).exists());
    assert!(content.blob(&repo("r"), &sha256(&weights)).unwrap().is_some());
}

#[test]
fn names_that_no_file_system_holds_and_hidden_ones_are_refused() {
    let root = Root::new();
    let content = root.registry.content();
    let digest = hold(&content, &[("m.gguf".into(), gguf(100, 1))])[0].1;
    let of = |paths: &[&str]| {
        let files = paths.iter().map(|path| (rel(path), digest)).collect();
        Source::of_content(&content, &repo("r"), files)
    };
    for twins in [&["a", "A"][..], &["a", "a"], &["a", "a/b"], &["a/b", "A"], &["x", "a/b/c", "a/b"]] {
        assert_eq!(kind(of(twins)), ErrorKind::Conflict, "{twins:?}");
    }
    assert_eq!(kind(of(&[])), ErrorKind::Refused);
    assert_eq!(kind(of(&[&["d"; 33].join("/")])), ErrorKind::Refused);
    let absent = Source::of_content(&content, &repo("other"), vec![(rel("m.gguf"), digest)]);
    assert_eq!(kind(absent), ErrorKind::NotFound);
    let usual = of(&["m.gguf"]).unwrap().leaving_out([".gitattributes".to_owned()]);
    assert_eq!(promote(&root, "usual", usual).unwrap().skipped, [".gitattributes"]);
    let odd = of(&["m.gguf"]).unwrap().leaving_out([".evil.so".to_owned()]);
    assert_eq!(kind(promote(&root, "odd:v1", odd)), ErrorKind::Refused);
    let elsewhere = Root::new();
    let refused = promote(&elsewhere, "m", of(&["m.gguf"]).unwrap()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
}

#[test]
fn what_is_hostile_damaged_or_gone_is_not_promoted_from_content() {
    let root = Root::new();
    let content = root.registry.content();
    let hostile = std::fs::read("tests/data/hostile/g41_overlap.gguf").unwrap();
    let held = hold(&content, &[("m.gguf".into(), hostile.clone())]);
    let source = Source::of_content(&content, &repo("r"), held).unwrap();
    assert_eq!(kind(promote(&root, "hostile", source)), ErrorKind::Refused);
    assert!(is_stored(&root, &hostile), "the push had succeeded");
    assert!(root.has_event("refuse", "noted", "hostile"));

    let bytes = gguf(3 * G, 5);
    let held = hold(&content, &[("m.gguf".into(), bytes.clone())]);
    let source = || Source::of_content(&content, &repo("r"), held.clone()).unwrap();
    let (damaged, gone) = (source(), source());
    flip(&root.blob_of(&bytes), 2 * G as u64);
    assert_eq!(kind(promote(&root, "damaged", damaged)), ErrorKind::Corrupt);
    assert_eq!(kind(Source::of_content(&content, &repo("r"), held.clone())), ErrorKind::NotFound);
    content.remove_blob(&repo("r"), &sha256(&bytes)).unwrap();
    assert_eq!(kind(promote(&root, "gone", gone)), ErrorKind::Corrupt);
    assert!(root.registry.catalog().unwrap().is_empty());
}

/// Threat 19: how many repositories there are is for whoever pushes to choose.
#[test]
fn t19_all_repositories_together_have_a_bounded_number_of_sessions() {
    let root = Root::new();
    let content = root.registry.content();
    let first = content.begin(&repo("r0")).unwrap();
    let id = first.id().to_owned();
    first.suspend().unwrap();
    // Begun by another process, so that this one has to find out.
    for n in 1..=20_000 {
        let folder = root.path().join(format!("oci/r{}/_uploads", n / 900));
        if n % 900 == 0 || n == 1 {
            std::fs::create_dir_all(&folder).unwrap();
        }
        std::fs::write(folder.join(format!("{n:032x}")), b"").unwrap();
    }
    let other = root.again().content();
    let e = other.begin(&repo("fresh")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(e.to_string().contains("20000 unfinished uploads"), "{e}");
    assert_eq!(other.uploads().unwrap().0, 20_001);
    // One that ends makes room for one.
    other.abandon(&repo("r0"), &id).unwrap();
    other.abandon(&repo("r0"), &format!("{:032x}", 1)).unwrap();
    drop(other.begin(&repo("fresh")).unwrap());
    assert_eq!(kind(other.begin(&repo("fresh"))), ErrorKind::Conflict);
}

/// Threat 19: what an upload holds counts as used. Needs a small file system of its own, which
/// only root can mount.
#[test]
fn t19_an_upload_without_end_is_refused_before_the_disk_is_full_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED t19_an_upload_without_end...: only root can mount a small tmpfs");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let run = |command: &mut std::process::Command| assert!(command.status().unwrap().success());
    let mut mount = std::process::Command::new("mount");
    run(mount.args(["-t", "tmpfs", "-o", "size=64m,mode=700", "securereg-test"]).arg(&disk));
    let outcome = std::panic::catch_unwind(|| {
        let registry = Registry::open_or_create(&disk.join("root")).unwrap();
        let content = registry.content();
        let free = |registry: &Registry| registry.disk().unwrap().free_bytes;
        let before = free(&registry);
        let mut upload = content.begin(&repo("r")).unwrap();
        let (piece, mut taken) = (noise(PIECE, 1), 0u64);
        let e = loop {
            match upload.append(&piece) {
                Ok(()) => taken += piece.len() as u64,
                Err(e) => break e,
            }
            assert!(taken < 128 << 20, "it takes more than there is");
        };
        assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
        assert!(e.to_string().contains("less 5 percent"), "refused, not failed: {e}");
        assert!(taken > before / 2, "{taken} of {before}");
        assert_eq!(kind(upload.append(b"more")), ErrorKind::NotFound, "the upload is gone");
        drop(upload);
        assert_eq!(content.uploads().unwrap(), (0, 0));
        assert!(free(&registry) + (1 << 20) > before);
        // And a promotion is measured by what uploads leave.
        let mut upload = content.begin(&repo("r")).unwrap();
        (0..40).for_each(|_| upload.append(&piece).unwrap());
        let source = dir.path().join("m.gguf");
        std::fs::write(&source, support::models::gguf(30 << 20, 1)).unwrap();
        let promoted = registry.promote(
            PromoteRequest::new("m".parse().unwrap()),
            Source::open(&source).unwrap(),
            &Actor::new("test", "x"),
            &Task::unattended(),
        );
        assert_eq!(kind(promoted), ErrorKind::NoSpace);
    });
    run(std::process::Command::new("umount").arg("-l").arg(&disk));
    outcome.unwrap();
}
