//! `up`, `mount`, `serve`: what runs until a signal.
//!
//! Owns: the order in which the parts start and stop, and what is said when all of them run. Promises: nothing is said to be
//! ready before it is; whatever started is stopped again, the mount included, however the process's work ends; a part
//! that ends by itself stops the others, and is an error. Leaves out: the parts (`securereg_fusefs`, `securereg_server`).
//!
//! ```text
//! closed to others -> signals blocked -> registry, settings -> mount(2) -> confined -> signals taken -> address bound -> the mount answers
//!   -> HTTP answers -> "ready", READY=1 -> a signal -> STOPPING=1 -> HTTP ends -> unmounted, by the process that kept the right to
//! ```
//! No thread is started before it is confined: capabilities and Landlock are a thread's own.

use super::Context;
use crate::args::{Access, Http, Monitor, MountArgs, Serve, Up};
use crate::exit::Code;
use crate::harden;
use crate::out::{Form, Out};
use crate::signals::{Blocked, Signals};
use crate::supervisor::{Supervisor, Watched};
use crate::text;
use listenfd::ListenFd;
use securereg::{Error, ErrorKind, MonitorOptions, Registry, Result, StoredWatch, Task};
use securereg_fusefs::{Allow, Attached, Mount, MountError, MountErrorKind, MountOptions};
use securereg_sandbox::Confined;
use securereg_server::{Config, Pulse, Server, ServerError};
use serde_json::{Map, Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long the HTTP server's first answer is waited for before it is looked whether it has ended.
const FIRST_BEAT: Duration = Duration::from_millis(100);

pub(crate) fn up(context: &mut Context, args: Up) -> Result<Code> {
    let options = mount_options(&args.access)?;
    let mut parts = Parts::new(context, Context::registry_or_new)?;
    parts.watch_stored(&args.monitor)?;
    let config = parts.config(&args.http)?;
    if !args.no_mount {
        parts.attach(&args.mount.unwrap_or_else(Registry::default_mount), options)?;
    }
    parts.confine(Some(&config), None)?;
    parts.bind(config)?;
    parts.answer()?;
    let lines = [parts.lines(), next(&parts)].concat();
    parts.run(&mut context.out, &lines)
}

pub(crate) fn mount(context: &mut Context, args: MountArgs) -> Result<Code> {
    let options = mount_options(&args.access)?;
    let mut parts = Parts::new(context, Context::registry)?;
    parts.watch_stored(&args.monitor)?;
    parts.attach(&args.dir.unwrap_or_else(Registry::default_mount), options)?;
    parts.confine(None, None)?;
    parts.answer()?;
    let lines = parts.lines();
    parts.run(&mut context.out, &lines)
}

pub(crate) fn serve(context: &mut Context, args: Serve) -> Result<Code> {
    let mut parts = Parts::new(context, Context::registry_or_new)?;
    parts.watch_stored(&args.monitor)?;
    let config = parts.config(&args.http)?;
    parts.confine(Some(&config), None)?;
    parts.bind(config)?;
    let lines = parts.lines();
    parts.run(&mut context.out, &lines)
}

/// `config check`: whether `serve` and `up` would take the settings.
pub(crate) fn check_config(context: &mut Context, file: Option<&Path>) -> Result<Code> {
    let root = context.root();
    let read = Config::file(&root, file);
    let config = Config::load(&root, file).map_err(unbound)?;
    let said = match &read {
        Some(file) => format!("{}: fine", shown(file)),
        None => format!(
            "no settings: {} is not there, and neither --config nor SECUREREG_CONFIG names a file",
            shown(&root.join("registry.yaml"))
        ),
    };
    let text = format!("{said}\nlisten: {}\n", config.listen);
    let json = json!({"status": "ok", "file": read, "listen": config.listen});
    match context.form() {
        Form::Json => context.out.write(&(text::plain_json(&json.to_string()) + "\n"))?,
        Form::Text => context.out.write(&text)?,
    }
    Ok(Code::Done)
}

/// Why the parts stop.
enum End {
    Signal,
    Http(Result<(), String>),
    Mount,
}

/// What runs in this process. Dropping it unmounts.
pub(super) struct Parts {
    pub(super) registry: Registry,
    server: Option<Server>,
    /// A socket that the service manager listens on for us.
    listening: Option<TcpListener>,
    address: Option<SocketAddr>,
    tokens: Vec<(String, PathBuf)>,
    /// Made, and answered by nobody yet.
    attached: Option<(Attached, MountOptions)>,
    mount: Option<Arc<Mount>>,
    monitor: Option<(StoredWatch, MonitorOptions)>,
    confined: Confined,
    /// Until the thread is started that takes them.
    blocked: Option<Blocked>,
    stop: Arc<AtomicBool>,
    supervisor: Supervisor,
    ends: Receiver<End>,
    tell: Sender<End>,
}

impl Parts {
    /// A process without parts yet, closed to others. The signals are blocked before anything is made that they would leave behind.
    pub(super) fn new(context: &Context, registry: impl FnOnce(&Context) -> Result<Registry>) -> Result<Parts> {
        harden::begin()?;
        allow_many_files();
        let blocked = Some(Signals::block(context.form())?);
        let (tell, ends) = channel();
        // Before anything is confined: it opens a socket.
        let supervisor = Supervisor::of_environment();
        Ok(Parts {
            registry: registry(context)?,
            server: None,
            listening: None,
            address: None,
            tokens: Vec::new(),
            attached: None,
            mount: None,
            monitor: None,
            confined: Confined::default(),
            blocked,
            stop: Arc::default(),
            supervisor,
            ends,
            tell,
        })
    }

    /// The settings: the options, else the environment's, else the file's. A socket that was passed on (sd_listen_fds(3)) stands above
    /// them all.
    fn config(&mut self, args: &Http) -> Result<Config> {
        let config = Config::load(self.registry.root(), args.config.as_deref()).map_err(unbound)?;
        self.listening = ListenFd::from_env().take_tcp_listener(0).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, format!("the socket that was passed on does not listen on TCP: {e}"))
                .because(e)
        })?;
        with_options(config, args)
    }

    /// Makes the mount at `dir`: the last thing that needs rights. [`Parts::answer`] answers for it.
    pub(super) fn attach(&mut self, dir: &Path, options: MountOptions) -> Result<()> {
        // Asked here, a bad manifest is an error of its own kind, not one of mounting.
        self.registry.catalog()?;
        let detacher = harden::detacher()?;
        let attached = Attached::new(dir, options.allow).and_then(|attached| attached.detached_by(detacher));
        self.attached = Some((attached.map_err(|e| unmounted(dir, e))?, options));
        Ok(())
    }

    /// Gives up everything that is not needed from here on, and starts to take signals. `own`: a folder that
    /// is removed at the end.
    pub(super) fn confine(&mut self, http: Option<&Config>, own: Option<&Path>) -> Result<()> {
        let immutable = self.attached.as_ref().is_some_and(|(_, options)| options.immutable);
        let binds = self.listening.is_none();
        let http = http.map(|config| harden::Http { config, binds });
        let mut needs = harden::needs(&self.registry, immutable, http).map_err(unbound)?;
        needs.writable.extend(own.map(Path::to_owned));
        needs.removable.extend(own.and_then(Path::parent).map(Path::to_owned));
        self.confined = securereg_sandbox::confine(&needs);
        if let Some(blocked) = self.blocked.take() {
            let first = self.tell.clone();
            // The receiver is gone only when the parts are stopping already.
            self.stop = blocked.listen(move || drop(first.send(End::Signal)))?.flag_handle();
        }
        Ok(())
    }

    /// Binds the address.
    pub(super) fn bind(&mut self, config: Config) -> Result<()> {
        securereg::keep_freed_memory();
        let files = &config.tokens;
        let given = [
            ("read", &files.read),
            ("verify", &files.verify),
            ("promote", &files.promote),
            ("admin", &files.admin),
            ("containment", &files.containment),
            ("service", &files.service),
        ];
        let given = given.map(|(scope, file)| file.clone().map(|file| (scope.to_owned(), file)));
        let registry = self.registry.clone();
        let server = match self.listening.take() {
            Some(listening) => Server::bind_on(registry, config, listening),
            None => Server::bind(registry, config),
        };
        let server = server.map_err(unbound)?;
        let generated = server.token_notice().iter().map(|file| {
            let scope = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (scope, file.clone())
        });
        self.tokens = given.into_iter().flatten().chain(generated).collect();
        self.address = Some(server.local_addr());
        self.server = Some(server);
        Ok(())
    }

    /// Opens an eye on the stored files, for the monitor that runs with the other parts. Before the rights for it are given up.
    pub(super) fn watch_stored(&mut self, args: &Monitor) -> Result<()> {
        let options = MonitorOptions { interval: args.verify_interval, rate: args.verify_rate.map(|mib| mib << 20) };
        self.monitor = Some((self.registry.watch_stored()?, options));
        Ok(())
    }

    /// Answers for the mount, if there is one.
    pub(super) fn answer(&mut self) -> Result<()> {
        let Some((attached, options)) = self.attached.take() else { return Ok(()) };
        let dir = attached.mountpoint().to_owned();
        let mount = attached.serve(self.registry.clone(), &options).map_err(|e| unmounted(&dir, e))?;
        self.mount = Some(Arc::new(mount));
        Ok(())
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub(super) fn mountpoint(&self) -> Option<&Path> {
        self.mount.as_ref().map(|mount| mount.mountpoint())
    }

    /// The file of a token.
    pub(super) fn token(&self, scope: &str) -> Option<&Path> {
        self.tokens.iter().find(|(name, _)| name == scope).map(|(_, file)| file.as_path())
    }

    /// Where everything is, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("registry: {}", shown(self.registry.root()))];
        lines.push(match self.mountpoint() {
            Some(dir) => format!("mount:    {}", shown(dir)),
            None => "mount:    none".into(),
        });
        match self.address() {
            Some(address) => lines.push(format!("http:     http://{address}")),
            None => lines.push("http:     none".into()),
        }
        for (scope, file) in &self.tokens {
            lines.push(format!("tokens:   {scope:11} {}", shown(file)));
        }
        lines
    }

    fn json(&self) -> Value {
        let tokens: Map<String, Value> = self.tokens.iter().map(|(scope, file)| (scope.clone(), json!(file))).collect();
        json!({
            "status": "ready",
            "root": self.registry.root(),
            "mount": self.mountpoint(),
            "listen": self.address(),
            "tokens": self.server.as_ref().map(|_| tokens),
            "hardening": self.confined,
            "pid": std::process::id(),
        })
    }

    /// Runs everything until a signal, having said so in `lines`.
    pub(super) fn run(mut self, out: &mut Out, lines: &[String]) -> Result<Code> {
        let ready = match out.form() {
            Form::Json => text::plain_json(&self.json().to_string()) + "\n",
            Form::Text => format!("{}\n\nready; Ctrl-C stops\n", lines.join("\n")),
        };
        let pulse = self.server.as_ref().map(Server::pulse);
        let http = self.server.take().map(|server| (server.shutdown_handle(), self.start_http(server)));
        self.watch_mount()?;
        self.recheck()?;
        self.start_monitor()?;
        let end = match self.until_answered(pulse.as_ref()) {
            Some(end) => end,
            None => {
                out.write(&ready)?;
                self.supervisor.ready(&self.status());
                let watched = self.supervise(pulse)?;
                // A sender lives in `self`, so this ends with an End.
                let end = self.ends.recv().unwrap_or(End::Signal);
                watched.stopping();
                end
            }
        };
        if let Some((handle, thread)) = http {
            handle.shutdown();
            drop(thread?.join());
        }
        let unmounted = self.mount.take().map_or(Ok(()), |mount| {
            let dir = mount.mountpoint().display().to_string();
            mount
                .unmounter()
                .unmount()
                .map_err(|e| Error::new(ErrorKind::Io, format!("cannot unmount {dir}: {e}")).because(e))
        });
        match end {
            End::Signal => unmounted.map(|()| Code::Done),
            End::Http(Ok(())) => Err(Error::new(ErrorKind::Io, "the HTTP server ended by itself")),
            End::Http(Err(why)) => Err(Error::new(ErrorKind::Io, format!("the HTTP server failed: {why}"))),
            End::Mount => {
                Err(Error::new(ErrorKind::Io, "the mount was taken down from outside; start again to mount anew"))
            }
        }
    }

    /// Waits until HTTP is answered; an end that comes first is given back.
    fn until_answered(&self, pulse: Option<&Pulse>) -> Option<End> {
        let pulse = pulse?;
        while !pulse.beats_within(FIRST_BEAT) {
            if let Ok(end) = self.ends.try_recv() {
                return Some(end);
            }
        }
        None
    }

    /// Has the service manager told that this process lives, as long as each of its parts answers.
    fn supervise(&self, pulse: Option<Pulse>) -> Result<Watched> {
        let (mount, registry) = (self.mount.clone(), self.registry.clone());
        let proof = move |limit| {
            if pulse.as_ref().is_some_and(|pulse| !pulse.beats_within(limit)) {
                return Err("the HTTP server");
            }
            if mount.as_ref().is_some_and(|mount| !mount.answers_within(limit)) {
                return Err("the mount");
            }
            // That it is told is all that is asked for: a restart mends no manifest.
            drop(registry.catalog());
            Ok(())
        };
        self.supervisor.watch(&self.status(), proof)
    }

    /// Where everything is, for the service manager.
    fn status(&self) -> String {
        let http = self.address().map(|address| format!("answering on http://{address}"));
        let mount = self.mountpoint().map(|dir| format!("mounted at {}", shown(dir)));
        [http, mount].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Tells when the mount ends, by whatever hand.
    fn watch_mount(&self) -> Result<()> {
        let Some(mount) = self.mount.clone() else { return Ok(()) };
        let tell = self.tell.clone();
        spawn("mount", move || {
            mount.wait();
            drop(tell.send(End::Mount));
        })
        .map(drop)
    }

    fn start_http(&self, server: Server) -> Result<JoinHandle<()>> {
        let tell = self.tell.clone();
        spawn("http", move || drop(tell.send(End::Http(server.run().map_err(|e| e.to_string())))))
    }

    /// Watches the stored files and reads them again and again.
    fn start_monitor(&mut self) -> Result<()> {
        let Some((eye, options)) = self.monitor.take() else { return Ok(()) };
        let (registry, stop) = (self.registry.clone(), Arc::clone(&self.stop));
        spawn("monitor", move || {
            if let Err(e) = registry.monitor(eye, &options, &stop) {
                tracing::error!("stored files are not monitored: {e}");
            }
        })
        .map(drop)
    }

    /// Checks what was moved or restored since the last run, in the background: readers that come first wait for theirs
    /// only. A mount does it itself.
    fn recheck(&self) -> Result<()> {
        if self.mount.is_some() {
            return Ok(());
        }
        let (registry, stop) = (self.registry.clone(), Arc::clone(&self.stop));
        spawn("recheck", move || {
            if let Err(e) = registry.recheck_stale(&Task::unattended().cancelled_by(&stop))
                && e.kind() != ErrorKind::Cancelled
            {
                tracing::warn!("the check of what changed on disk did not finish: {e}");
            }
        })
        .map(drop)
    }
}

impl Drop for Parts {
    /// After a failure between the mount and the end of `run`: the thread that watches the mount keeps it from being dropped.
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take()
            && let Err(e) = mount.unmounter().unmount()
        {
            tracing::error!("cannot unmount {}: {e}", mount.mountpoint().display());
        }
    }
}

/// Every open model costs two descriptors and every connection one: the soft limit is meant for programs that use select(2).
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it, fewer are served at once.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How to mount, by the options.
pub(super) fn mount_options(access: &Access) -> Result<MountOptions> {
    let mut options = MountOptions { immutable: access.immutable, ..MountOptions::default() };
    if let Some(who) = &access.allow {
        options.allow = who
            .parse::<Allow>()
            .map_err(|e| Error::new(kind_of(e.kind()), format!("--allow {who}: {e}")).because(e))?;
    }
    Ok(options)
}

/// `config`, with what the options say instead.
pub(super) fn with_options(mut config: Config, args: &Http) -> Result<Config> {
    if let Some(listen) = &args.listen {
        config.listen = Config::parse_listen(listen).map_err(unbound)?;
    }
    for folder in &args.staging {
        let absolute = std::path::absolute(folder).map_err(|e| {
            Error::new(ErrorKind::Io, format!("cannot find the staging folder {}: {e}", folder.display())).because(e)
        })?;
        config.staging.push(absolute);
    }
    Ok(config)
}

/// What to try after `up`.
fn next(parts: &Parts) -> Vec<String> {
    let root = parts.registry.root();
    let option = if root == Registry::default_root() { String::new() } else { format!("--root {} ", quoted(root)) };
    let mut lines = vec![String::new(), "try next:".into()];
    lines.push(format!("  $ securereg {option}promote model.gguf --name my-model"));
    if let Some(dir) = parts.mountpoint() {
        lines.push(format!("  $ ls {}", quoted(dir)));
    }
    lines.extend(curl(parts));
    lines
}

/// The line that asks for the list over HTTP.
pub(super) fn curl(parts: &Parts) -> Option<String> {
    let (address, token) = (parts.address()?, parts.token("read").or(parts.token("service"))?);
    Some(format!("  $ curl -s -H \"Authorization: Bearer $(cat {})\" http://{address}/v1/models", quoted(token)))
}

/// A path for a person.
pub(super) fn shown(path: &Path) -> String {
    text::plain(&path.to_string_lossy())
}

/// A path as a word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    let word = shown(path);
    let simple = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if word.chars().all(simple) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map_err(|e| Error::new(ErrorKind::Io, format!("cannot start a thread: {e}")).because(e))
}

/// Why there is no mount, naming the place.
fn unmounted(dir: &Path, e: MountError) -> Error {
    let said = e.to_string();
    let named = said.contains(&*dir.to_string_lossy());
    let message = if named { said } else { format!("cannot mount at {}: {said}", dir.display()) };
    Error::new(kind_of(e.kind()), message).because(e)
}

fn kind_of(kind: MountErrorKind) -> ErrorKind {
    match kind {
        MountErrorKind::NoFuse | MountErrorKind::NoFusermount => ErrorKind::Unsupported,
        MountErrorKind::Permission => ErrorKind::Permission,
        MountErrorKind::InvalidOption => ErrorKind::InvalidInput,
        MountErrorKind::AlreadyMounted => ErrorKind::Conflict,
        // Not exhaustive by its owner's wish; the message says the rest.
        MountErrorKind::Mountpoint | MountErrorKind::Registry | MountErrorKind::Failed | _ => ErrorKind::Io,
    }
}

/// The server's errors in the core's words, for one table of exit codes.
pub(super) fn unbound(e: ServerError) -> Error {
    let kind = match &e {
        ServerError::Config(_) => ErrorKind::InvalidInput,
        ServerError::Tokens(_) => ErrorKind::Permission,
        ServerError::Bind { .. } | ServerError::Runtime(_) => ErrorKind::Io,
    };
    let remedy = match &e {
        ServerError::Bind { .. } => "; --listen ADDR chooses another address",
        ServerError::Config(_) | ServerError::Tokens(_) | ServerError::Runtime(_) => "",
    };
    Error::new(kind, format!("{e}{remedy}")).because(e)
}
