//! What the S3 back end promises beyond the others: nothing is left behind, damage is seen, other instances are no danger.

#[path = "../../../tests/http/bucket.rs"]
#[allow(clippy::unwrap_used, dead_code, reason = "the rig of the integration tests, too")]
pub(in super::super) mod bucket;

use super::super::failure::Code;
use super::super::storage::{Kind, Put, Storage};
use super::record::Record;
use super::session::Place;
use super::*;
use bucket::S3Server;
use std::sync::atomic::Ordering;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

fn instance(server: &S3Server, more: &str) -> (S3, Registry, TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let registry = Registry::open_or_create(&dir.path().join("root")).expect("a registry");
    let settings = serde_yaml::from_str(&server.settings(more)).expect("settings");
    (S3::new(&settings, &registry, Duration::from_secs(30)).expect("a back end"), registry, dir)
}

fn repository(name: &str) -> Repository {
    name.parse().expect("a name")
}

fn any(_: u64) -> Outcome<()> {
    Ok(())
}

async fn push(storage: &S3, repository: &Repository, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256_of(bytes);
    let id = storage.begin(repository).await.expect("begun");
    storage.finish(repository, &id, &any, Body::from(bytes.to_vec()), &digest).await.expect("finished");
    digest
}

async fn read(storage: &S3, repository: &Repository, digest: &Digest, from: u64, to: u64) -> Option<Bytes> {
    let body = storage.read(repository, digest, from, to).await.expect("begun");
    axum::body::to_bytes(body, usize::MAX).await.ok()
}

/// Keys but those that stay.
fn keys(server: &S3Server) -> Vec<String> {
    server.keys().into_iter().filter(|key| !key.starts_with("names/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_store_is_asked_again() {
    let server = S3Server::start();
    let (storage, _, _dir) = instance(&server, "");
    let a = repository("a");
    for busy in [1, 3] {
        server.faults.busy.store(busy, Ordering::Relaxed);
        assert!(storage.put(&a, Kind::Tag, "t", Bytes::from("x"), Put::Always).await.expect("put"));
        server.faults.busy.store(busy, Ordering::Relaxed);
        let digest = push(&storage, &a, &vec![busy as u8; 9 * MIB]).await;
        server.faults.busy.store(busy, Ordering::Relaxed);
        assert!(read(&storage, &a, &digest, 0, 9 * MIB as u64).await.is_some());
        assert_eq!(server.faults.busy.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_a_store_that_forgets_conditions() {
    let server = S3Server::start();
    server.faults.forgets_conditions.store(true, Ordering::Relaxed);
    let (storage, _, _dir) = instance(&server, "");
    let a = repository("a");
    let put = storage.put(&a, Kind::Tag, "t", Bytes::from("x"), Put::Always).await.expect_err("refused");
    let begun = storage.begin(&a).await.expect_err("refused");
    for e in [put, begun] {
        assert!(e.status == 500 && e.message.contains("If-None-Match"), "{}", e.message);
    }
    assert_eq!(server.keys(), [""; 0]);
    // Seen to be right once, it is not asked again.
    server.faults.forgets_conditions.store(false, Ordering::Relaxed);
    storage.begin(&a).await.expect("begun");
    let before = server.faults.requests.load(Ordering::Relaxed);
    storage.put(&a, Kind::Tag, "t", Bytes::from("x"), Put::Always).await.expect("put");
    assert_eq!(server.faults.requests.load(Ordering::Relaxed) - before, 2, "the name and the tag");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_leaves_nothing_behind() {
    let server = S3Server::start();
    let (storage, _, _dir) = instance(&server, "");
    let (a, b) = (repository("a"), repository("b"));
    for len in [0, 10, 6 * MIB, 20 * MIB] {
        let bytes = vec![3; len];
        for chunks in [1, 3] {
            // Given up, with a wrong digest, expired, finished and removed.
            for end in 0..4 {
                let id = storage.begin(&a).await.expect("begun");
                for chunk in bytes.chunks((len / chunks).max(1)) {
                    storage.append(&a, &id, &any, Body::from(chunk.to_vec())).await.expect("taken");
                }
                match end {
                    0 => storage.abandon(&a, &id).await.expect("ended"),
                    1 => {
                        let wrong = Digest::sha256_of(b"wrong");
                        let e = storage.finish(&a, &id, &any, Body::empty(), &wrong).await.expect_err("wrong");
                        assert_eq!(e.code, Code::DigestInvalid);
                    }
                    2 => assert_eq!(storage.expire(Duration::ZERO).await.expect("looked"), 1),
                    _ => {
                        let digest = Digest::sha256_of(&bytes);
                        storage.finish(&a, &id, &any, Body::empty(), &digest).await.expect("finished");
                        assert_eq!(keys(&server).len(), 2, "the record and the bytes: {:?}", keys(&server));
                        storage.mount(&a, &b, &digest).await.expect("mounted");
                        // The same again brings nothing.
                        push(&storage, &a, &bytes).await;
                        assert_eq!(keys(&server).len(), 4, "{:?}", keys(&server));
                        storage.remove_blob(&b, &digest).await.expect("removed");
                        storage.remove_blob(&a, &digest).await.expect("removed");
                    }
                }
                assert_eq!(keys(&server), [""; 0], "{len} in {chunks}, {end}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_and_large_ones_are_never_copied() {
    let server = S3Server::start();
    let (storage, _, _dir) = instance(&server, "");
    let a = repository("a");
    for (len, kept) in [(10, "tail-1"), (20 * MIB, "joined")] {
        let bytes = vec![len as u8; len];
        let id = storage.begin(&a).await.expect("begun");
        storage.append(&a, &id, &any, Body::from(bytes.clone())).await.expect("taken");
        storage.finish(&a, &id, &any, Body::empty(), &Digest::sha256_of(&bytes)).await.expect("finished");
        assert!(server.path(&format!("data/{id}/{kept}")).exists(), "{:?}", server.keys());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_never_comes_out_whole_and_is_healed_by_a_push() {
    let a = repository("a");
    let bytes = vec![7; 3 * MIB];
    let (size, digest) = (bytes.len() as u64, Digest::sha256_of(&bytes));
    for damage in 0..4 {
        let server = S3Server::start();
        let (storage, _, _dir) = instance(&server, "");
        push(&storage, &a, &bytes).await;
        let object = server.path(&server.keys().into_iter().find(|key| key.starts_with("data/")).expect("an object"));
        let mut changed = bytes.clone();
        match damage {
            0 => changed[MIB] ^= 1,
            1 => changed[3 * MIB - 1] ^= 1,
            2 => changed.truncate(2 * MIB),
            _ => changed.clear(),
        }
        std::fs::write(&object, &changed).expect("written");
        if damage < 2 {
            assert_eq!(storage.blob(&a, &digest).await.expect("asked"), Some(size), "not seen yet");
            // A range is not known to be right.
            assert_eq!(read(&storage, &a, &digest, 1, size).await.as_deref(), Some(&changed[1..]));
            assert_eq!(read(&storage, &a, &digest, 0, size).await, None);
        }
        assert_eq!(storage.blob(&a, &digest).await.expect("asked"), None, "so that it is pushed again");
        assert!(!storage.mount(&a, &repository("b"), &digest).await.expect("asked"));
        push(&storage, &a, &bytes).await;
        assert_eq!(storage.blob(&a, &digest).await.expect("asked"), Some(size));
        assert_eq!(read(&storage, &a, &digest, 0, size).await.as_deref(), Some(&bytes[..]));
    }
}

/// Two instances go on with one session: the slower one is told, and its bytes are in no blob.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_with_one_session_the_slower_is_told() {
    let server = S3Server::start();
    let ((mut one, _, _dir), (two, _, _other)) = (instance(&server, ""), instance(&server, ""));
    let a = repository("a");
    for len in [10, 9 * MIB] {
        let id = one.begin(&a).await.expect("begun");
        one.append(&a, &id, &any, Body::from("start")).await.expect("taken");
        let (send, receive) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let slow = Body::from_stream(stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|piece| (piece, receive))
        }));
        let (repository, session) = (a.clone(), id.clone());
        let slower = tokio::spawn(async move {
            let appended = one.append(&repository, &session, &any, slow).await;
            (appended, one)
        });
        for _ in 0..2 {
            send.send(Ok(Bytes::from_static(b"slow"))).await.expect("taken");
        }
        let quick = vec![b'q'; len];
        assert_eq!(two.append(&a, &id, &any, Body::from(quick.clone())).await.expect("taken"), 5 + len as u64);
        drop(send);
        let appended;
        (appended, one) = slower.await.expect("ended");
        assert_eq!(appended.expect_err("told").status, 409);
        assert_eq!(two.upload_size(&a, &id).await.expect("asked"), 5 + len as u64);
        let digest = Digest::sha256_of(&[b"start", &quick[..]].concat());
        two.finish(&a, &id, &any, Body::empty(), &digest).await.expect("finished");
        assert!(read(&one, &a, &digest, 0, 5 + len as u64).await.is_some());
    }
}

/// An instance is killed between writing the record and saying so, or before.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_record_is_there_is_over_and_its_bytes_stay() {
    let server = S3Server::start();
    let (storage, _, _dir) = instance(&server, "");
    let a = repository("a");
    let digest = Digest::sha256_of(b"bytes");
    let killed = async |recorded: bool| {
        let id = storage.begin(&a).await.expect("begun");
        storage.append(&a, &id, &any, Body::from("bytes")).await.expect("taken");
        let place = Place::new(&a, &id).expect("an id");
        let (mut session, version) = place.load(storage.bucket()).await.expect("loaded");
        session.finishing = Some(digest.to_string());
        place.save(storage.bucket(), &mut session, Some(&version)).await.expect("saved");
        if recorded {
            let record = Record {
                size: 5,
                sha256: digest.hex().to_owned(),
                object: place.tail(1),
                owner: a.to_string(),
                mark: None,
            };
            storage.shared.records.write(storage.bucket(), &a, &digest, &record).await.expect("written");
        }
        id
    };
    let other = Digest::sha256_of(b"other");
    for end in 0..5 {
        let id = killed(true).await;
        match end {
            0 => storage.abandon(&a, &id).await.expect("ended"),
            1 => assert_eq!(storage.expire(Duration::ZERO).await.expect("looked"), 1),
            2 => storage.finish(&a, &id, &any, Body::empty(), &digest).await.expect("it is there"),
            3 => assert_eq!(storage.finish(&a, &id, &any, Body::empty(), &other).await.expect_err("over").status, 404),
            _ => {
                assert_eq!(storage.upload_size(&a, &id).await.expect_err("over").status, 404);
                assert_eq!(storage.append(&a, &id, &any, Body::from("x")).await.expect_err("over").status, 404);
                storage.abandon(&a, &id).await.expect("ended");
            }
        }
        assert_eq!(storage.upload_size(&a, &id).await.expect_err("over").status, 404);
        assert_eq!(read(&storage, &a, &digest, 0, 5).await.as_deref(), Some(&b"bytes"[..]), "{end}");
        storage.remove_blob(&a, &digest).await.expect("removed");
        assert_eq!(keys(&server), [""; 0], "{end}");
    }
    // Without a record it goes on.
    let id = killed(false).await;
    assert_eq!(storage.append(&a, &id, &any, Body::from("!")).await.expect("taken"), 6);
    let more = Digest::sha256_of(b"bytes!");
    storage.finish(&a, &id, &any, Body::empty(), &more).await.expect("finished");
    assert_eq!(read(&storage, &a, &more, 0, 6).await.as_deref(), Some(&b"bytes!"[..]));
}

/// Parts were joined, and the instance was killed before the record.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_were_joined_already_are_the_blob() {
    let server = S3Server::start();
    let (storage, _, _dir) = instance(&server, "");
    let a = repository("a");
    let bytes = vec![9; 16 * MIB];
    let digest = Digest::sha256_of(&bytes);
    let id = storage.begin(&a).await.expect("begun");
    storage.append(&a, &id, &any, Body::from(bytes.clone())).await.expect("taken");
    let place = Place::new(&a, &id).expect("an id");
    let (session, _) = place.load(storage.bucket()).await.expect("loaded");
    let upload = session.upload.clone().expect("parts");
    storage.bucket().join_parts(&place.joined(), &upload, &session.parts).await.expect("joined");
    storage.finish(&a, &id, &any, Body::empty(), &digest).await.expect("finished");
    assert_eq!(read(&storage, &a, &digest, 0, bytes.len() as u64).await.as_deref(), Some(&bytes[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_in_the_bucket_is_an_error_and_no_panic() {
    let server = S3Server::start();
    let (storage, _, _dir) = instance(&server, "");
    let a = repository("a");
    let digest = push(&storage, &a, b"bytes").await;
    let id = storage.begin(&a).await.expect("begun");
    storage.append(&a, &id, &any, Body::from("bytes")).await.expect("taken");
    let place = Place::new(&a, &id).expect("an id");
    // The tail.
    std::fs::write(server.path(&place.tail(1)), b"bytEs").expect("written");
    assert_eq!(storage.append(&a, &id, &any, Body::from("x")).await.expect_err("damaged").status, 500);
    for text in ["", "{}", "{\"size\":5,\"sha256\":\"\",\"object\":\"../x\",\"owner\":\"a\"}"] {
        std::fs::write(server.path(&place.key()), text).expect("written");
        assert_eq!(storage.upload_size(&a, &id).await.expect_err("damaged").status, 500);
        assert_eq!(storage.abandon(&a, &id).await.expect_err("damaged").status, 500);
        assert_eq!(storage.expire(Duration::ZERO).await.expect("looked"), 0);
        let record = server.path(&format!("repos/a/_blobs/{}", file_name(&digest)));
        std::fs::write(record, text).expect("written");
        assert_eq!(storage.blob(&a, &digest).await.expect_err("damaged").status, 500);
        // A push heals it.
        push(&storage, &a, b"bytes").await;
        assert_eq!(storage.blob(&a, &digest).await.expect("asked"), Some(5));
    }
    // None of ours.
    std::fs::create_dir_all(server.path("repos/a/_tags")).expect("made");
    std::fs::File::create(server.path("repos/a/_tags/large")).and_then(|f| f.set_len(9 << 20)).expect("made");
    assert_eq!(storage.get(&a, Kind::Tag, "large").await.expect_err("too large").status, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_signed_and_only_given_when_asked_for() {
    use std::io::{Read, Write};
    let server = S3Server::start();
    let ((plain, _, _dir), (redirecting, _, _other)) = (instance(&server, ""), instance(&server, ", redirect: true"));
    let a = repository("a");
    let digest = push(&plain, &a, b"bytes").await;
    assert_eq!(plain.redirect(&a, &digest).await.expect("asked"), None);
    assert_eq!(redirecting.redirect(&a, &Digest::sha256_of(b"x")).await.expect("asked"), None);
    let url = redirecting.redirect(&a, &digest).await.expect("asked").expect("a URL");
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let fetch = |path: &str| {
        let mut socket = std::net::TcpStream::connect(host).expect("connected");
        write!(socket, "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answered");
        answer
    };
    let answer = fetch(path);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("bytes"), "{answer}");
    let (object, _) = path.split_once('?').expect("a signature");
    assert!(fetch(object).starts_with("HTTP/1.1 403"), "not without the signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_judged_is_brought_here_and_leaves_when_nobody_needs_it() {
    let server = S3Server::start();
    let (storage, registry, _dir) = instance(&server, "");
    let a = repository("a");
    let here = |digest: &Digest| {
        let digest = digest.to_string().parse().expect("a digest");
        registry.content().blob(&"a".parse().expect("a name"), &digest).expect("asked").map(|held| held.size_bytes)
    };
    for bytes in [&b""[..], b"bytes", &vec![5; 9 * MIB]] {
        let digest = push(&storage, &a, bytes).await;
        assert_eq!(here(&digest), None);
        storage.localise(&a, &digest).await.expect("brought");
        storage.localise(&a, &digest).await.expect("it is there");
        assert_eq!(here(&digest), Some(bytes.len() as u64));
        storage.release(&a, &digest).await.expect("released");
        assert_eq!(here(&digest), Some(bytes.len() as u64), "one still needs it");
        storage.release(&a, &digest).await.expect("released");
        assert_eq!(here(&digest), None);
    }
    // Damaged, it does not come.
    let digest = push(&storage, &a, b"other").await;
    let object = server.keys().into_iter().filter(|key| key.starts_with("data/"));
    for key in object {
        let path = server.path(&key);
        if std::fs::read(&path).expect("read") == b"other" {
            std::fs::write(path, b"0ther").expect("written");
        }
    }
    assert!(storage.localise(&a, &digest).await.is_err());
    assert_eq!(here(&digest), None);
}
