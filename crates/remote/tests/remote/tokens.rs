//! Token servers.

use crate::models::gguf;
use crate::rig::{Fake, Local, answer, honest, image, kind_of};
use securereg::ErrorKind;
use securereg_remote::{Keychain, Options, Types};
use std::sync::atomic::{AtomicU32, Ordering};

const HANZO: &str = "application/vnd.hanzo.model.v1";

/// A registry that takes the bearer token that a token server gives now, and the token server.
fn pair(tokens: u32) -> (Fake, Fake) {
    let made = AtomicU32::new(0);
    let issuer = Fake::new(move |request| {
        let known = request.header("authorization") == Some("Basic eDpzZWNyZXQ=")
            || request.body.contains("grant_type=refresh_token") && request.body.contains("&refresh_token=long&");
        match known {
            true if request.body.is_empty() => {
                answer(200, "", format!("{{\"token\":\"t{}\"}}", made.fetch_add(1, Ordering::SeqCst)))
            }
            true => answer(200, "", "{\"access_token\":\"t0\",\"expires_in\":60}"),
            false => answer(401, "", ""),
        }
    });
    let realm = format!("http://{}/token", issuer.addr);
    let model = gguf(5 << 20, 9);
    let good = honest(image(HANZO, &[("application/vnd.hanzo.gguf", &model, "m.gguf")]), vec![model]);
    let served = AtomicU32::new(0);
    let registry = Fake::new(move |request| {
        // A token is good for two requests.
        let now = served.load(Ordering::SeqCst) / 2;
        match request.header("authorization") {
            Some(header) if header == format!("Bearer t{}", now.min(tokens)) => {
                served.fetch_add(1, Ordering::SeqCst);
                good(request)
            }
            _ => {
                let challenge = format!(
                    "www-authenticate: Bearer realm=\"{realm}\",service=\"reg istry\",scope=\"repository:a/m:pull\"\r\n"
                );
                answer(401, &challenge, "")
            }
        }
    });
    (registry, issuer)
}

#[test]
fn a_token_is_got_for_the_password_kept_and_got_anew_when_it_ends() {
    let (registry, issuer) = pair(u32::MAX);
    let to = Local::new();
    let host = registry.addr.to_string();
    let options = to.options(&[(&host, "secret")]);
    for tag in ["v1", "v2"] {
        to.pull(&format!("{host}/a/m:{tag}"), None, &options).unwrap();
    }
    let asked = issuer.seen.lock().unwrap();
    assert_eq!(asked.len(), 2, "one each pull");
    assert_eq!(asked[0].target, "/token?service=reg%20istry&scope=repository:a/m:pull&account=x");
    assert_eq!(asked[0].header("authorization"), Some("Basic eDpzZWNyZXQ="));
    let seen = registry.seen.lock().unwrap();
    assert!(seen.iter().all(|r| r.header("authorization").is_none_or(|value| value.starts_with("Bearer t"))));
}

#[test]
fn an_identity_token_is_changed_for_a_token_and_a_wrong_password_is_said() {
    let (registry, issuer) = pair(0);
    let to = Local::new();
    let host = registry.addr.to_string();
    let file = to.dir.path().join("auth.json");
    std::fs::write(&file, format!("{{\"auths\":{{\"{host}\":{{\"identitytoken\":\"long\"}}}}}}")).unwrap();
    let options = Options { keychain: Keychain { files: vec![file], helpers: None }, ..Options::default() };
    to.pull(&format!("{host}/a/m:v1"), None, &options).unwrap();
    assert_eq!(issuer.seen.lock().unwrap()[0].method, "POST");
    for (options, part) in [(to.options(&[(&host, "other")]), "log in again"), (Options::default(), "docker login")] {
        let (kind, text) = kind_of(to.pull(&format!("{host}/a/m:v2"), None, &options));
        assert!(kind == ErrorKind::Permission && text.contains(part), "{text}");
        assert!(!text.contains("other"), "{text}");
    }
}

#[test]
fn a_token_server_that_is_none_and_a_token_that_never_does() {
    let to = Local::new();
    to.promote("m", &[("m.gguf", &gguf(4096, 1))]);
    for (challenge, kind) in [
        ("Bearer service=\"x\"", ErrorKind::Refused),
        ("Bearer realm=\"ftp://x/\"", ErrorKind::Refused),
        ("Bearer realm=\"http://169.254.169.254/\"", ErrorKind::Refused),
        ("Bearer realm=\"/empty\"", ErrorKind::Refused),
        ("Bearer realm=\"/same\"", ErrorKind::Permission),
        ("Negotiate", ErrorKind::Refused),
    ] {
        let fake = Fake::new(move |request| match request.path() {
            "/empty" => answer(200, "", "{}"),
            "/same" => answer(200, "", "{\"token\":\"t\"}"),
            _ => answer(401, &format!("www-authenticate: {challenge}\r\n"), ""),
        });
        let host = fake.addr.to_string();
        let options = to.options(&[(&host, "secret")]);
        let (found, text) = kind_of(to.pull(&format!("{host}/a/m:v1"), None, &options));
        assert_eq!(found, kind, "{challenge}: {text}");
        let (found, text) = kind_of(to.push("m", &format!("{host}/a/m:v1"), Types::Hanzo, &options));
        assert_eq!(found, kind, "{challenge}: {text}");
        assert!(fake.seen.lock().unwrap().len() < 20);
    }
}
