//! What is pushed is what is pulled, also when the network breaks.

use crate::models::{gguf, safetensors, split};
use crate::rig::{Fake, Local, Proxy, Serving, Way, actor, answer, kind_of};
use securereg::{ErrorKind, PromoteRequest, Source, Task, Transfer};
use securereg_oci::model::Family;
use securereg_remote::{Options, Step, Types, Watch, pull};
use std::sync::atomic::{AtomicBool, Ordering};

const MIB: usize = 1 << 20;

#[test]
fn push_then_pull_into_another_root_gives_the_same_artifact() {
    let (server, from, to) = (Serving::new(), Local::new(), Local::new());
    let host = server.addr.to_string();
    let weights = safetensors(&[("w", "F32", &[2], &[0; 8])]);
    let shards = split(7);
    from.promote("tiny", &[("tiny.gguf", &gguf(3 * MIB, 1))]);
    from.promote("org/hf", &[("model.safetensors", &weights), ("config.json", b"{\"a\":1}"), ("README.md", b"# x\n")]);
    from.promote("set", &shards.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>());
    let (promote, read) = (server.token("promote"), server.token("read"));
    let pushing = from.options(&[(&host, &promote)]);
    let pulling = to.options(&[(&host, &read)]);
    for (name, types, family, files) in [
        ("tiny", Types::Hanzo, Family::Hanzo, 1),
        ("org/hf", Types::Hanzo, Family::Hanzo, 3),
        ("org/hf", Types::ModelPack, Family::ModelPack, 3),
        ("set", Types::Hanzo, Family::Hanzo, shards.len()),
    ] {
        let place = format!("{host}/{name}:v-{}", family as usize);
        let pushed = from.push(name, &place, types, &pushing).unwrap();
        assert_eq!(pushed.sent + pushed.there, files, "{place}");
        let again = from.push(name, &place, types, &pushing).unwrap();
        assert_eq!((again.sent, again.there, &again.digest), (0, files, &pushed.digest), "{place}");
        let pulled = to.pull(&place, None, &pulling).unwrap();
        assert_eq!((pulled.family, &pulled.digest), (family, &pushed.digest));
        let artifact = &pulled.promotion.artifact;
        let own = format!("{name}:v-{}", family as usize);
        assert_eq!((artifact.name.as_str(), artifact.sha256.to_hex()), (&*own, from.sha256(name)));
        assert_eq!(artifact.source, format!("{place}@{}", pushed.digest));
        // By its digest, under another name.
        let place = format!("{host}/{name}@{}", pushed.digest);
        assert_eq!(
            kind_of(to.pull(&place, None, &pulling)).0,
            ErrorKind::InvalidInput,
            "there is no tag to name it by"
        );
        to.pull(&place, Some(&format!("copy-{files}")), &pulling).unwrap();
        assert_eq!(to.sha256(&format!("copy-{files}")), from.sha256(name));
        // The server has judged it, too.
        assert_eq!(server.local.sha256(&own), from.sha256(name));
    }
    assert_eq!(to.left(), (vec![], vec![]));
}

#[test]
fn without_the_right_password_nothing_is_done() {
    let (server, from) = (Serving::new(), Local::new());
    let host = server.addr.to_string();
    from.promote("tiny", &[("tiny.gguf", &gguf(4096, 1))]);
    let place = format!("{host}/tiny:v1");
    for (logins, part) in [(vec![], "docker login"), (vec![(host.as_str(), "wrong")], "log in again")] {
        let options = from.options(&logins);
        let (kind, text) = kind_of(from.push("tiny", &place, Types::Hanzo, &options));
        assert_eq!(kind, ErrorKind::Permission);
        assert!(text.contains(part), "{text}");
        assert_eq!(kind_of(from.pull(&place, None, &options)).0, ErrorKind::Permission);
    }
    let read = from.options(&[(&host, &server.token("read"))]);
    assert_eq!(kind_of(from.push("tiny", &place, Types::Hanzo, &read)).0, ErrorKind::Permission);
    assert_eq!(kind_of(from.pull(&place, None, &read)).0, ErrorKind::NotFound);
    assert_eq!(kind_of(from.push("absent", &place, Types::Hanzo, &read)).0, ErrorKind::NotFound);
}

#[test]
fn a_registry_that_takes_a_model_and_does_not_serve_it_is_heard() {
    let from = Local::new();
    from.promote("m", &[("m.gguf", &gguf(4096, 1))]);
    let fake = Fake::new(|request| match request.method.as_str() {
        "HEAD" => answer(200, "transfer-encoding: chunked\r\n", ""),
        "PUT" => answer(201, "", ""),
        _ => answer(403, "", "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"this model was refused: junk\"}]}"),
    });
    let pushed = from.push("m", &format!("{}/m:v1", fake.addr), Types::Hanzo, &Options::default()).unwrap();
    assert!(pushed.remarks[0].contains("refused: junk"), "{:?}", pushed.remarks);
    // The tag comes last, after what it needs.
    let seen = fake.seen.lock().unwrap();
    let tag = seen.iter().position(|r| r.method == "PUT" && r.path().ends_with("/v1")).unwrap();
    assert!(seen[tag + 1..].iter().all(|request| request.method == "GET"));
}

#[test]
fn an_upload_goes_on_where_it_broke() {
    let (server, from) = (Serving::new(), Local::new());
    let size = 12 * MIB;
    from.promote("big", &[("big.gguf", &gguf(size, 2))]);
    let proxy = Proxy::new(server.addr, Way::Up, 3 * MIB as u64, 3);
    let host = proxy.addr.to_string();
    let options = from.options(&[(&host, &server.token("promote"))]);
    from.push("big", &format!("{host}/big:v1"), Types::Hanzo, &options).unwrap();
    assert_eq!(proxy.breaks_left(), 0);
    let most = (size + 3 * MIB) as u64;
    assert!(proxy.passed() < most, "{} bytes went up for {size}", proxy.passed());
    assert_eq!(server.local.sha256("big:v1"), from.sha256("big"));
}

#[test]
fn a_download_goes_on_where_it_broke_and_the_next_pull_where_the_last_ended() {
    let (server, from, to) = (Serving::new(), Local::new(), Local::new());
    let size = 30 * MIB;
    from.promote("big", &[("big.gguf", &gguf(size, 3))]);
    let direct = server.addr.to_string();
    let login = server.token("promote");
    from.push("big", &format!("{direct}/big:v1"), Types::Hanzo, &from.options(&[(&direct, &login)])).unwrap();
    // Breaks a few times, and is through.
    let proxy = Proxy::new(server.addr, Way::Down, 9 * MIB as u64, 3);
    let host = proxy.addr.to_string();
    let options = to.options(&[(&host, &login)]);
    let pulled = to.pull(&format!("{host}/big:v1"), None, &options).unwrap();
    assert_eq!(to.sha256("big:v1"), from.sha256("big"));
    // The file itself is taken over, where the file system lets any be.
    let own = to.registry.staging().join("own.gguf");
    std::fs::write(&own, gguf(4096, 1)).unwrap();
    let request = PromoteRequest { transfer: Transfer::Move, ..PromoteRequest::new("own".parse().unwrap()) };
    let own = to.registry.promote(request, Source::open(&own).unwrap(), &actor(), &Task::unattended()).unwrap();
    assert_eq!(pulled.promotion.method, own.method);
    assert_eq!(proxy.breaks_left(), 0);
    assert!(proxy.passed() < (size + 2 * MIB) as u64, "{} bytes came down for {size}", proxy.passed());
    // Is stopped in the middle: what is whole stays, and is not fetched again.
    let third = Local::new();
    let proxy = Proxy::new(server.addr, Way::Down, u64::MAX, 0);
    let host = proxy.addr.to_string();
    let options = third.options(&[(&host, &login)]);
    let place = format!("{host}/big:v1");
    let stop = AtomicBool::new(false);
    let tell = |step: Step| {
        if step.done > 0 {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let cancelled = |stop: &AtomicBool| {
        let watch = Watch { cancelled: stop, tell: &tell };
        pull(&third.registry, &place.parse().unwrap(), None, &options, &actor(), &watch)
    };
    assert_eq!(kind_of(cancelled(&stop)).0, ErrorKind::Cancelled);
    assert_eq!(third.registry.catalog().unwrap().artifacts().count(), 0);
    let (beside, parts) = third.left();
    assert_eq!((beside.len(), parts.len()), (0, 2), "{parts:?}");
    third.pull(&place, None, &options).unwrap();
    assert!(proxy.passed() < (size + 8 * MIB) as u64, "{} bytes came down for {size}", proxy.passed());
    assert_eq!(third.left(), (vec![], vec![]));
    assert_eq!(third.sha256("big:v1"), from.sha256("big"));
}
