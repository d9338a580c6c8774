//! What every back end promises, run on each.
//!
//! Owns: a test for each promise of `storage`, on the core's own store, on s3s-fs in this process, and on the S3 server that
//! `SECUREREG_S3_ENDPOINT` names (tests/s3/run.sh starts moto). Each has two instances on the same content. Leaves out: what only one
//! of them promises (`s3/tests.rs`).

use super::failure::Code;
use super::local::Local;
use super::s3::S3;
use super::s3::tests::bucket::S3Server;
use super::storage::{Kind, Outcome, Put, Storage};
use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use securereg::Registry;
use securereg_oci::{Algorithm, Digest, Repository};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// Two instances on one content.
struct Pair {
    one: Arc<dyn Storage>,
    two: Arc<dyn Storage>,
    _dirs: Vec<TempDir>,
    server: Option<S3Server>,
}

impl Pair {
    fn local() -> Pair {
        let dir = tempfile::tempdir().expect("a folder");
        let make = || {
            let registry = Registry::open_or_create(&dir.path().join("root")).expect("a registry");
            Arc::new(Local::new(&registry, PATIENCE))
        };
        Pair { one: make(), two: make(), _dirs: vec![dir], server: None }
    }

    fn s3(server: S3Server, more: &str) -> Pair {
        let mut dirs = Vec::new();
        let mut make = || {
            let dir = tempfile::tempdir().expect("a folder");
            let registry = Registry::open_or_create(&dir.path().join("root")).expect("a registry");
            let settings = serde_yaml::from_str(&server.settings(more)).expect("settings");
            dirs.push(dir);
            Arc::new(S3::new(&settings, &registry, PATIENCE).expect("a back end"))
        };
        let (one, two) = (make(), make());
        Pair { one, two, _dirs: dirs, server: Some(server) }
    }

    /// Whether a SHA-512 fits into a name: s3s-fs has a limit there that S3 has not.
    fn takes_sha512(&self) -> bool {
        self.server.as_ref().is_none_or(S3Server::takes_long_keys)
    }

    fn both(&self) -> [&dyn Storage; 2] {
        [&*self.one, &*self.two]
    }
}

macro_rules! promises {
    ($($name:ident)*) => {
        mod local {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(&Pair::local()).await })*
        }
        mod s3s {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(&Pair::s3(S3Server::start(), "")).await })*
        }
        mod moto {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                match S3Server::external() {
                    Some(server) => super::$name(&Pair::s3(server, ", sse: aes256")).await,
                    None => eprintln!("skipped: SECUREREG_S3_ENDPOINT names no server"),
                }
            })*
        }
    };
}

promises! {
    bytes_of_every_size_become_a_blob_and_come_back
    chunks_of_every_size_make_the_same_blob
    a_session_goes_on_in_another_instance
    what_came_of_a_broken_body_is_kept
    a_chunk_that_is_not_admitted_changes_nothing
    a_wrong_digest_ends_the_session
    a_session_that_is_in_use_is_nobody_elses
    sessions_end_and_belong_to_their_repository
    sessions_expire
    a_sha512_is_a_digest_too
    two_that_push_the_same_both_succeed
    a_mounted_blob_outlives_its_source
    whoever_mounts_and_removes_at_once_loses_no_bytes
    documents_are_written_under_their_conditions
    documents_are_listed_in_order_and_in_pages
    of_two_writers_at_once_none_is_lost
    of_many_new_documents_one_is_the_first
    tags_of_many_clients_are_all_there
    repositories_are_listed_while_they_hold_anything
}

fn repository(name: &str) -> Repository {
    name.parse().expect("a name")
}

fn data(len: usize, seed: u64) -> Vec<u8> {
    let word = |i: u64| (i + seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes();
    (0..(len as u64).div_ceil(8)).flat_map(word).take(len).collect()
}

fn any(_: u64) -> Outcome<()> {
    Ok(())
}

async fn collect(body: Body) -> Option<Vec<u8>> {
    axum::body::to_bytes(body, usize::MAX).await.ok().map(|bytes| bytes.to_vec())
}

async fn push(storage: &dyn Storage, repository: &Repository, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256_of(bytes);
    let id = storage.begin(repository).await.expect("begun");
    storage.finish(repository, &id, &any, Body::from(bytes.to_vec()), &digest).await.expect("finished");
    digest
}

async fn whole(storage: &dyn Storage, repository: &Repository, digest: &Digest) -> Option<Vec<u8>> {
    let size = storage.blob(repository, digest).await.expect("asked")?;
    if size == 0 {
        return Some(Vec::new());
    }
    collect(storage.read(repository, digest, 0, size).await.expect("read")).await
}

/// A body that breaks off after these bytes.
fn broken(bytes: &[u8]) -> Body {
    let piece = Ok(Bytes::copy_from_slice(bytes));
    Body::from_stream(futures_util::stream::iter([piece, Err(std::io::Error::other("gone"))]))
}

async fn bytes_of_every_size_become_a_blob_and_come_back(pair: &Pair) {
    let a = repository("a/b");
    for len in [0, 1, 5 * MIB - 1, 5 * MIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 17 * MIB + 3] {
        let bytes = data(len, 1);
        let digest = push(&*pair.one, &a, &bytes).await;
        for storage in pair.both() {
            assert_eq!(storage.blob(&a, &digest).await.expect("asked"), Some(len as u64));
            assert!(whole(storage, &a, &digest).await.expect("whole") == bytes, "{len}");
            assert_eq!(storage.blob(&repository("a"), &digest).await.expect("asked"), None, "another's");
        }
        let end = len as u64;
        let middle = end / 2;
        for (from, to) in
            [(0, 1), (0, end), (end.saturating_sub(1), end), (middle, (middle + 70_000).min(end)), (1, end)]
        {
            if from < to && to <= end {
                let body = pair.one.read(&a, &digest, from, to).await.expect("read");
                assert!(collect(body).await.expect("bytes") == bytes[from as usize..to as usize], "{len}: {from}-{to}");
            }
        }
    }
    let nowhere = Digest::sha256_of(b"nowhere");
    assert_eq!(pair.one.blob(&a, &nowhere).await.expect("asked"), None);
    assert_eq!(pair.one.read(&a, &nowhere, 0, 1).await.err().map(|e| e.status), Some(404));
}

async fn chunks_of_every_size_make_the_same_blob(pair: &Pair) {
    let a = repository("a");
    for (chunk, count) in [(1, 5), (MIB, 11), (3 * MIB, 5), (5 * MIB, 3), (8 * MIB, 2), (9 * MIB + 7, 2)] {
        let bytes = data(chunk * count, chunk as u64);
        let id = pair.one.begin(&a).await.expect("begun");
        assert_eq!(pair.one.upload_size(&a, &id).await.expect("asked"), 0);
        for (n, piece) in bytes.chunks(chunk).enumerate() {
            let at = (n * chunk) as u64;
            let storage = pair.both()[n % 2];
            let admit = move |size: u64| {
                if size == at { Ok(()) } else { Err(super::failure::Failure::new(Code::BlobUploadInvalid, "other")) }
            };
            let size = storage.append(&a, &id, &admit, Body::from(piece.to_vec())).await.expect("taken");
            assert_eq!(size, at + piece.len() as u64);
            assert_eq!(pair.two.upload_size(&a, &id).await.expect("asked"), size);
        }
        // An empty one is a chunk, too.
        assert_eq!(pair.one.append(&a, &id, &any, Body::empty()).await.expect("taken"), bytes.len() as u64);
        let digest = Digest::sha256_of(&bytes);
        pair.one.finish(&a, &id, &any, Body::empty(), &digest).await.expect("finished");
        assert!(whole(&*pair.two, &a, &digest).await.expect("whole") == bytes, "{chunk}");
        assert_eq!(pair.one.upload_size(&a, &id).await.err().map(|e| e.status), Some(404), "it is over");
    }
}

async fn a_session_goes_on_in_another_instance(pair: &Pair) {
    let a = repository("a");
    let bytes = data(20 * MIB, 5);
    let id = pair.one.begin(&a).await.expect("begun");
    let mut at = 0;
    for (n, to) in [3 * MIB, 12 * MIB, 12 * MIB + 1, 19 * MIB].into_iter().enumerate() {
        let piece = bytes[at..to].to_vec();
        pair.both()[n % 2].append(&a, &id, &any, Body::from(piece)).await.expect("taken");
        at = to;
    }
    let digest = Digest::sha256_of(&bytes);
    pair.two.finish(&a, &id, &any, Body::from(bytes[at..].to_vec()), &digest).await.expect("finished");
    assert!(whole(&*pair.one, &a, &digest).await.expect("whole") == bytes);
}

async fn what_came_of_a_broken_body_is_kept(pair: &Pair) {
    let a = repository("a");
    for len in [10, 6 * MIB, 9 * MIB] {
        let bytes = data(len * 3, 9);
        let digest = Digest::sha256_of(&bytes);
        let id = pair.one.begin(&a).await.expect("begun");
        assert!(pair.one.append(&a, &id, &any, broken(&bytes[..len])).await.is_err());
        assert_eq!(pair.two.upload_size(&a, &id).await.expect("asked"), len as u64);
        assert!(pair.two.finish(&a, &id, &any, broken(&bytes[len..2 * len]), &digest).await.is_err());
        assert_eq!(pair.one.upload_size(&a, &id).await.expect("asked"), 2 * len as u64);
        assert_eq!(pair.one.blob(&a, &digest).await.expect("asked"), None);
        pair.one.finish(&a, &id, &any, Body::from(bytes[2 * len..].to_vec()), &digest).await.expect("finished");
        assert!(whole(&*pair.two, &a, &digest).await.expect("whole") == bytes);
    }
}

async fn a_chunk_that_is_not_admitted_changes_nothing(pair: &Pair) {
    let a = repository("a");
    let id = pair.one.begin(&a).await.expect("begun");
    pair.one.append(&a, &id, &any, Body::from("abc")).await.expect("taken");
    let refuse =
        |size: u64| Err(super::failure::Failure::new(Code::BlobUploadInvalid, format!("at {size}")).with_status(416));
    let digest = Digest::sha256_of(b"abcdef");
    let append = pair.two.append(&a, &id, &refuse, Body::from("xyz")).await.expect_err("refused");
    let finish = pair.two.finish(&a, &id, &refuse, Body::from("xyz"), &digest).await.expect_err("refused");
    for e in [append, finish] {
        assert_eq!((e.status, e.message.as_str()), (416, "at 3"));
    }
    assert_eq!(pair.one.upload_size(&a, &id).await.expect("asked"), 3);
    pair.two.finish(&a, &id, &any, Body::from("def"), &digest).await.expect("finished");
}

async fn a_wrong_digest_ends_the_session(pair: &Pair) {
    let a = repository("a");
    let wrong = Digest::sha256_of(b"wrong");
    let wrong512 = Digest::of(Algorithm::Sha512, b"wrong");
    for len in [0, 3, 9 * MIB] {
        for digest in [&wrong, &wrong512] {
            if digest == &wrong512 && !pair.takes_sha512() {
                continue;
            }
            let id = pair.one.begin(&a).await.expect("begun");
            pair.one.append(&a, &id, &any, Body::from(data(len, 2))).await.expect("taken");
            let e = pair.one.finish(&a, &id, &any, Body::from("x"), digest).await.expect_err("wrong");
            assert_eq!((e.code, e.status), (Code::DigestInvalid, 400), "{}", e.message);
            assert_eq!(pair.two.upload_size(&a, &id).await.err().map(|e| e.status), Some(404));
            assert_eq!(pair.two.blob(&a, digest).await.expect("asked"), None);
        }
    }
}

async fn a_session_that_is_in_use_is_nobody_elses(pair: &Pair) {
    let a = repository("a");
    let id = pair.one.begin(&a).await.expect("begun");
    let (send, receive) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(futures_util::stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|piece| (piece, receive))
    }));
    let (storage, repository, session) = (Arc::clone(&pair.one), a.clone(), id.clone());
    let first = tokio::spawn(async move { storage.append(&repository, &session, &any, body).await });
    // The second is taken when the first has been, so the request has its session.
    for _ in 0..2 {
        send.send(Ok(Bytes::from_static(b"abc"))).await.expect("taken");
    }
    let second = pair.one.append(&a, &id, &any, Body::from("x")).await.expect_err("in use");
    assert_eq!(second.status, 409);
    assert_eq!(pair.one.abandon(&a, &id).await.expect_err("in use").status, 409);
    drop(send);
    assert_eq!(first.await.expect("ended").expect("taken"), 6);
    assert_eq!(pair.one.append(&a, &id, &any, Body::from("x")).await.expect("free"), 7);
}

async fn sessions_end_and_belong_to_their_repository(pair: &Pair) {
    let (a, b) = (repository("a"), repository("b"));
    let id = pair.one.begin(&a).await.expect("begun");
    pair.one.append(&a, &id, &any, Body::from(data(9 * MIB, 1))).await.expect("taken");
    let digest = Digest::sha256_of(b"");
    for (repository, id) in [(&b, id.as_str()), (&a, "../x"), (&a, ""), (&a, "0123456789abcdef0123456789abcdef")] {
        assert_eq!(pair.two.upload_size(repository, id).await.err().map(|e| e.status), Some(404), "{id}");
        assert_eq!(
            pair.two.append(repository, id, &any, Body::empty()).await.err().map(|e| e.status),
            Some(404),
            "{id}"
        );
        assert_eq!(pair.two.abandon(repository, id).await.err().map(|e| e.status), Some(404), "{id}");
        let finished = pair.two.finish(repository, id, &any, Body::empty(), &digest).await;
        assert_eq!(finished.err().map(|e| e.status), Some(404), "{id}");
    }
    pair.two.abandon(&a, &id).await.expect("ended");
    assert_eq!(pair.one.upload_size(&a, &id).await.err().map(|e| e.status), Some(404));
    assert_eq!(pair.one.append(&a, &id, &any, Body::empty()).await.err().map(|e| e.status), Some(404));
}

async fn sessions_expire(pair: &Pair) {
    let a = repository("a/b");
    let id = pair.one.begin(&a).await.expect("begun");
    pair.one.append(&a, &id, &any, Body::from("abc")).await.expect("taken");
    assert_eq!(pair.two.expire(Duration::from_secs(3600)).await.expect("looked"), 0);
    assert_eq!(pair.two.upload_size(&a, &id).await.expect("asked"), 3);
    assert_eq!(pair.two.expire(Duration::ZERO).await.expect("looked"), 1);
    assert_eq!(pair.one.upload_size(&a, &id).await.err().map(|e| e.status), Some(404));
}

async fn a_sha512_is_a_digest_too(pair: &Pair) {
    if !pair.takes_sha512() {
        return;
    }
    let a = repository("a");
    for len in [0, 5, 9 * MIB] {
        let bytes = data(len, 3);
        let digest = Digest::of(Algorithm::Sha512, &bytes);
        let id = pair.one.begin(&a).await.expect("begun");
        pair.one.append(&a, &id, &any, Body::from(bytes.clone())).await.expect("taken");
        pair.two.finish(&a, &id, &any, Body::empty(), &digest).await.expect("finished");
        assert!(whole(&*pair.one, &a, &digest).await.expect("whole") == bytes);
        assert!(pair.two.remove_blob(&a, &digest).await.expect("removed"));
        assert_eq!(pair.one.blob(&a, &digest).await.expect("asked"), None);
    }
}

async fn two_that_push_the_same_both_succeed(pair: &Pair) {
    let a = repository("a");
    for (n, len) in [(0, 100), (1, 9 * MIB)] {
        let bytes = data(len, n);
        let (x, y) = tokio::join!(push(&*pair.one, &a, &bytes), push(&*pair.two, &a, &bytes));
        assert_eq!(x, y);
        push(&*pair.one, &a, &bytes).await;
        assert!(whole(&*pair.one, &a, &x).await.expect("whole") == bytes);
        assert!(pair.one.remove_blob(&a, &x).await.expect("removed"));
        assert!(!pair.two.remove_blob(&a, &x).await.expect("gone"));
        assert_eq!(pair.two.blob(&a, &x).await.expect("asked"), None);
    }
}

async fn a_mounted_blob_outlives_its_source(pair: &Pair) {
    let [a, b, c] = ["a", "b/x", "c"].map(repository);
    let digest = push(&*pair.one, &a, b"bytes").await;
    assert!(!pair.two.mount(&b, &c, &digest).await.expect("asked"), "b has none");
    assert!(pair.two.mount(&a, &b, &digest).await.expect("mounted"));
    assert!(pair.two.mount(&a, &b, &digest).await.expect("again"));
    assert!(pair.one.mount(&b, &c, &digest).await.expect("from the mounted one"));
    assert!(pair.one.mount(&c, &c, &digest).await.expect("to itself"));
    for (n, repository) in [&a, &c, &b].into_iter().enumerate() {
        for left in &[&a, &c, &b][n..] {
            assert_eq!(whole(&*pair.two, left, &digest).await.as_deref(), Some(&b"bytes"[..]), "{left} after {n}");
        }
        assert!(pair.both()[n % 2].remove_blob(repository, &digest).await.expect("removed"));
        assert_eq!(pair.two.blob(repository, &digest).await.expect("asked"), None);
    }
    assert!(!pair.two.mount(&a, &b, &digest).await.expect("asked"), "nobody has it");
}

async fn whoever_mounts_and_removes_at_once_loses_no_bytes(pair: &Pair) {
    let names = ["a", "b", "c"].map(repository);
    for round in 0..6u64 {
        let bytes = data(50, round);
        let digest = push(&*pair.one, &names[0], &bytes).await;
        pair.one.mount(&names[0], &names[1], &digest).await.expect("mounted");
        let (mounted, x, y) = tokio::join!(
            pair.one.mount(&names[1], &names[2], &digest),
            pair.two.remove_blob(&names[0], &digest),
            pair.one.remove_blob(&names[1], &digest),
        );
        assert!(x.expect("removed") && y.expect("removed"));
        let there = whole(&*pair.two, &names[2], &digest).await;
        assert_eq!(there.is_some(), mounted.expect("asked"), "{round}");
        assert!(there.is_none_or(|there| there == bytes));
        pair.one.remove_blob(&names[2], &digest).await.expect("removed");
    }
}

async fn documents_are_written_under_their_conditions(pair: &Pair) {
    let a = repository("a");
    let (subject, other) = (Digest::sha256_of(b"1"), Digest::of(Algorithm::Sha512, b"2"));
    let name = format!("sha256-{}", subject.hex());
    for kind in [Kind::Manifest, Kind::Tag, Kind::Referrer(&subject), Kind::Referrer(&other), Kind::Holder(&subject)] {
        if kind == Kind::Referrer(&other) && !pair.takes_sha512() {
            continue;
        }
        let put = async |storage: &dyn Storage, text: &'static str, put: Put<'_>| {
            storage.put(&a, kind, &name, Bytes::from_static(text.as_bytes()), put).await.expect("asked")
        };
        let now = async || pair.two.get(&a, kind, &name).await.expect("asked");
        assert_eq!(now().await, None, "{kind:?}");
        assert!(!put(&*pair.one, "x", Put::Instead(b"")).await && !put(&*pair.one, "x", Put::Instead(b"x")).await);
        assert!(put(&*pair.one, "x", Put::New).await && !put(&*pair.two, "y", Put::New).await);
        assert_eq!(now().await.as_deref(), Some(&b"x"[..]));
        assert!(!put(&*pair.two, "y", Put::Instead(b"z")).await && put(&*pair.two, "y", Put::Instead(b"x")).await);
        assert!(put(&*pair.one, "", Put::Always).await && put(&*pair.one, "w", Put::Instead(b"")).await);
        assert_eq!(now().await.as_deref(), Some(&b"w"[..]));
        assert!(pair.one.remove(&a, kind, &name).await.expect("removed"));
        assert!(!pair.two.remove(&a, kind, &name).await.expect("gone") && now().await.is_none());
        assert!(put(&*pair.two, "v", Put::New).await);
    }
    for bad in ["", ".", "..", "a/b", "-x", ".x", "é"] {
        let written = pair.one.put(&a, Kind::Tag, bad, Bytes::new(), Put::Always).await;
        assert_eq!(written.err().map(|e| e.status), Some(400), "{bad:?}");
        assert_eq!(pair.one.get(&a, Kind::Tag, bad).await.ok().flatten(), None, "{bad:?}");
    }
}

async fn documents_are_listed_in_order_and_in_pages(pair: &Pair) {
    let a = repository("a");
    let mut names =
        ["10", "2", "A", "_x", "a", "a-b", "a.b", "a_b", "aa", "b", "latest", "v1.0", "v1.0.1"].map(str::to_owned);
    for (n, name) in names.iter().enumerate() {
        pair.both()[n % 2].put(&a, Kind::Tag, name, Bytes::from("x"), Put::New).await.expect("put");
    }
    // A neighbour that must not be seen.
    pair.one.put(&repository("a/b"), Kind::Tag, "zz", Bytes::new(), Put::New).await.expect("put");
    names.sort();
    let list = async |after: Option<&str>, limit| pair.two.list(&a, Kind::Tag, after, limit).await.expect("listed");
    assert_eq!(list(None, usize::MAX).await, names);
    assert_eq!(list(None, 0).await, [""; 0]);
    for limit in [1, 5, 12, 13, 14] {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = list(after.as_deref(), limit).await;
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            all.extend(page);
        }
        assert_eq!(all, names, "{limit}");
    }
    // One that is not there, and the end.
    assert_eq!(list(Some("a-a"), 2).await, ["a-b", "a.b"]);
    assert_eq!(list(Some("z"), 2).await, [""; 0]);
    assert_eq!(pair.one.list(&a, Kind::Manifest, None, 5).await.expect("listed"), [""; 0]);
    assert_eq!(pair.one.list(&repository("none"), Kind::Tag, None, 5).await.expect("listed"), [""; 0]);
}

async fn of_two_writers_at_once_none_is_lost(pair: &Pair) {
    const EACH: usize = 5;
    let a = repository("a");
    pair.one.put(&a, Kind::Tag, "n", Bytes::from("0"), Put::New).await.expect("put");
    let count = async |storage: &dyn Storage| {
        for _ in 0..EACH {
            loop {
                let before = storage.get(&a, Kind::Tag, "n").await.expect("asked").expect("there");
                let n: u64 = std::str::from_utf8(&before).expect("text").parse().expect("a number");
                let next = Bytes::from((n + 1).to_string());
                if storage.put(&a, Kind::Tag, "n", next, Put::Instead(&before)).await.expect("asked") {
                    break;
                }
            }
        }
    };
    tokio::join!(count(&*pair.one), count(&*pair.two), count(&*pair.one));
    let last = pair.one.get(&a, Kind::Tag, "n").await.expect("asked");
    assert_eq!(last.as_deref(), Some((3 * EACH).to_string().as_bytes()));
}

async fn of_many_new_documents_one_is_the_first(pair: &Pair) {
    let a = repository("a");
    for round in 0..5 {
        let name = format!("t{round}");
        let tries = (0..8usize).map(|n| {
            let (storage, text, a, name) = (pair.both()[n % 2], Bytes::from(n.to_string()), &a, &name);
            async move { (storage.put(a, Kind::Tag, name, text.clone(), Put::New).await.expect("asked"), text) }
        });
        let won: Vec<_> = futures_util::stream::iter(tries).buffer_unordered(8).collect().await;
        let won: Vec<_> = won.into_iter().filter(|(first, _)| *first).map(|(_, text)| text).collect();
        assert_eq!(won.len(), 1, "{round}");
        assert_eq!(pair.two.get(&a, Kind::Tag, &name).await.expect("asked").as_ref(), won.first());
    }
}

async fn tags_of_many_clients_are_all_there(pair: &Pair) {
    let a = repository("a");
    let clients = (0..8usize).map(|client| {
        let (storage, a) = (pair.both()[client % 2], &a);
        async move {
            for n in 0..5 {
                let name = format!("c{client}-{n}");
                assert!(storage.put(a, Kind::Tag, &name, Bytes::from("x"), Put::Always).await.expect("put"));
                storage.put(a, Kind::Tag, "latest", Bytes::from(name), Put::Always).await.expect("put");
            }
        }
    });
    futures_util::stream::iter(clients).buffer_unordered(8).collect::<Vec<()>>().await;
    assert_eq!(pair.one.list(&a, Kind::Tag, None, 100).await.expect("listed").len(), 41);
}

async fn repositories_are_listed_while_they_hold_anything(pair: &Pair) {
    let names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a_b", "b"];
    let all: Vec<Repository> = names.map(repository).into();
    assert_eq!(pair.one.repositories(None, 10).await.expect("listed"), []);
    for (n, repository) in all.iter().enumerate() {
        let storage = pair.both()[n % 2];
        match n % 3 {
            0 => drop(storage.put(repository, Kind::Tag, "t", Bytes::from("x"), Put::New).await.expect("put")),
            1 => drop(push(storage, repository, b"x").await),
            _ => drop(storage.mount(&all[1], repository, &Digest::sha256_of(b"x")).await.expect("mounted")),
        }
    }
    // A session alone is nothing yet.
    pair.one.begin(&repository("zz")).await.expect("begun");
    let mut sorted = all.clone();
    sorted.sort_by(|x, y| x.as_str().cmp(y.as_str()));
    assert_eq!(pair.two.repositories(None, usize::MAX).await.expect("listed"), sorted);
    for limit in [1, 3, 7] {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = pair.two.repositories(after.as_deref(), limit).await.expect("listed");
            let Some(last) = page.last() else { break };
            after = Some(last.to_string());
            assert!(page.len() <= limit);
            found.extend(page);
        }
        assert_eq!(found, sorted, "{limit}");
    }
    assert_eq!(pair.two.repositories(Some("a/a"), 2).await.expect("listed"), ["a/b", "a/b/c"].map(repository));
    pair.one.remove(&all[0], Kind::Tag, "t").await.expect("removed");
    pair.one.remove_blob(&all[1], &Digest::sha256_of(b"x")).await.expect("removed");
    let left = pair.two.repositories(None, 10).await.expect("listed");
    assert_eq!(left, sorted.into_iter().filter(|name| *name != all[0] && *name != all[1]).collect::<Vec<_>>());
    // And again.
    pair.two.put(&all[0], Kind::Tag, "t", Bytes::from("x"), Put::New).await.expect("put");
    assert_eq!(pair.one.repositories(None, 1).await.expect("listed"), [all[0].clone()]);
}
