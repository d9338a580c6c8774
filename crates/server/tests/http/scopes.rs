//! Who may ask what: every route, with every token, and with none.

use crate::rig::{Rig, promote_body};
use securereg::Registry;
use securereg_server::{Config, Server, TokenFiles};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const SCOPES: [&str; 6] = ["", "read", "verify", "promote", "admin", "containment"];

#[test]
fn every_route_takes_the_tokens_of_its_scope_and_no_other() {
    let rig = Rig::new();
    let none: &[&str] = &[];
    let routes: &[(&str, &str, &[&str])] = &[
        ("GET", "/v1/models", &["read", "admin"]),
        ("GET", "/v1/model/none", &["read", "admin"]),
        ("GET", "/v1/model/org/none:v1", &["read", "admin"]),
        ("GET", "/v1/model?name=none", &["read", "admin"]),
        ("GET", "/v1/model/path?name=none", &["read", "admin"]),
        ("POST", "/v1/promote", &["promote"]),
        ("POST", "/v1/model/promote", &["promote"]),
        ("DELETE", "/v1/model/none", &["admin"]),
        ("DELETE", "/v1/model/delete?name=none", &["admin"]),
        ("POST", "/v1/model/verify?name=none", &["verify", "admin"]),
        ("POST", "/v1/models/verify-all", &["verify", "admin"]),
        ("POST", "/v1/model/verify-manifest", &["verify", "admin"]),
        ("POST", "/v1/model/verify-manifest?name=none", &["verify", "admin"]),
        ("GET", "/v1/integrity/status", &["verify", "admin"]),
        ("POST", "/api/v1/quarantine", &["containment"]),
        ("GET", "/v1/jobs/none", &["read", "verify", "promote", "admin", "containment"]),
        ("GET", "/nowhere", none),
    ];
    for (method, target, allowed) in routes {
        for scope in SCOPES {
            let answer = rig.call(method, target, scope, Some(&json!({})));
            match (*target, allowed.contains(&scope)) {
                ("/nowhere", _) => assert_eq!(answer.status, 404, "no token opens what is not there"),
                (_, true) => assert_ne!(answer.status, 403, "{method} {target} with {scope}: {}", answer.body),
                (_, false) => {
                    assert_eq!(answer.status, 403, "{method} {target} with {scope:?}: {}", answer.body);
                    assert!(answer.body["error"].is_string() && answer.body["kind"] == "forbidden");
                }
            }
        }
    }
    assert_eq!(rig.call("GET", "/health", "", None).status, 200);
}

#[test]
fn a_refusal_comes_before_anything_else_is_told() {
    let rig = Rig::new();
    rig.promoted("there", "there.gguf");
    // Whether a name is there, a body parses or is too large: the same 403.
    let bodies: Vec<Value> = [
        ("GET", "/v1/model/there", None),
        ("GET", "/v1/model/not-there", None),
        ("GET", "/v1/model/..%2Fx", None),
        ("GET", "/v1/model?name=there&name=x", None),
    ]
    .into_iter()
    .map(|(method, target, body)| {
        let answer = rig.call(method, target, "promote", body);
        assert_eq!(answer.status, 403, "{target}");
        answer.body
    })
    .collect();
    assert!(bodies.windows(2).all(|w| w[0] == w[1]), "{bodies:?}");
    for body in [json!("x".repeat(5 << 20)), json!([]), json!({"name": "../x"})] {
        assert_eq!(rig.call("POST", "/v1/promote", "read", Some(&body)).status, 403);
        assert_eq!(rig.call("POST", "/api/v1/quarantine", "", Some(&body)).status, 403);
    }
}

#[test]
fn wrong_methods_and_routes_are_json_too() {
    let rig = Rig::new();
    for (method, target) in [
        ("GET", "/v1/model/promote"),
        ("POST", "/v1/models"),
        ("GET", "/api/v1/quarantine"),
        ("PUT", "/health"),
        ("DELETE", "/v1/model/path"),
    ] {
        let answer = rig.call(method, target, "admin", None);
        assert_eq!((answer.status, &answer.body["kind"]), (405, &json!("method_not_allowed")), "{method} {target}");
        assert!(answer.header("allow").is_some(), "{method} {target}");
    }
    let answer = rig.call("GET", "/", "", None);
    assert_eq!((answer.status, &answer.body["kind"]), (404, &json!("not_found")));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(rig.call("HEAD", "/v1/models", "", None).status, 403, "HEAD is no way around a scope");
}

#[test]
fn an_address_others_can_reach_needs_configured_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open_or_create(&dir.path().join("root")).unwrap();
    let open = Config { listen: ([0, 0, 0, 0], 0).into(), ..Config::default() };
    let refused = Server::bind(registry.clone(), open.clone()).err().unwrap().to_string();
    assert!(refused.contains("not a loopback address") && refused.contains("REGISTRY_READ_TOKEN_PATH"), "{refused}");
    assert!(
        !registry.root().join("tokens/read.token").exists(),
        "nothing is generated for a server that must not start"
    );

    let token = dir.path().join("token");
    fs::write(&token, "0123456789abcdef").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let tokens = TokenFiles { service: Some(token), ..TokenFiles::default() };
    let server = Server::bind(registry, Config { tokens, ..open }).unwrap();
    assert!(server.token_notice().is_empty());
}

#[test]
fn the_old_service_token_covers_all_but_containment() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open_or_create(&dir.path().join("root")).unwrap();
    // The rig reads tokens where generated ones lie.
    let tokens_dir = registry.root().join("tokens");
    fs::create_dir_all(&tokens_dir).unwrap();
    let token = tokens_dir.join("service.token");
    fs::write(&token, "an-old-shared-service-token\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let tokens = TokenFiles { service: Some(token), ..TokenFiles::default() };
    let server =
        Server::bind(registry.clone(), Config { listen: ([127, 0, 0, 1], 0).into(), tokens, ..Config::default() })
            .unwrap();
    let (addr, stop) = (server.local_addr(), server.shutdown_handle());
    let thread = std::thread::spawn(move || server.run());
    let status = |method: &str, target: &str| {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer an-old-shared-service-token\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        crate::rig::read_answer(&mut stream).status
    };
    assert_eq!(status("GET", "/v1/models"), 200);
    assert_eq!(status("POST", "/v1/models/verify-all"), 200);
    assert_eq!(status("POST", "/v1/model/promote"), 400);
    assert_eq!(status("DELETE", "/v1/model/x"), 404);
    assert_eq!(status("POST", "/api/v1/quarantine"), 403);
    stop.shutdown();
    thread.join().unwrap().unwrap();
}

#[test]
fn generated_tokens_are_told_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open_or_create(&dir.path().join("root")).unwrap();
    let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
    let notice = |registry: &Registry| {
        let server = Server::bind(registry.clone(), config.clone()).unwrap();
        server.token_notice().iter().map(|p| (p.clone(), fs::read(p).unwrap())).collect::<Vec<_>>()
    };
    let first = notice(&registry);
    let names: Vec<_> = first.iter().map(|(p, _)| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["read.token", "verify.token", "promote.token", "admin.token", "containment.token"]);
    assert_eq!(notice(&registry), first);
    let rig = Rig::new();
    assert_eq!(rig.call("POST", "/v1/promote", "promote", Some(&promote_body("m", "none.gguf"))).status, 400);
}

#[test]
fn a_staging_folder_that_holds_the_registry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open_or_create(&dir.path().join("root")).unwrap();
    let root = registry.root().to_owned();
    for bad in
        [root.clone(), root.join("tokens"), root.join("blobs/sha256"), "/".into(), dir.path().into(), "relative".into()]
    {
        let config = Config { staging: vec![bad.clone()], listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        assert!(Server::bind(registry.clone(), config).is_err(), "{}", bad.display());
    }
}
