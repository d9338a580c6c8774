//! Signals: what the library's writes and threads must not do to the process they run in.
//!
//! Owns: [`NoFileSizeSignal`], [`spawn_quietly`], [`spawn_scoped_quietly`]. Promises: a write beyond the limit on file sizes is EFBIG and never
//! SIGXFSZ, whose default is death; no thread of ours runs a signal handler of the host's; masks are the host's again
//! afterwards, and a signal that another process sent is not lost. No handler is installed, and no disposition is changed: those
//! are the whole process's. Leaves out: SIGPIPE (the core writes to no pipe), SIGIO (file leases ask for SIGURG instead).

use libc::{c_int, sigset_t};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// While this lives, a write of this thread beyond RLIMIT_FSIZE fails with EFBIG and sends nothing: the kernel sends SIGXFSZ to
/// the thread that wrote, which has it blocked, and it is taken away before it is unblocked. May be nested. Held around writes
/// only: a callback of the host's must not run under it, for the host's own writes are the host's.
#[must_use]
#[derive(Debug)]
pub(crate) struct NoFileSizeSignal {
    was_blocked: bool,
    was_pending: bool,
    /// A mask is its thread's own.
    _here: PhantomData<*mut ()>,
}

impl NoFileSizeSignal {
    pub(crate) fn new() -> NoFileSizeSignal {
        let was_blocked = has(&change_mask(libc::SIG_BLOCK, &file_size_signal()), libc::SIGXFSZ);
        // Of one that was not blocked nothing can wait: it would have been delivered.
        let was_pending = was_blocked && has(&pending(), libc::SIGXFSZ);
        NoFileSizeSignal { was_blocked, was_pending, _here: PhantomData }
    }
}

impl Drop for NoFileSizeSignal {
    fn drop(&mut self) {
        // One that waited before is the host's, and ours was merged into it: a standard signal waits once.
        if !self.was_pending {
            take_own(&file_size_signal());
        }
        if !self.was_blocked {
            // Not the whole mask as it was: only what was added is taken away.
            change_mask(libc::SIG_UNBLOCK, &file_size_signal());
        }
    }
}

/// Starts a thread that takes none of the host's signals: it inherits a mask in which all are blocked, so that the kernel picks
/// a thread of the host's for whatever is sent to the process. An error (a limit on processes or on memory) starts nothing.
///
/// What a fault of the thread itself raises stays open: blocked, it would end the process without asking the host's crash
/// handler, or the one by which a seccomp sandbox answers system calls (SIGSYS).
pub(crate) fn spawn_scoped_quietly<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    let _blocked = SignalsBlocked::new();
    builder().spawn_scoped(scope, work)
}

/// The same of a thread that outlives the caller's frame.
pub(crate) fn spawn_quietly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    let _blocked = SignalsBlocked::new();
    builder().spawn(work)
}

/// The standard library's own default size, named: unnamed, it would ask the environment, which the host may be changing.
fn builder() -> Builder {
    Builder::new().stack_size(2 << 20)
}

/// Raised by a thread's own instructions and system calls.
const FAULTS: [c_int; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// While this lives, this thread takes no signal but its own faults. No code of the host's runs meanwhile, so the mask that was
/// there is put back whole.
struct SignalsBlocked {
    before: sigset_t,
    _here: PhantomData<*mut ()>,
}

impl SignalsBlocked {
    fn new() -> SignalsBlocked {
        SignalsBlocked { before: change_mask(libc::SIG_BLOCK, &all_but_faults()), _here: PhantomData }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        change_mask(libc::SIG_SETMASK, &self.before);
    }
}

fn no_signals() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is to room for a set, which the call writes whole; it fails for no valid pointer.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigemptyset has just written it.
    unsafe { set.assume_init() }
}

fn file_size_signal() -> sigset_t {
    let mut set = no_signals();
    // SAFETY: the set is initialised and borrowed for the call; the number is a signal's.
    unsafe { libc::sigaddset(&mut set, libc::SIGXFSZ) };
    set
}

fn all_but_faults() -> sigset_t {
    let mut set = no_signals();
    // SAFETY: the set is initialised and borrowed for the call.
    unsafe { libc::sigfillset(&mut set) };
    for fault in FAULTS {
        // SAFETY: the set is initialised and borrowed for the call; the number is a signal's.
        unsafe { libc::sigdelset(&mut set, fault) };
    }
    set
}

fn has(set: &sigset_t, signal: c_int) -> bool {
    // SAFETY: the set is initialised and borrowed for the call; the number is a signal's.
    unsafe { libc::sigismember(set, signal) == 1 }
}

/// Changes this thread's mask; what it was. It fails only for a `how` that is none.
fn change_mask(how: c_int, set: &sigset_t) -> sigset_t {
    let mut before = no_signals();
    // SAFETY: both sets are initialised and borrowed for the call; the mask is this thread's own.
    let failed = unsafe { libc::pthread_sigmask(how, set, &mut before) };
    debug_assert_eq!(failed, 0, "the kernel takes SIG_BLOCK, SIG_UNBLOCK and SIG_SETMASK");
    before
}

/// What waits for this thread or for the process, and is blocked here.
fn pending() -> sigset_t {
    let mut set = no_signals();
    // SAFETY: the set is borrowed for the call, which writes it.
    unsafe { libc::sigpending(&mut set) };
    set
}

/// Takes away what waits of `set`, if our own write has caused it; what another process has sent is sent on.
fn take_own(set: &sigset_t) {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut info = MaybeUninit::uninit();
    // SAFETY: `set` and `now` are borrowed for the call; `info` is room for what it writes when it succeeds.
    let taken = unsafe { libc::sigtimedwait(set, info.as_mut_ptr(), &now) };
    if taken <= 0 {
        return;
    }
    // SAFETY: a positive answer says that `info` was written.
    let info: libc::siginfo_t = unsafe { info.assume_init() };
    // SAFETY: with SI_USER the field is set (sigaction(2)); it is an integer in any case.
    let sender = unsafe { info.si_pid() };
    // The kernel sends it as if this process had (kernel/signal.c, SEND_SIG_NOINFO), or names nobody when it has no memory for
    // the sender's name. A raise by this process looks the same: glibc calls both SI_USER.
    let ours = match info.si_code {
        libc::SI_USER => [0, rustix::process::getpid().as_raw_nonzero().get()].contains(&sender),
        code => code == libc::SI_KERNEL,
    };
    if !ours {
        // SAFETY: raise takes a number and touches no memory; the signal is blocked here until our caller is done.
        unsafe { libc::raise(taken) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask() -> sigset_t {
        change_mask(libc::SIG_BLOCK, &no_signals())
    }

    /// As the kernel does for a write over the limit: as if this process had sent it, to this thread.
    fn as_the_kernel() {
        send(rustix::process::getpid().as_raw_nonzero().get());
    }

    /// Sends SIGXFSZ to this thread alone, as if `sender` did.
    fn send(sender: i32) {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        // siginfo_t of 64-bit Linux: signal, errno, code, padding, the sender's pid and uid.
        let mut info = [0i32; 32];
        (info[0], info[2], info[4]) = (libc::SIGXFSZ, libc::SI_USER, sender);
        // SAFETY: the array is a siginfo_t's 128 bytes, read by the call; a process may send any to its own threads.
        let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, libc::SIGXFSZ, info.as_ptr()) };
        assert_eq!(sent, 0, "{}", io::Error::last_os_error());
    }

    #[test]
    fn the_mask_is_as_it_was_and_what_our_write_caused_is_gone() {
        assert!(!has(&mask(), libc::SIGXFSZ));
        {
            let _outer = NoFileSizeSignal::new();
            let inner = NoFileSizeSignal::new();
            as_the_kernel();
            assert!(has(&pending(), libc::SIGXFSZ));
            drop(inner);
            assert!(!has(&pending(), libc::SIGXFSZ), "taken away by the inner one");
            assert!(has(&mask(), libc::SIGXFSZ), "which leaves the outer one's block");
            as_the_kernel();
        }
        // Delivered, it would have ended this process.
        assert!(!has(&mask(), libc::SIGXFSZ) && !has(&pending(), libc::SIGXFSZ));
    }

    #[test]
    fn what_the_host_blocked_stays_blocked_and_what_waited_stays_waiting() {
        change_mask(libc::SIG_BLOCK, &file_size_signal());
        {
            let _none = NoFileSizeSignal::new();
            as_the_kernel();
        }
        assert!(has(&mask(), libc::SIGXFSZ));
        assert!(!has(&pending(), libc::SIGXFSZ), "ours does not wait for the host to unblock it");
        {
            let _none = NoFileSizeSignal::new();
            send(1);
        }
        assert!(has(&pending(), libc::SIGXFSZ), "another process's is sent on");
        {
            let _none = NoFileSizeSignal::new();
            as_the_kernel();
        }
        assert!(has(&mask(), libc::SIGXFSZ) && has(&pending(), libc::SIGXFSZ), "the host's still waits");
        // It would end the process with this thread's mask.
        let mut info = MaybeUninit::uninit();
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: everything is borrowed for the call, and `info` is not read.
        let taken = unsafe { libc::sigtimedwait(&file_size_signal(), info.as_mut_ptr(), &now) };
        assert_eq!(taken, libc::SIGXFSZ);
        change_mask(libc::SIG_UNBLOCK, &file_size_signal());
    }

    #[test]
    fn a_quiet_thread_takes_no_signal_but_its_own_faults_and_its_maker_is_as_before() {
        let before = mask();
        let scoped =
            std::thread::scope(|scope| spawn_scoped_quietly(scope, mask).expect("a thread").join().expect("it ends"));
        let free = spawn_quietly(mask).expect("a thread").join().expect("it ends");
        for inside in [scoped, free] {
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD, libc::SIGPROF, libc::SIGXFSZ, libc::SIGRTMAX()] {
                assert!(has(&inside, signal), "{signal} would reach a thread of ours");
                assert_eq!(has(&mask(), signal), has(&before, signal));
            }
            for fault in FAULTS {
                assert!(!has(&inside, fault), "{fault} is the host's crash handler's to see");
            }
        }
    }
}
