//! `connections-bench HOST:PORT [CONNECTIONS [ASKS [SECONDS]]]`: how long `/health` takes while others hold connections open.
//!
//! Owns: the connections that stand, half of them idle, half sending one byte of a header each second; and the questions, spread evenly
//! over the time, each on a connection of its own. Promises: a connection that the server ends is opened again within a tenth of a second, so that
//! as many stand all the time; every answer is checked; how many stood is the server's own figure. Leaves out: starting the
//! server (run.sh).
//!
//! Prints one line of JSON: milliseconds at the 50th and 99th percentile and at worst, from the connect to the last byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A deadline that only a hang reaches.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let address: SocketAddr = args.first().and_then(|a| a.parse().ok()).expect("HOST:PORT is wanted");
    let number = |i: usize, otherwise: usize| args.get(i).map_or(otherwise, |a| a.parse().expect("a number"));
    let (wanted, asks, seconds) = (number(1, 1000), number(2, 2000), number(3, 40));

    let stop = Arc::new(AtomicBool::new(false));
    let reopened = Arc::new(AtomicUsize::new(0));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let keeper = {
        let (stop, reopened) = (Arc::clone(&stop), Arc::clone(&reopened));
        // Whoever waits for it is there.
        let all_stand = move || ready.send(()).expect("somebody waits");
        std::thread::spawn(move || keep(address, wanted, &stop, &reopened, all_stand))
    };
    is_ready.recv().expect("the keeper says when all stand");

    let mut times = Vec::with_capacity(asks);
    let mut stood = usize::MAX;
    let began = Instant::now();
    let pause = Duration::from_secs(seconds as u64) / u32::try_from(asks).expect("a small number");
    for i in 0..asks {
        let due = began + pause * u32::try_from(i).expect("a small number");
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let started = Instant::now();
        let answer = ask(address, "/health");
        times.push(started.elapsed());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        if i % 100 == 50 {
            stood = stood.min(open(address));
        }
    }
    stop.store(true, Ordering::Relaxed);
    keeper.join().expect("the keeper ends");
    times.sort();
    let ms = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{{\"connections\":{wanted},\"stood_at_least\":{stood},\"ended_by_the_server\":{},\"asks\":{asks},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"worst_ms\":{:.2}}}",
        reopened.load(Ordering::Relaxed),
        ms(0.5),
        ms(0.99),
        ms(1.0),
    );
}

/// Keeps `wanted` connections open, until `stop`. They are looked at ten times a second: the server ends all that were opened together
/// together.
fn keep(address: SocketAddr, wanted: usize, stop: &AtomicBool, reopened: &AtomicUsize, all_stand: impl FnOnce()) {
    let began = Instant::now();
    // When each is to send its next byte: spread over the second, as many clients would.
    let due = |i: usize| began + Duration::from_secs(1).mul_f64(i as f64 / wanted as f64);
    let mut connections: Vec<(TcpStream, Instant)> =
        (0..wanted).map(|i| (connect(address, i % 2 == 1), due(i))).collect();
    all_stand();
    while !stop.load(Ordering::Relaxed) {
        let round = Instant::now();
        for (i, (connection, due)) in connections.iter_mut().enumerate() {
            let slow = i % 2 == 1;
            let ended = match connection.read(&mut [0; 512]) {
                Ok(0) => true,
                Ok(_) => false,
                Err(e) => e.kind() != ErrorKind::WouldBlock,
            };
            let sends = slow && *due <= round;
            if sends {
                *due += Duration::from_secs(1);
            }
            if ended || (sends && connection.write(b"a").is_err()) {
                reopened.fetch_add(1, Ordering::Relaxed);
                *connection = connect(address, slow);
            }
        }
        std::thread::sleep(Duration::from_millis(100).saturating_sub(round.elapsed()));
    }
}

fn connect(address: SocketAddr, slow: bool) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("it listens");
    if slow {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ").expect("sent");
    }
    stream.set_nonblocking(true).expect("set");
    stream
}

fn ask(address: SocketAddr, target: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_nodelay(true).expect("set");
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// How many connections the server says it has, without the one that asks.
fn open(address: SocketAddr) -> usize {
    let figures = ask(address, "/metrics");
    let count = figures.lines().find_map(|line| line.strip_prefix("securereg_http_connections_open "));
    count.and_then(|n| n.trim().parse::<usize>().ok()).expect("the server's own figure") - 1
}
