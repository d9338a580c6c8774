//! The server as its callers see it.
//!
//! Owns: [`Server`], its runtime, and the order of start and shutdown. Promises: `bind` fails before anything listens
//! when tokens, staging folders or the address are not safe; `run` ends in bounded time after `shutdown`, with no
//! promotion half done. Leaves out: signals, and opening the registry (the caller's).

use crate::accept;
use crate::blocking::Lanes;
use crate::config::Config;
use crate::config::TokenFiles;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::oci::{Local, Oci};
use crate::pulse::{self, Pulse};
use crate::routes::{self, App, Observed};
use crate::staging::Staging;
use crate::tokens;
use securereg::Registry;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How many connections the kernel holds for us while we are busy accepting.
const BACKLOG: u32 = 4096;
/// How long cancelled jobs have to leave nothing behind, and threads to end.
const CLEANUP: Duration = Duration::from_secs(5);

/// A server that is bound and not yet running.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    local_addr: SocketAddr,
    app: Arc<App>,
    config: Config,
    generated: Vec<PathBuf>,
    stop: Arc<watch::Sender<bool>>,
    pulse: (Pulse, pulse::Beats),
}

impl Server {
    /// Loads or generates the tokens, binds the address and makes a runtime; no request is answered before
    /// [`Server::run`].
    pub fn bind(registry: Registry, config: Config) -> Result<Server, ServerError> {
        Server::new(registry, config, None)
    }

    /// The same on a socket that listens already, a service manager's: so a server needs no network of its own. The settings' address is
    /// not used.
    pub fn bind_on(
        registry: Registry,
        mut config: Config,
        listener: std::net::TcpListener,
    ) -> Result<Server, ServerError> {
        config.listen = listener.local_addr().map_err(ServerError::Runtime)?;
        listener.set_nonblocking(true).map_err(ServerError::Runtime)?;
        Server::new(registry, config, Some(listener))
    }

    fn new(
        registry: Registry,
        config: Config,
        listening: Option<std::net::TcpListener>,
    ) -> Result<Server, ServerError> {
        // Whoever can reach the port could otherwise only be stopped by a file the operator has never seen.
        if !config.listen.ip().is_loopback() && config.tokens == TokenFiles::default() {
            return Err(ServerError::Config(format!(
                "{} is not a loopback address: configure tokens first (REGISTRY_READ_TOKEN_PATH and so on), or listen on 127.0.0.1",
                config.listen
            )));
        }
        let staging = Staging::new(config.staging_folders(&registry)?);
        let loaded = tokens::load(registry.root(), &config.tokens)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)))
            // The lanes bound it; the rest is for name look-ups and the like.
            .max_blocking_threads(Lanes::threads(&config.limits) + Local::threads() + 8)
            .thread_name("securereg-http")
            .enable_all()
            .build()
            .map_err(ServerError::Runtime)?;
        let listener = runtime.block_on(async {
            match listening {
                Some(listener) => TcpListener::from_std(listener),
                None => listen(config.listen),
            }
        });
        let listener = listener.map_err(|source| ServerError::Bind { address: config.listen, source })?;
        let local_addr = listener.local_addr().map_err(ServerError::Runtime)?;
        let oci = Oci::new(&registry, &config)?;
        let stop = Arc::new(watch::Sender::new(false));
        let observed = Observed::new(stop.subscribe(), local_addr.ip().is_loopback());
        let app = Arc::new(App {
            oci,
            registry,
            tokens: loaded.tokens,
            lanes: Lanes::new(&config.limits),
            jobs: Jobs::new(&config.limits),
            staging,
            limits: config.limits,
            metrics: Arc::new(Metrics::new()),
            observed,
        });
        let pulse = pulse::new();
        Ok(Server { runtime, listener, local_addr, app, config, generated: loaded.generated, stop, pulse })
    }

    /// The address it listens on; tells the port when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The files of the generated tokens (read, verify, promote, admin, containment), to be shown to the user; empty when
    /// tokens are configured.
    pub fn token_notice(&self) -> &[PathBuf] {
        &self.generated
    }

    /// A handle that ends [`Server::run`] from anywhere.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle(Arc::clone(&self.stop))
    }

    /// By which it is seen from outside whether [`Server::run`] still serves.
    pub fn pulse(&self) -> Pulse {
        self.pulse.0.clone()
    }

    /// Serves until [`ShutdownHandle::shutdown`] is called.
    ///
    /// Then: nothing more is accepted; requests and jobs under way may end within [`Limits::grace`]; what is left of the
    /// jobs is cancelled, which leaves nothing behind, and their callers are told (503); after five more seconds `run`
    /// returns, whatever hangs.
    ///
    /// [`Limits::grace`]: crate::Limits::grace
    pub fn run(self) -> Result<(), ServerError> {
        let Server { runtime, listener, app, config, stop, pulse: (_, beats), .. } = self;
        let left_behind = runtime.block_on(async {
            let router = routes::router(&app);
            tokio::spawn({
                let app = Arc::clone(&app);
                async move { Oci::resume(&app).await }
            });
            let mut open = accept::serve(listener, router, &app, stop.subscribe(), beats).await;
            let ended = async {
                app.jobs.drain().await;
                while open.join_next().await.is_some() {}
            };
            let mut ended = std::pin::pin!(ended);
            if tokio::time::timeout(config.limits.grace, ended.as_mut()).await.is_ok() {
                return false;
            }
            tracing::warn!("cancelling what is still under way");
            app.jobs.cancel_all();
            tokio::time::timeout(CLEANUP, ended).await.is_err()
        });
        if left_behind {
            // It has had its time; waiting again would only delay the exit.
            tracing::error!("some work does not end; leaving it behind");
            runtime.shutdown_background();
        } else {
            runtime.shutdown_timeout(CLEANUP);
        }
        Ok(())
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Ends a server; cheap to clone, callable from any thread and more than once.
#[derive(Clone)]
pub struct ShutdownHandle(Arc<watch::Sender<bool>>);

impl ShutdownHandle {
    /// Starts the shutdown and returns at once.
    pub fn shutdown(&self) {
        self.0.send_replace(true);
    }
}

/// Why a server cannot start.
#[derive(Debug)]
pub enum ServerError {
    /// A setting that cannot be honoured.
    Config(String),
    /// A token file that is missing or not safe.
    Tokens(String),
    /// The address cannot be listened on.
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// No threads, no timers, no sockets.
    Runtime(io::Error),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Config(why) | ServerError::Tokens(why) => f.write_str(why),
            ServerError::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            ServerError::Runtime(e) => write!(f, "cannot start the server: {e}"),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServerError::Config(_) | ServerError::Tokens(_) => None,
            ServerError::Bind { source, .. } => Some(source),
            ServerError::Runtime(e) => Some(e),
        }
    }
}
