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

    /// An open that finds, on a worker, that it takes long; told when it stands in line or was refused. What it then does,
    /// on a thread of its own, is `work`.
    fn submit_apart(
        &self,
        byte: u8,
        work: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Receiver<Result<Vec<u8>, i32>> {
        let (sender, answer) = channel();
        let (stands, standing) = channel();
        let pool = self.pool.clone();
        let found = Box::new(move |ticket: &Arc<Ticket>, _: &mut ReadBuf| {
            pool.apart(ticket, Duration::ZERO, move |ticket| {
                let bytes = work();
                if let Some(claim) = ticket.claim() {
                    claim.data(&bytes);
                }
            });
            stands.send(()).expect("the test waits for it");
        });
        self.pool.submit(Reply::Test(sender), Some(blob(byte)), None, found);
        standing.recv_timeout(SOON).expect("a worker has handed it over");
        answer
    }

    /// Such an open whose work hangs until the rig's disk answers; it has begun when this returns.
    fn apart_hung(&self, byte: u8) -> Receiver<Result<Vec<u8>, i32>> {
        let (begins, begun) = channel();
        let hang = Arc::clone(&self.hang);
        let answer = self.submit_apart(byte, move || {
            begins.send(()).expect("the test waits for it");
            while hang.lock().try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            b"late".to_vec()
        });
        begun.recv_timeout(SOON).expect("a thread works on it");
        answer
    }

    /// Whether nothing is left of what was asked for.
    fn is_at_rest(&self) -> bool {
        let state = self.pool.0.state.lock();
        state.apart.is_empty() && state.pending.is_empty()
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
fn t17_opens_of_one_stale_file_share_a_thread_and_leave_the_others_to_other_files() {
    let mut rig = Rig::new(2, Duration::from_secs(60));
    let first = rig.apart_hung(1);
    let waiting: Vec<_> = (0..WAITING).map(|i| rig.submit_apart(1, move || i.to_be_bytes().to_vec())).collect();
    assert_eq!(rig.submit_apart(1, Vec::new).recv_timeout(SOON), Ok(Err(libc::EAGAIN)), "the line has an end");
    let other = rig.submit_apart(2, || b"fine".to_vec());
    assert_eq!(other.recv_timeout(SOON), Ok(Ok(b"fine".to_vec())));
    until(|| rig.pool.0.state.lock().apart.len() == 1);
    assert!(first.try_recv().is_err() && waiting.iter().all(|w| w.try_recv().is_err()));
    rig.disk = None;
    assert_eq!(first.recv_timeout(SOON), Ok(Ok(b"late".to_vec())));
    for (i, answer) in waiting.iter().enumerate() {
        assert_eq!(answer.recv_timeout(SOON), Ok(Ok(i.to_be_bytes().to_vec())), "one after the other");
    }
    until(|| rig.is_at_rest());
    // And the next one gets a thread again.
    assert_eq!(rig.submit_apart(1, || b"fine".to_vec()).recv_timeout(SOON), Ok(Ok(b"fine".to_vec())));
}

#[test]
fn t17_threads_of_their_own_are_capped_however_many_files_are_stale() {
    let mut rig = Rig::new(2, Duration::from_secs(60));
    let hung: Vec<_> = (0..APART).map(|i| rig.apart_hung(i as u8)).collect();
    assert_eq!(rig.submit_apart(200, Vec::new).recv_timeout(SOON), Ok(Err(libc::EAGAIN)));
    let behind = rig.submit_apart(0, || b"fine".to_vec());
    rig.disk = None;
    assert!(hung.iter().all(|h| h.recv_timeout(SOON) == Ok(Ok(b"late".to_vec()))));
    assert_eq!(behind.recv_timeout(SOON), Ok(Ok(b"fine".to_vec())), "a thread that is there takes one more");
}

#[test]
fn t17_who_waits_too_long_for_anothers_open_is_eio_and_leaves_the_line() {
    let mut rig = Rig::new(2, Duration::from_secs(60));
    let first = rig.apart_hung(1);
    let waiting: Vec<_> = (0..10).map(|_| rig.submit_apart(1, || panic!("nobody waits for this"))).collect();
    // As if their time were up.
    rig.pool.0.state.lock().pending.values().for_each(|ticket| ticket.extend(Instant::now()));
    for answer in std::iter::once(&first).chain(&waiting) {
        assert_eq!(answer.recv_timeout(SOON), Ok(eio()));
    }
    {
        let state = rig.pool.0.state.lock();
        assert_eq!((state.apart[&blob(1)].len(), state.pending.len()), (0, 1), "only what cannot be stopped is left");
    }
    rig.disk = None;
    until(|| rig.is_at_rest());
    assert_eq!(rig.timeouts.load(Ordering::SeqCst), 0, "no read of the file timed out");
}

#[test]
fn a_panic_in_an_open_apart_is_eio_and_the_next_one_has_its_turn() {
    let mut rig = Rig::new(1, Duration::from_secs(60));
    let first = rig.apart_hung(1);
    let (bad, next) = (rig.submit_apart(1, || panic!("a bug")), rig.submit_apart(1, || b"fine".to_vec()));
    rig.disk = None;
    assert_eq!(first.recv_timeout(SOON), Ok(Ok(b"late".to_vec())));
    assert_eq!((bad.recv_timeout(SOON), next.recv_timeout(SOON)), (Ok(eio()), Ok(Ok(b"fine".to_vec()))));
}

#[test]
fn a_closed_pool_answers_who_waits_for_a_thread_with_eio() {
    let rig = Rig::new(1, Duration::from_secs(60));
    let answers = [rig.apart_hung(1), rig.submit_apart(1, || panic!("nobody waits for this"))];
    rig.pool.close();
    assert!(answers.iter().all(|answer| answer.recv_timeout(SOON) == Ok(eio())));
    assert!(rig.pool.0.state.lock().apart[&blob(1)].is_empty());
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

/// What a watchdog asks: that some thread hangs is no reason to end the process, that all do is one.
#[test]
fn t17_a_pool_answers_while_it_can_start_a_thread_and_not_when_all_hang() {
    let mut rig = Rig::new(2, Duration::from_millis(100));
    assert!(rig.pool.answers_within(SOON), "at rest");
    let hung: Vec<_> = (0..4).map(|i| rig.submit_hung(i)).collect();
    assert!(hung.iter().all(|h| h.recv_timeout(SOON) == Ok(eio())));
    assert!(rig.pool.answers_within(SOON), "there are others in their place");
    // As many as it takes, each of a blob of its own: what only waits for a thread is answered when its time is up, and holds none.
    let (mut more, end) = (Vec::new(), Instant::now() + SOON * 6);
    while rig.pool.0.state.lock().stuck < CAP {
        assert!(Instant::now() < end, "{} hang", rig.pool.0.state.lock().stuck);
        more.extend((0..=255).map(|i| rig.submit_hung(i)));
        assert!(more.drain(..).all(|h| h.recv_timeout(SOON) == Ok(eio())));
    }
    assert!(!rig.pool.answers_within(Duration::from_millis(200)));
    rig.disk = None;
    until(|| rig.pool.answers_within(Duration::from_millis(200)));
}
