//! Reading in a child process: mappings end in SIGBUS, and loaders may hang, so neither is done in the test itself.
//!
//! The child is the test program itself, running only the test `probe_child`, which does what the environment says.
//! The only `unsafe` of this crate is here, since a mapping cannot be read without it.

use securereg::{Actor, Registry};
use securereg_fusefs::{Mount, MountOptions};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const OP: &str = "SECUREREG_PROBE";
const ARGS: [&str; 3] = ["SECUREREG_PROBE_1", "SECUREREG_PROBE_2", "SECUREREG_PROBE_3"];
const MARK: &str = "probe: ";
const WRONG_BYTES: i32 = 40;

/// A running child.
pub struct Probe {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

/// Starts a child that does `op`.
pub fn start(op: &str, args: &[&str]) -> Probe {
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    command.args(["--exact", "probe_child", "--nocapture", "--test-threads=1"]).env(OP, op);
    for (key, value) in ARGS.iter().zip(args) {
        command.env(key, value);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test program starts again");
    let stdout = child.stdout.take().expect("piped");
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some((_, said)) = line.split_once(MARK) {
                let _ = send.send(said.to_owned());
            }
        }
    });
    let stdin = child.stdin.take();
    Probe { child, stdin, lines }
}

impl Probe {
    /// The next line that the child says.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(30)).expect("the child says something")
    }

    /// Waits for the end, at most `limit`; None if it did not come, and the child is killed then.
    pub fn end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = std::time::Instant::now() + limit;
        while std::time::Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }

    /// Tells the child to go on.
    pub fn go(&mut self) {
        drop(self.stdin.take());
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether it ended as a mapping of a damaged file must.
pub fn is_sigbus(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGBUS)
}

/// Whether it found bytes that were never promoted.
pub fn is_wrong(status: ExitStatus) -> bool {
    status.code() == Some(WRONG_BYTES)
}

/// What the child does; the test `probe_child` calls it.
pub fn child() {
    let Ok(op) = std::env::var(OP) else { return };
    let args = ARGS.map(|key| std::env::var(key).unwrap_or_default());
    let [first, second, third] = [&args[0], &args[1], &args[2]];
    match op.as_str() {
        // Maps, touches each page and compares with the original; then again, once told to.
        "map" => {
            let file = File::open(first).expect("opens");
            let original = std::fs::read(second).expect("the original");
            let map = Map::new(&file, original.len(), flags(third));
            map.compare(&original);
            println!("{MARK}compared");
        }
        // Opens, is told to go on, and then as "map".
        "late-map" => {
            let file = File::open(first).expect("opens");
            println!("{MARK}open");
            wait_for_go();
            let original = std::fs::read(second).expect("the original");
            let map = Map::new(&file, original.len(), flags(third));
            println!("{MARK}mapped");
            map.compare(&original);
            println!("{MARK}compared");
        }
        // Holds a mapping whose pages are all there, and touches them again once told to.
        "hold" => {
            let file = File::open(first).expect("opens");
            let original = std::fs::read(second).expect("the original");
            let map = Map::new(&file, original.len(), flags(third));
            drop(file);
            map.compare(&original);
            println!("{MARK}held");
            wait_for_go();
            // The pages go as soon as the last reply is handed over, on a thread of the daemon's: until then they are
            // still the promoted bytes.
            let deadline = Instant::now() + Duration::from_millis(100);
            while Instant::now() < deadline {
                map.compare(&original);
                std::thread::sleep(Duration::from_millis(1));
            }
            println!("{MARK}still readable");
        }
        // Opens, is told to go on, and maps with MAP_POPULATE again and again, whatever happens to it.
        "populate" => {
            let file = File::open(first).expect("opens");
            let len = usize::try_from(file.metadata().expect("stat").len()).expect("fits");
            println!("{MARK}open");
            wait_for_go();
            for _ in 0..second.parse::<usize>().expect("a count") {
                drop(Map::new(&file, len, flags("shared-populate")));
            }
            println!("{MARK}populated");
        }
        "quarantine" => {
            let registry = Registry::open(Path::new(first)).expect("the registry");
            let actor = Actor::new("test", "another process");
            registry.quarantine(&second.parse().expect("a name"), "from another process", None, &actor).expect("done");
            println!("{MARK}quarantined");
        }
        "daemon" => {
            let registry = Registry::open(Path::new(first)).expect("the registry");
            let mut options = MountOptions::default();
            if let Ok(timeout) = third.parse() {
                options.request_timeout = Duration::from_millis(timeout);
            }
            let mount = Mount::new(registry, Path::new(second), options);
            match mount {
                Ok(mount) => {
                    println!("{MARK}mounted");
                    wait_for_go();
                    drop(mount);
                }
                Err(e) => println!("{MARK}{:?}: {e}", e.kind()),
            }
        }
        other => panic!("no such probe: {other}"),
    }
    std::process::exit(0);
}

/// Makes the file system that `on` lies on fail every read, as a disk does that is gone (ext4 only, as root).
pub fn shut_down(on: &File) {
    const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
    let mode: u32 = 2; // EXT4_GOING_FLAGS_NOLOGFLUSH
    // SAFETY: the request reads one u32 behind the pointer, which lives through the call.
    let outcome = unsafe { libc::ioctl(on.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const mode) };
    assert_eq!(outcome, 0, "shuts down: {}", std::io::Error::last_os_error());
}

fn wait_for_go() {
    let _ = std::io::stdin().read(&mut [0]);
}

fn flags(words: &str) -> i32 {
    words.split('-').fold(0, |flags, word| {
        flags
            | match word {
                "shared" => libc::MAP_SHARED,
                "private" => libc::MAP_PRIVATE,
                "populate" => libc::MAP_POPULATE,
                other => panic!("no such flag: {other}"),
            }
    })
}

struct Map {
    address: *mut libc::c_void,
    len: usize,
}

impl Map {
    fn new(file: &File, len: usize, flags: i32) -> Map {
        // SAFETY: a null hint, a length over zero and an open descriptor; the result is checked below.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        assert_ne!(address, libc::MAP_FAILED, "maps: {}", std::io::Error::last_os_error());
        Map { address, len }
    }

    /// Compares page by page, up to the end of the last page, past the end of the file included.
    fn compare(&self, original: &[u8]) {
        let mapped = self.len.next_multiple_of(4096);
        for at in (0..mapped).step_by(4096) {
            let mut page = [0u8; 4096];
            // SAFETY: the page lies inside the mapping, which is rounded up to whole pages and lives as long as self. If the
            // file fails meanwhile the process gets SIGBUS, which is what is tested.
            unsafe { std::ptr::copy_nonoverlapping(self.address.cast::<u8>().add(at), page.as_mut_ptr(), 4096) };
            let end = original.len().min(at + 4096);
            if page[..end - at] != original[at..end] || page[end - at..].iter().any(|b| *b != 0) {
                println!("{MARK}other bytes at {at}");
                std::process::exit(WRONG_BYTES);
            }
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.address, self.len) };
    }
}
