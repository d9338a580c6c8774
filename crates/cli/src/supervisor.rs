//! What the service manager is told: sd_notify(3) and its watchdog.
//!
//! Owns: the datagrams to `NOTIFY_SOCKET`, and the thread that says that the process lives. Promises: `READY=1` only when it is said
//! to be; `WATCHDOG=1` at half the interval, and only after the process has proved itself alive since the last one, so that a service that
//! hangs is restarted; nothing here delays the end. Without a service manager all of it does nothing. Leaves out: what being
//! alive means, which the daemons say.
//!
//! The protocol is a line of text to a socket, in std since abstract addresses are there; the crate `sd-notify` has neither these nor the
//! watchdog's thread, and its ways of clearing the environment are unsafe. Whoever starts a child takes the variables out of that child's
//! environment (fusefs/src/mount/kernel.rs).

use crate::text;
use securereg::Result;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// A manager that does not take its messages is not waited for longer.
const PATIENCE: Duration = Duration::from_millis(200);
/// For so long a shutdown counts as life without a proof: more than it may take (`Limits::grace`, and what follows).
const STOPPING: Duration = Duration::from_secs(30);

/// The service manager, if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor(Option<Arc<Socket>>);

#[derive(Debug)]
struct Socket {
    socket: UnixDatagram,
    to: SocketAddr,
    /// How long the manager waits for a sign of life, if it does.
    interval: Option<Duration>,
}

impl Supervisor {
    /// As the environment names it.
    pub(crate) fn of_environment() -> Supervisor {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Supervisor(None);
        };
        let var = |name| std::env::var(name).ok();
        let interval = interval(var("WATCHDOG_USEC"), var("WATCHDOG_PID"), std::process::id());
        let made = address(&name).and_then(|to| {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(Socket { socket, to, interval })
        });
        match made {
            Ok(socket) => Supervisor(Some(Arc::new(socket))),
            Err(e) => {
                let name = name.display();
                tracing::warn!("the service manager cannot be told anything: NOTIFY_SOCKET is {name}: {e}");
                Supervisor(None)
            }
        }
    }

    /// Says that everything runs, and in words what.
    pub(crate) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", text::plain(status)));
    }

    /// Says that the end has begun.
    fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping");
    }

    /// Tells the manager twice in each of its intervals that the process lives, as long as `proof`, given so much time, finds it so.
    /// Its error names what does not answer.
    pub(crate) fn watch(
        &self,
        status: &str,
        proof: impl Fn(Duration) -> std::result::Result<(), &'static str> + Send + 'static,
    ) -> Result<Watched> {
        let (stop, stopped) = channel();
        let watched = Watched { supervisor: self.clone(), stop };
        let Some(interval) = self.0.as_ref().and_then(|socket| socket.interval) else { return Ok(watched) };
        let (supervisor, status) = (self.clone(), text::plain(status));
        crate::verbs::spawn("watchdog", move || {
            let mut lived = true;
            loop {
                let began = Instant::now();
                // With the pause it stays within the interval, also after a proof that took no time.
                let proved = proof(interval / 6);
                match proved {
                    Ok(()) if lived => supervisor.say("WATCHDOG=1"),
                    Ok(()) => supervisor.say(&format!("WATCHDOG=1\nSTATUS={status}")),
                    Err(what) => {
                        tracing::error!(
                            "{what} does not answer: the service manager is not told that the process lives"
                        );
                        supervisor.say(&format!("STATUS={what} does not answer"));
                    }
                }
                lived = proved.is_ok();
                match stopped.recv_timeout((interval / 2).saturating_sub(began.elapsed())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            // The end is bounded by itself, and its parts are no longer there to be asked.
            let end = Instant::now() + STOPPING;
            while Instant::now() < end {
                supervisor.say("WATCHDOG=1");
                std::thread::sleep(interval / 2);
            }
        })?;
        Ok(watched)
    }

    fn say(&self, text: &str) {
        let Some(Socket { socket, to, .. }) = self.0.as_deref() else { return };
        if let Err(e) = socket.send_to_addr(text.as_bytes(), to) {
            tracing::debug!("the service manager did not take {text:?}: {e}");
        }
    }
}

/// What the manager is told from here on.
#[derive(Debug)]
pub(crate) struct Watched {
    supervisor: Supervisor,
    stop: Sender<()>,
}

impl Watched {
    /// Says that the end has begun, and asks for no more proof.
    pub(crate) fn stopping(&self) {
        self.supervisor.stopping();
        // Without a watchdog nobody hears it.
        let _ = self.stop.send(());
    }
}

/// Where to send to: a path, or an abstract name after `@`.
fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(std::io::Error::other("neither a path nor an abstract name")),
    }
}

/// The watchdog's interval, if it is this process that is watched: sd_watchdog_enabled(3).
fn interval(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_watched_process_is_watched() {
        let of = |usec: Option<&str>, pid: Option<&str>| interval(usec.map(Into::into), pid.map(Into::into), 7);
        let one = Some(Duration::from_secs(1));
        assert_eq!((of(Some("1000000"), None), of(Some("1000000"), Some("7"))), (one, one));
        for (usec, pid) in [
            (None, None),
            (None, Some("7")),
            (Some(""), None),
            (Some("0"), None),
            (Some("-1"), None),
            (Some("1s"), None),
            (Some("1000000"), Some("8")),
            (Some("1000000"), Some("")),
        ] {
            assert_eq!(of(usec, pid), None, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        assert_eq!(address(OsStr::new("/run/x")).expect("a path").as_pathname(), Some("/run/x".as_ref()));
        assert_eq!(address(OsStr::new("@x/y")).expect("a name").as_abstract_name(), Some(&b"x/y"[..]));
        let long = format!("/{}", "x".repeat(200));
        for bad in ["", "run/x", "vsock:2:1", &long] {
            assert!(address(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}
