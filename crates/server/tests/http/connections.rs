//! Threat 18: slow, idle and many connections.

use crate::rig::{PATIENCE, Rig, read_answer};
use securereg_server::Limits;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn is_closed(stream: &mut TcpStream) -> bool {
    // The end of the stream, or a reset: both are a close.
    matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_))
}

#[test]
fn t18_slow_headers_end_the_connection() {
    let rig = Rig::with(Limits { header_timeout: Duration::from_millis(200), ..Limits::default() });
    let mut silent = rig.connect();
    let mut slow = rig.connect();
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ").unwrap();
    let started = Instant::now();
    // One byte at a time must not renew the deadline.
    while slow.write_all(b"a").is_ok() {
        assert!(started.elapsed() < PATIENCE, "slow headers keep the connection open");
        std::thread::yield_now();
    }
    assert!(is_closed(&mut silent));
    assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
}

#[test]
fn t18_a_body_that_dawdles_is_408() {
    let rig = Rig::with(Limits { body_timeout: Duration::from_millis(200), ..Limits::default() });
    let mut stream = rig.connect();
    let token = rig.token("promote");
    let head = format!(
        "POST /v1/promote HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).status, 408);
}

#[test]
fn t18_a_client_that_takes_no_answer_is_closed() {
    let limits = Limits { body_timeout: Duration::from_millis(300), header_timeout: PATIENCE, ..Limits::default() };
    let rig = Rig::with(limits);
    let mut stream = rig.connect();
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let started = Instant::now();
    // Answers pile up until no buffer takes more; then nothing moves.
    loop {
        match stream.write(&b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100)) {
            Err(e) if e.kind() != ErrorKind::WouldBlock => break,
            _ => assert!(started.elapsed() < PATIENCE, "a client that reads nothing keeps its connection"),
        }
    }
    assert_eq!(rig.call("GET", "/health", "", None).status, 200);
}

/// The table of connections is small, and far more connections are made than it holds.
#[test]
fn t18_idle_connections_beyond_the_cap_give_way_to_new_callers() {
    let rig = Rig::with(Limits { connections: 16, ..Limits::default() });
    let mut idle: Vec<TcpStream> = (0..200).map(|_| rig.connect()).collect();
    let started = Instant::now();
    assert_eq!(rig.call("GET", "/health", "", None).status, 200);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    // The first ones were closed to make room, promptly.
    for stream in &mut idle[..150] {
        assert!(is_closed(stream));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "they were closed at once, not by a timer");
}

/// As in the table of threats, as far as the descriptors of this process reach: both ends are ours.
#[test]
fn t18_ten_thousand_idle_connections_leave_health_under_a_second() {
    let rig = Rig::new();
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    // The server's share is its cap; the rest is for the clients' ends.
    let wanted = usize::try_from(descriptors.saturating_sub(3000)).unwrap_or(usize::MAX).clamp(200, 10_000);
    let mut idle = Vec::with_capacity(wanted);
    let mut slowest = Duration::ZERO;
    for i in 0..wanted {
        match TcpStream::connect(rig.addr) {
            Ok(stream) => idle.push(stream),
            Err(e) => panic!("connection {i}: {e}"),
        }
        if i % 1000 == 999 {
            let started = Instant::now();
            assert_eq!(rig.call("GET", "/health", "", None).status, 200);
            slowest = slowest.max(started.elapsed());
        }
    }
    let started = Instant::now();
    assert_eq!(rig.call("GET", "/health", "", None).status, 200);
    slowest = slowest.max(started.elapsed());
    assert!(slowest < Duration::from_secs(1), "{slowest:?} with {wanted} connections");
}

#[test]
fn t18_a_request_under_way_is_not_closed_for_others() {
    let rig = Rig::with(Limits { connections: 8, ..Limits::default() });
    rig.stage(crate::rig::OK_MIN, "m.gguf");
    let hold = rig.hold_commits();
    let body = crate::rig::promote_body("m", "m.gguf");
    let mut waiting = rig.send("POST", "/v1/promote", "promote", Some(&body), "");
    rig.wait_for_copies(1);
    let _idle: Vec<TcpStream> = (0..100).map(|_| rig.connect()).collect();
    assert_eq!(rig.call("GET", "/health", "", None).status, 200);
    drop(hold);
    assert_eq!(read_answer(&mut waiting).status, 200);
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let rig = Rig::new();
    let mut stream = rig.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
    }
}

#[test]
fn malformed_requests_end_the_connection_and_nothing_else() {
    let rig = Rig::new();
    for bad in [
        "\r\n\r\n\r\n\r\nGARBAGE\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000)),
        format!("GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-a: b\r\n".repeat(500)),
        "POST /v1/promote HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n".to_owned(),
        "POST /v1/promote HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n".to_owned(),
    ] {
        let mut stream = rig.connect();
        // The server may close before it has read all of it.
        let _ = stream.write_all(bad.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(rig.call("GET", "/health", "", None).status, 200);
}
