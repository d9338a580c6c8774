//! The pool: deadlines, stolen replies, stuck workers.

use super::*;
use crate::view::{Facts, Opens, Status};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

const SOON: Duration = Duration::from_secs(10);

fn blob(byte: u8) -> Sha256Digest {
    Sha256Digest::from_bytes([byte; 32])
}

fn node(byte: u8) -> Arc<FileNode> {
    let facts = Facts {
        opens: Opens::Blob,
        sha256: blob(byte),
        blake3: securereg::Blake3Digest::from_bytes([byte; 32]),
        size: 1,
        status: Status::Promoted,
        promoted_at: String::new(),
    };
    let node = Arc::new(FileNode::new(u64::from(byte), 1, "f", facts));
    assert!(node.gate.enter());
    node
}

struct Rig {
    pool: Pool,
    timeouts: Arc<AtomicUsize>,
    /// Dropped, the hung disks answer.
    disk: Option<Sender<()>>,
    hang: Arc<Mutex<Receiver<()>>>,
}

impl Rig {
    fn new(threads: usize, timeout: Duration) -> Rig {
        let timeouts = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&timeouts);
        let count = move |_: &Arc<FileNode>| {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let (disk, hang) = channel();
        let pool = Pool::start(threads, timeout, Box::new(count)).expect("starts");
        Rig { pool, timeouts, disk: Some(disk), hang: Arc::new(Mutex::new(hang)) }
    }

    fn submit(&self, byte: u8, work: impl FnOnce() -> Vec<u8> + Send + 'static) -> Receiver<Result<Vec<u8>, i32>> {
        let (sender, answer) = channel();
        let work = Box::new(move |ticket: &Arc<Ticket>, _: &mut ReadBuf| {
            let bytes = work();
            if let Some(claim) = ticket.claim() {
                claim.data(&bytes);
            }
        });
        self.pool.submit(Reply::Test(sender), Some(blob(byte)), Some(node(byte)), work);
        answer
    }

    fn submit_hung(&self, byte: u8) -> Receiver<Result<Vec<u8>, i32>> {
        let hang = Arc::clone(&self.hang);
        // Ends when the rig drops the disk.
        self.submit(byte, move || {
            loop {
                match hang.lock().try_recv() {
                    Err(std::sync::mpsc::TryRecvError::Empty) => {}
                    _ => return b"late".to_vec(),
                }
                std::thread::yield_now();
                std::thread::park_timeout(Duration::from_millis(5));
            }
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.disk = None;
        self.pool.close();
    }
}

fn eio() -> Result<Vec<u8>, i32> {
    Err(libc::EIO)
}

#[test]
fn t17_a_hung_request_is_eio_at_its_timeout_and_its_late_answer_is_lost() {
    let mut rig = Rig::new(2, Duration::from_millis(200));
    let hung = rig.submit_hung(1);
    assert_eq!(hung.recv_timeout(SOON), Ok(eio()));
    crate::pool::tests::until(|| rig.timeouts.load(Ordering::SeqCst) == 1);
    rig.disk = None;
    assert!(hung.recv_timeout(SOON).is_err(), "one answer, and the channel ends");
    until(|| rig.pool.0.state.lock().stuck == 0);
    let state = rig.pool.0.state.lock();
    assert!(state.workers >= 2 && state.pending.is_empty() && state.busy.is_empty());
}

#[test]
fn t17_one_hung_model_does_not_stop_the_others() {
    let rig = Rig::new(2, Duration::from_secs(60));
    let hung: Vec<_> = (0..40).map(|_| rig.submit_hung(1)).collect();
    for _ in 0..20 {
        let other = rig.submit(2, || b"fine".to_vec());
        assert_eq!(other.recv_timeout(SOON), Ok(Ok(b"fine".to_vec())));
    }
    let state = rig.pool.0.state.lock();
    assert_eq!(state.busy[&blob(1)], 8, "it has its share of workers, and no more");
    assert!(state.workers <= 16, "{}", state.workers);
    drop(state);
    assert!(hung.iter().all(|h| h.try_recv().is_err()));
}

#[test]
fn t17_threads_are_capped_however_much_hangs() {
    let rig = Rig::new(2, Duration::from_millis(100));
    let hung: Vec<_> = (0..200).map(|i| rig.submit_hung(i as u8)).collect();
    for h in &hung {
        assert_eq!(h.recv_timeout(SOON), Ok(eio()));
    }
    let state = rig.pool.0.state.lock();
    assert!(state.workers + state.stuck <= CAP, "{} and {}", state.workers, state.stuck);
    drop(state);
    assert!(rig.timeouts.load(Ordering::SeqCst) <= CAP, "what never reached the disk says nothing about its file");
}

#[test]
fn a_panic_is_eio_and_costs_no_worker() {
    let rig = Rig::new(1, SOON);
    for _ in 0..5 {
        assert_eq!(rig.submit(1, || panic!("a bug")).recv_timeout(SOON), Ok(eio()));
    }
    assert_eq!(rig.submit(1, || b"fine".to_vec()).recv_timeout(SOON), Ok(Ok(b"fine".to_vec())));
}

#[test]
fn stolen_reads_are_eio_at_once_and_others_are_not_touched() {
    let rig = Rig::new(4, Duration::from_secs(60));
    let (mine, other) = (rig.submit_hung(1), rig.submit_hung(2));
    rig.pool.steal(1);
    assert_eq!(mine.recv_timeout(SOON), Ok(eio()));
    assert!(other.try_recv().is_err());
}

#[test]
fn a_closed_pool_answers_eio() {
    let rig = Rig::new(1, Duration::from_secs(60));
    let hung = rig.submit_hung(1);
    rig.pool.close();
    assert_eq!(hung.recv_timeout(SOON), Ok(eio()));
    assert_eq!(rig.submit(1, || b"fine".to_vec()).recv_timeout(SOON), Ok(eio()));
}

#[test]
fn a_shut_gate_turns_bytes_into_eio() {
    let rig = Rig::new(1, SOON);
    let (sender, answer) = channel();
    let file = node(1);
    file.gate.shut(crate::gate::Why::Quarantined);
    let work = Box::new(|ticket: &Arc<Ticket>, _: &mut ReadBuf| {
        if let Some(claim) = ticket.claim() {
            claim.data(b"too late");
        }
    });
    rig.pool.submit(Reply::Test(sender), None, Some(Arc::clone(&file)), work);
    assert_eq!(answer.recv_timeout(SOON), Ok(eio()));
    assert!(file.gate.drained(SOON));
}

fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(1));
    }
}
