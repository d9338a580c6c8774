//! `/metrics`, `/ready`, request ids: what those who watch the service are told.

use crate::rig::{Rig, promote_body, read_answer, wait_until};
use securereg::Registry;
use securereg_server::{Config, Limits, Server, TokenFiles};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

/// The samples of a text in the format 0.0.4, by name and labels; the text must keep to the format.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line is ended");
    let (mut helped, mut typed, mut found) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name), "{name} is described twice");
            assert!(!help.is_empty(), "{name}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(typed.insert(name, kind).is_none(), "{name} is typed twice");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = of_histogram.filter(|name| typed.get(name) == Some(&"histogram")).unwrap_or(name);
            assert!(helped.contains(family) && typed.contains_key(family), "{line}");
            assert_eq!(family.ends_with("_total"), typed[family] == "counter", "a counter says so: {family}");
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
            assert!(found.insert(series.to_owned(), value).is_none(), "{series} stands twice");
        }
    }
    found
}

fn figures(rig: &Rig) -> BTreeMap<String, f64> {
    let answer = rig.call("GET", "/metrics", "", None);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    samples(answer.body.as_str().unwrap())
}

#[test]
fn the_figures_follow_what_happens() {
    let rig = Rig::new();
    // What the start itself writes passes through tmp/.
    let mut before = BTreeMap::new();
    wait_until("nothing is in tmp/", || {
        before = figures(&rig);
        before.get("securereg_temp_bytes") == Some(&0.0)
    });
    for (name, value) in [
        ("securereg_models_promoted", 0.0),
        ("securereg_catalog_good", 1.0),
        ("securereg_scrape_complete", 1.0),
        ("securereg_verify_all_age_seconds", f64::INFINITY),
        (r#"securereg_promotions_total{outcome="promoted"}"#, 0.0),
        (r#"securereg_integrity_failures_total{cause="corrupt"}"#, 0.0),
        (r#"securereg_reads_refused_total{cause="quarantined"}"#, 0.0),
        (r#"securereg_jobs{kind="promote",state="running"}"#, 0.0),
        (r#"securereg_calls_limit{lane="promote"}"#, 4.0),
        (r#"securereg_build_info{version="0.1.0"}"#, 1.0),
        ("securereg_http_connections_refused_total", 0.0),
        ("securereg_monitor_alive", 0.0),
    ] {
        assert_eq!(before.get(name), Some(&value), "{name}");
    }
    for above_zero in [
        "securereg_root_free_bytes",
        "securereg_root_size_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "securereg_http_connections_open",
    ] {
        assert!(before.get(above_zero).is_some_and(|v| *v > 0.0), "{above_zero}");
    }

    let model = rig.promoted("secret-name", "secret-name.gguf");
    rig.promoted("other", "other.gguf");
    rig.stage("hostile/x02_html.gguf", "junk.gguf");
    let junk = json!({"name": "junk", "path": "junk.gguf", "sha256": crate::rig::sha256_of("hostile/x02_html.gguf")});
    assert_eq!(rig.call("POST", "/v1/promote", "promote", Some(&junk)).status, 400);
    rig.flip_byte(model["sha256"].as_str().unwrap());
    assert_eq!(rig.call("POST", "/v1/models/verify-all", "verify", None).status, 409);
    assert_eq!(rig.call("GET", "/v1/model/path?name=secret-name", "read", None).status, 409);
    assert_eq!(rig.call("GET", "/v1/models", "", None).status, 403);
    rig.call("GET", "/v1/model/%0a../secret-name", "read", None);
    rig.call("BREW", "/v1/models", "read", None);
    rig.call("GET", "/v2/some/where/blobs/uploads/1", "read", None);

    let after = figures(&rig);
    for (name, value) in [
        ("securereg_models_promoted", 0.0),
        (r#"securereg_models_quarantined{cause="integrity"}"#, 2.0),
        (r#"securereg_models_quarantined{cause="incident"}"#, 0.0),
        (r#"securereg_promotions_total{outcome="promoted"}"#, 2.0),
        (r#"securereg_promotions_total{outcome="refused"}"#, 1.0),
        (r#"securereg_integrity_failures_total{cause="corrupt"}"#, 2.0),
        (r#"securereg_reads_refused_total{cause="quarantined"}"#, 1.0),
        ("securereg_http_auth_refused_total", 2.0),
        ("securereg_audit_lines_total", rig.registry.audit_verify().unwrap().lines as f64),
        ("securereg_catalog_generation", rig.registry.catalog().unwrap().generation() as f64),
        (r#"securereg_http_requests_total{method="POST",route="/v1/promote",status="2xx"}"#, 2.0),
        (r#"securereg_http_requests_total{method="POST",route="/v1/promote",status="4xx"}"#, 1.0),
        (r#"securereg_http_requests_total{method="other",route="/v1/models",status="4xx"}"#, 1.0),
        (r#"securereg_http_requests_total{method="GET",route="/v2/{name}/blobs/uploads/{id}",status="4xx"}"#, 1.0),
        (r#"securereg_http_request_duration_seconds_count{route="/v1/promote"}"#, 3.0),
        ("securereg_http_requests_in_flight", 1.0),
    ] {
        assert_eq!(after.get(name), Some(&value), "{name} {after:#?}");
    }
    assert!(!after.keys().any(|series| series.contains("secret")), "no figure names a model: {after:#?}");
    assert!(after.len() < 500, "a bounded number of series: {}", after.len());
}

/// Whatever clients write into paths and methods, the number of series stays.
#[test]
fn no_number_of_paths_makes_another_series() {
    let rig = Rig::new();
    let ask = |n: usize| {
        for target in [format!("/nowhere/{n}"), format!("/v1/model/m{n}"), format!("/v2/r{n}/x/manifests/t{n}")] {
            rig.call(&format!("M{n}"), &target, "read", None);
            rig.call("GET", &target, "read", None);
        }
    };
    ask(0);
    figures(&rig);
    let before = figures(&rig).len();
    (1..20).for_each(ask);
    assert_eq!(figures(&rig).len(), before);
}

#[test]
fn work_under_way_shows_and_does_not_keep_the_figures_or_health_waiting() {
    let limits = Limits { promotes: 1, verifies: 1, quick_calls: 1, ..Limits::default() };
    let rig = Rig::with(limits);
    let hold = rig.hold_commits();
    let waiting: Vec<_> = (0..3)
        .map(|n| {
            let file = format!("m{n}.gguf");
            rig.stage(crate::rig::OK_MIN, &file);
            rig.send("POST", "/v1/promote", "promote", Some(&promote_body(&format!("m{n}"), &file)), "")
        })
        .collect();
    // Every lane of small changes is full as well.
    let changes: Vec<_> =
        (0..8).map(|n| rig.send("DELETE", &format!("/v1/model/none{n}"), "admin", None, "")).collect();
    rig.wait_for_copies(1);
    let is = |figures: &BTreeMap<String, f64>, name: &str, value: f64| figures.get(name) == Some(&value);
    wait_until("the work shows", || {
        let now = figures(&rig);
        is(&now, r#"securereg_jobs{kind="promote",state="running"}"#, 1.0)
            && is(&now, r#"securereg_jobs{kind="promote",state="queued"}"#, 2.0)
            && is(&now, r#"securereg_calls_running{lane="promote"}"#, 1.0)
            && is(&now, "securereg_scrape_complete", 1.0)
            && now["securereg_temp_bytes"] > 0.0
            && now["securereg_http_requests_in_flight"] >= 4.0
    });
    assert_eq!(rig.call("GET", "/health", "", None).status, 200);
    let ready = rig.call("GET", "/ready", "", None);
    assert_eq!((ready.status, ready.body), (200, json!({"status": "ready"})));
    drop(hold);
    for mut stream in waiting.into_iter().chain(changes) {
        read_answer(&mut stream);
    }
}

#[test]
fn a_registry_that_cannot_serve_is_not_ready_and_says_why_without_a_path() {
    let rig = Rig::new();
    rig.promoted("m", "m.gguf");
    let manifest = rig.registry.root().join("manifest.yaml");
    let good = fs::read(&manifest).unwrap();
    fs::write(&manifest, &good[..good.len() / 2]).unwrap();
    let answer = rig.call("GET", "/ready", "", None);
    assert_eq!((answer.status, &answer.body["status"]), (503, &json!("unready")), "{}", answer.body);
    assert_eq!(answer.body["reason"], "manifest");
    assert!(!answer.body.to_string().contains(rig.dir().to_str().unwrap()), "{}", answer.body);
    assert_eq!(figures(&rig)["securereg_catalog_good"], 0.0);
    fs::write(&manifest, &good).unwrap();
    assert_eq!(rig.call("GET", "/ready", "", None).status, 200);
}

/// A registry that this process may only read is one that cannot be written to.
#[test]
fn a_root_that_cannot_be_written_to_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    drop(Registry::open_or_create(&root).unwrap());
    let registry = Registry::open_read_only(&root).unwrap();
    let server = Server::bind(registry, Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() }).unwrap();
    let (addr, stop) = (server.local_addr(), server.shutdown_handle());
    let thread = std::thread::spawn(move || server.run());
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let answer = read_answer(&mut stream);
    assert_eq!((answer.status, &answer.body["reason"]), (503, &json!("permission")), "{}", answer.body);
    stop.shutdown();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_service_that_shuts_down_is_not_ready_and_still_lives() {
    let mut rig = Rig::new();
    rig.stage(crate::rig::OK_MIN, "m.gguf");
    let hold = rig.hold_commits();
    let mut work = rig.send("POST", "/v1/promote", "promote", Some(&promote_body("m", "m.gguf")), "");
    rig.wait_for_copies(1);
    // A connection that was taken is served to the end of its request.
    let mut asked: Vec<_> = ["/ready", "/health"]
        .map(|target| {
            let mut stream = rig.connect();
            stream.write_all(format!("GET {target} HTTP/1.1\r\nhost: x\r\n").as_bytes()).unwrap();
            stream
        })
        .into();
    // The promotion's, these, and the one that asks.
    wait_until("they are taken", || figures(&rig)["securereg_http_connections_open"] >= 4.0);
    rig.shutdown_handle().shutdown();
    wait_until("nothing more is accepted", || {
        // A connection in the queue is refused when the socket closes.
        std::net::TcpStream::connect(rig.addr).is_err()
    });
    let answers: Vec<_> = asked
        .iter_mut()
        .map(|stream| {
            stream.write_all(b"\r\n").unwrap();
            read_answer(stream)
        })
        .collect();
    assert_eq!((answers[0].status, &answers[0].body["reason"]), (503, &json!("shutting_down")));
    assert_eq!(answers[1].status, 200);
    drop(hold);
    assert_eq!(read_answer(&mut work).status, 200);
    rig.shut_down();
}

/// Counts are no secret on the machine itself; what comes from outside, or through a proxy, shows a token.
#[test]
fn the_figures_need_the_read_token_from_outside_and_through_a_proxy() {
    let rig = Rig::new();
    assert_eq!(rig.call("GET", "/metrics", "", None).status, 200);
    for header in [
        "x-forwarded-for: 203.0.113.7\r\n",
        "forwarded: for=203.0.113.7\r\n",
        "via: 1.1 x\r\n",
        "x-real-ip: 203.0.113.7\r\n",
    ] {
        for (scope, status) in
            [("", 403), ("promote", 403), ("verify", 403), ("containment", 403), ("read", 200), ("admin", 200)]
        {
            let answer = rig.call_with("GET", "/metrics", scope, None, header);
            assert_eq!(answer.status, status, "{header} {scope}");
            if status == 403 {
                assert_eq!(answer.body["kind"], "forbidden");
            }
        }
        assert_eq!(rig.call_with("GET", "/health", "", None, header).status, 200, "health stays open");
        assert_eq!(rig.call_with("GET", "/ready", "", None, header).status, 200);
    }

    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open_or_create(&dir.path().join("root")).unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "0123456789abcdef").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let tokens = TokenFiles { read: Some(token), ..TokenFiles::default() };
    let server = Server::bind(registry, Config { tokens, listen: ([0, 0, 0, 0], 0).into(), ..Config::default() });
    let server = server.unwrap();
    let (port, stop) = (server.local_addr().port(), server.shutdown_handle());
    let thread = std::thread::spawn(move || server.run());
    let status = |auth: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{auth}\r\n").as_bytes()).unwrap();
        read_answer(&mut stream).status
    };
    assert_eq!(status(""), 403, "others can reach it, so that nobody is let in by where they come from");
    assert_eq!(status("authorization: Bearer 0123456789abcdef\r\n"), 200);
    stop.shutdown();
    thread.join().unwrap().unwrap();
}

#[test]
fn every_answer_has_a_request_id_the_clients_own_when_it_is_harmless() {
    let rig = Rig::new();
    for (target, scope) in [
        ("/health", ""),
        ("/ready", ""),
        ("/metrics", ""),
        ("/v1/models", ""),
        ("/v1/models", "read"),
        ("/nowhere", ""),
        ("/v2/", ""),
    ] {
        let answer = rig.call_with("GET", target, scope, None, "x-request-id: req-1.A_b\r\n");
        assert_eq!(answer.header("x-request-id"), Some("req-1.A_b"), "{target}");
        let made = rig.call("GET", target, scope, None);
        let id = made.header("x-request-id").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{target}: {id}");
        for bad in ["x-request-id: a b\r\n", "x-request-id: <x>\r\n", "x-request-id: a\r\nx-request-id: b\r\n"] {
            let answer = rig.call_with("GET", target, scope, None, bad);
            assert_eq!(answer.header("x-request-id").map(str::len), Some(32), "{bad}");
        }
    }
    // Not in the body: a refusal reads the same whoever asks for whatever.
    let refused = rig.call_with("GET", "/v1/models", "", None, "x-request-id: mine\r\n");
    assert!(!refused.body.to_string().contains("mine"), "{}", refused.body);
}

#[test]
fn the_pulse_beats_while_the_server_serves_and_stops_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open_or_create(&dir.path().join("root")).unwrap();
    let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
    let server = Server::bind(registry.clone(), config).unwrap();
    let (pulse, stop) = (server.pulse(), server.shutdown_handle());
    let short = std::time::Duration::from_millis(50);
    assert!(!pulse.beats_within(short), "bound is not yet serving");
    let thread = std::thread::spawn(move || server.run());
    wait_until("it beats", || pulse.beats_within(short));
    // A manifest that cannot be served is told of, not hidden by a restart.
    fs::write(registry.root().join("manifest.yaml"), "torn").unwrap();
    assert!(registry.catalog().is_err());
    assert!(pulse.beats_within(crate::rig::PATIENCE));
    stop.shutdown();
    thread.join().unwrap().unwrap();
    assert!(!pulse.beats_within(short));
}
