//! Threats 18 to 21 from outside: a thousand connections, uploads without end or number, probing, tokens that are none.

use crate::oci::{call, get};
use crate::rig::{PATIENCE, Rig, wait_until};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustix::process::{Resource, getrlimit, setrlimit};
use securereg_server::Limits;
use serde_json::{Value, json};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

fn figure(rig: &Rig, series: &str) -> f64 {
    let text = rig.call("GET", "/metrics", "", None).body;
    let text = text.as_str().unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

/// Threat 18, and point 5 of issue 6: what is measured in benches/connections is promised here.
#[test]
fn t18_a_thousand_idle_and_slow_connections_are_capped_and_timed_out_and_health_answers_meanwhile() {
    let mut descriptors = getrlimit(Resource::Nofile);
    descriptors.current = descriptors.maximum;
    setrlimit(Resource::Nofile, descriptors).unwrap();
    // Both ends are ours, and a server takes half of the descriptors at most.
    let most = usize::try_from(descriptors.current.unwrap_or(u64::MAX) / 4).unwrap_or(usize::MAX);
    let (wanted, cap) = (most.min(1000), most.min(1000) * 9 / 10);
    let header_timeout = Duration::from_secs(5);
    let rig = Rig::with(Limits { connections: cap, header_timeout, ..Limits::default() });
    let mut standing: Vec<TcpStream> = (0..wanted)
        .map(|i| {
            let mut stream = rig.connect();
            if i % 2 == 1 {
                stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ").unwrap();
            }
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let last = Instant::now();
    let evicted = r#"securereg_http_connections_closed_total{cause="evicted"}"#;
    wait_until("those beyond the cap have given way", || figure(&rig, evicted) >= (wanted - cap) as f64);
    let open = figure(&rig, "securereg_http_connections_open");
    assert!(open <= (cap + 1) as f64, "the cap holds: {open} of {cap}");

    // Until the last one has had its time: each byte that a slow one sends buys it none.
    let mut asked = 0;
    while last.elapsed() < header_timeout {
        for slow in standing.iter_mut().skip(1).step_by(2) {
            let _ = slow.write(b"a");
        }
        for _ in 0..20 {
            assert_eq!(rig.call("GET", "/health", "", None).status, 200);
            asked += 1;
        }
    }
    assert!(asked >= 100, "only {asked}");
    for (i, stream) in standing.iter_mut().enumerate() {
        let end = Instant::now() + PATIENCE;
        loop {
            match stream.read(&mut [0; 64]) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < end, "connection {i} is not closed");
                    std::thread::yield_now();
                }
                Ok(n) if n > 0 => panic!("connection {i} is answered"),
                _ => break,
            }
        }
    }
    let timed_out = r#"securereg_http_connections_closed_total{cause="header_timeout"}"#;
    assert!(figure(&rig, timed_out) >= (cap / 2) as f64, "by the timer, and not for others");
}

/// Threat 19.
#[test]
fn t19_an_oversize_or_endless_manifest_is_413_and_an_endless_body_of_the_model_api_too() {
    let rig = Rig::new();
    let declared = call(&rig, "PUT", "/v2/a/manifests/t", "promote", "", &vec![b' '; (4 << 20) + 1]);
    assert_eq!(declared.status, 413);
    for (method, target) in [("PUT", "/v2/a/manifests/t"), ("POST", "/v1/promote")] {
        let mut stream = rig.connect();
        let auth = rig.token("promote");
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {auth}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        let mut sent = 0;
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        while stream.write_all(&chunk).is_ok() {
            sent += chunk.len();
            assert!(sent < 64 << 20, "{target} takes whatever is sent");
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 413"), "{target}: {}", String::from_utf8_lossy(&answer));
    }
}

/// Threat 19.
#[test]
fn t19_a_chunk_that_is_not_the_next_is_416_and_what_was_taken_stays() {
    let rig = Rig::new();
    let begun = call(&rig, "POST", "/v2/a/blobs/uploads/", "promote", "", b"");
    let first = call(&rig, "PATCH", &begun.location(), "promote", "content-range: 0-4\r\n", b"01234");
    assert_eq!(first.status, 202);
    for (range, body) in [("0-4", "01234"), ("6-9", "6789"), ("4-9", "456789"), ("99999999999999-99999999999999", "x")]
    {
        let wrong =
            call(&rig, "PATCH", &begun.location(), "promote", &format!("content-range: {range}\r\n"), body.as_bytes());
        assert_eq!((wrong.status, wrong.header("range")), (416, Some("0-4")), "{range}");
    }
    let rest = call(&rig, "PATCH", &begun.location(), "promote", "content-range: 5-9\r\n", b"56789");
    assert_eq!((rest.status, rest.header("range")), (202, Some("0-9")));
}

/// Threat 19. How many there may be in all, and that they expire, is the core's: tests/content.rs.
#[test]
fn t19_a_session_too_many_is_429_and_the_sessions_show_in_the_figures() {
    let rig = Rig::new();
    let begin = |repository: &str| call(&rig, "POST", &format!("/v2/{repository}/blobs/uploads/"), "promote", "", b"");
    let first = begin("a");
    call(&rig, "PATCH", &first.location(), "promote", "", b"0123456789");
    let uploads = rig.registry.root().join("oci/a/_uploads");
    for n in 0..999 {
        fs::write(uploads.join(format!("{n:032x}")), b"").unwrap();
    }
    let refused = begin("a");
    assert_eq!((refused.status, refused.code().as_str()), (429, "TOOMANYREQUESTS"));
    assert_eq!(begin("b").status, 202, "another repository's are its own");
    assert_eq!(figure(&rig, "securereg_uploads_open"), 1001.0);
    assert_eq!(figure(&rig, "securereg_upload_bytes"), 10.0);
    assert_eq!(call(&rig, "DELETE", &first.location(), "promote", "", b"").status, 204);
    assert_eq!(begin("a").status, 202);
}

/// A registry with a user of its own beside the tokens, who may pull and push in `team`.
fn with_a_user() -> (Rig, tempfile::TempDir) {
    let secrets = tempfile::tempdir().unwrap();
    let token = secrets.path().join("ci.token");
    fs::write(&token, "ci-secret-0123456789").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let rig = Rig::configured(&format!(
        "access:\n  - {{name: ci, token_file: {:?}, repositories: [\"team/**\"], rights: [pull, push]}}\n",
        token.to_str().unwrap()
    ));
    (rig, secrets)
}

/// Threat 20. Whether something is there must not show to who may not pull it.
#[test]
fn t20_who_may_not_pull_is_answered_alike_whether_it_is_there_or_not() {
    let (rig, _secrets) = with_a_user();
    let bytes = b"secret weights";
    let there = format!("sha256:{}", securereg::Sha256Digest::of(bytes).to_hex());
    let not_there = format!("sha256:{}", "0".repeat(64));
    let pushed = call(&rig, "POST", &format!("/v2/private/blobs/uploads/?digest={there}"), "promote", "", bytes);
    assert_eq!(pushed.status, 201);
    let auth = format!("authorization: Basic {}\r\n", STANDARD.encode("ci:ci-secret-0123456789"));
    let ask = |method: &str, target: &str| call(&rig, method, target, "", &auth, b"");
    assert_eq!(ask("GET", "/v2/").status, 200, "the user is known");

    // Mounting without the right to pull begins an upload, as it does of what is not there.
    for from in ["&from=private", ""] {
        let mounts = [&there, &not_there].map(|digest| {
            let reply = ask("POST", &format!("/v2/team/x/blobs/uploads/?mount={digest}{from}"));
            assert_eq!(reply.status, 202, "{digest}{from}");
            // But for what is another for each session.
            let id = reply.header("docker-upload-uuid").unwrap().to_owned();
            without_request(&reply.head).replace(&id, "ID")
        });
        assert_eq!(mounts[0], mounts[1]);
    }
    for (method, target) in [
        ("GET", "/v2/private/blobs/DIGEST"),
        ("HEAD", "/v2/private/blobs/DIGEST"),
        ("GET", "/v2/private/manifests/DIGEST"),
        ("GET", "/v2/private/referrers/DIGEST"),
        ("DELETE", "/v2/private/blobs/DIGEST"),
        ("PUT", "/v2/private/manifests/DIGEST"),
    ] {
        let answers = [&there, &not_there].map(|digest| {
            let reply = ask(method, &target.replace("DIGEST", digest));
            assert_eq!(reply.status, 403, "{method} {target}");
            (without_request(&reply.head), reply.body)
        });
        assert_eq!(answers[0], answers[1], "{method} {target}");
    }
    // Nor whether the repository is.
    let names = ["private", "nowhere"].map(|name| {
        let reply = ask("GET", &format!("/v2/{name}/tags/list"));
        (reply.status, String::from_utf8(reply.body).unwrap().replace(name, "NAME"))
    });
    assert_eq!((names[0].0, &names[0]), (403, &names[1]));
    assert_eq!(get(&rig, &format!("/v2/team/x/blobs/{there}"), "read").status, 404, "nothing was mounted");
    let catalog: Value = serde_json::from_slice(&ask("GET", "/v2/_catalog").body).unwrap();
    assert!(!catalog.to_string().contains("private"), "{catalog}");
}

/// The head of an answer without what is another for each request.
fn without_request(head: &str) -> String {
    head.lines().filter(|line| !line.starts_with("x-request-id:") && !line.starts_with("date:")).collect()
}

/// Threat 21. A token is a secret that is compared whole, and nothing in it is read: whatever a JWT claims, it is none of ours.
#[test]
fn t21_no_jwt_lets_anyone_in_whatever_it_claims() {
    let (rig, _secrets) = with_a_user();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "securereg", "sub": "admin", "aud": "127.0.0.1", "exp": 4_102_444_800_u64, "nbf": 0, "iat": 0, "jti": "1",
        "access": [{"type": "repository", "name": "a", "actions": ["pull", "push", "delete"]}],
        "scope": "admin read promote verify containment",
    });
    let expired = json!({"sub": "admin", "exp": 1, "access": claims["access"]});
    let early = json!({"sub": "admin", "nbf": 4_102_444_800_u64, "access": claims["access"]});
    let token_file = "../../../../tokens/admin.token";
    let mut bad = vec![String::new(), "null".into(), "undefined".into(), "Bearer".into()];
    for (header, claims, signature) in [
        (json!({"alg": "none", "typ": "JWT"}), &claims, String::new()),
        (json!({"alg": "None"}), &claims, String::new()),
        (json!({"alg": "HS256", "kid": token_file}), &claims, URL_SAFE_NO_PAD.encode([0; 32])),
        (json!({"alg": "HS256", "kid": "/dev/null"}), &claims, URL_SAFE_NO_PAD.encode([0; 32])),
        // Signed with a public key as if it were a secret.
        (json!({"alg": "HS256", "jwk": {"kty": "oct", "k": ""}}), &claims, URL_SAFE_NO_PAD.encode([0; 32])),
        (json!({"alg": "RS256", "jku": "http://127.0.0.1:1/keys"}), &claims, URL_SAFE_NO_PAD.encode([0; 256])),
        (json!({"alg": "ES256"}), &expired, URL_SAFE_NO_PAD.encode([0; 64])),
        (json!({"alg": "ES256"}), &early, URL_SAFE_NO_PAD.encode([0; 64])),
    ] {
        bad.push(format!("{}.{}.{signature}", part(&header), part(claims)));
    }
    // What holds a right one, or a part of it, is not it.
    for scope in ["read", "admin", "promote"] {
        let right = rig.token(scope);
        let (half, rest) = right.split_at(32);
        bad.extend([half.to_owned(), rest.to_owned(), format!("{right}0"), format!("0{right}"), right[1..].to_owned()]);
        bad.extend([right.to_uppercase(), format!("{right}.{right}"), format!("{right},{right}")]);
        bad.push(format!("{}.{}.{right}", part(&json!({"alg": "none"})), part(&claims)));
    }
    bad.extend(["ci-secret-012345678", "ci-secret-01234567890", "CI-SECRET-0123456789"].map(str::to_owned));
    assert!(bad.iter().all(|token| ["read", "admin"].iter().all(|scope| *token != rig.token(scope))));
    for token in &bad {
        let bearer = format!("authorization: Bearer {token}\r\n");
        let basic = |user: &str| format!("authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{token}")));
        for header in [&bearer, &basic("admin"), &basic("ci")] {
            let reply = call(&rig, "GET", "/v2/", "", header, b"");
            assert_eq!((reply.status, reply.code().as_str()), (401, "UNAUTHORIZED"), "{header}");
            assert!(reply.header("www-authenticate").is_some(), "{header}");
            let reply = call(&rig, "POST", "/v2/a/blobs/uploads/", "", header, b"");
            assert_eq!(reply.status, 401, "{header}");
        }
        for (method, target) in
            [("GET", "/v1/models"), ("POST", "/v1/promote"), ("DELETE", "/v1/model/m"), ("POST", "/api/v1/quarantine")]
        {
            let answer = rig.call_with(method, target, "", None, &bearer);
            assert_eq!((answer.status, &answer.body["kind"]), (403, &json!("forbidden")), "{method} {target} {token}");
        }
    }
    assert_eq!(rig.call("GET", "/v1/models", "admin", None).status, 200, "and the right one does");
}
