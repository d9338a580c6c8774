//! Connections, and where they may lead.
//!
//! Owns: names to addresses, TCP, TLS, and an HTTP/1.1 handshake. Promises: the address that was judged is the one connected to, so that a
//! name which changes its mind leads nowhere else; a redirect, an upload's address or a token server never leads into a network closer to
//! us than the registry itself (threat 22); HTTP without TLS goes to this machine only, unless it was asked for; everything has a deadline.
//! Leaves out: requests (`client`).

use crate::address::Reach;
use crate::body::Body;
use crate::fail::{Trouble, refused, remote};
use crate::tls;
use crate::url::Origin;
use crate::{ImageRef, Options};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use securereg::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const DEADLINE: Duration = Duration::from_secs(15);

/// Connects to one registry, and to where it leads.
pub(crate) struct Connector {
    tls: TlsConnector,
    registry: Origin,
    /// Whether HTTP without TLS was asked for.
    plain: bool,
    /// Where the registry was found to be.
    reach: OnceLock<Reach>,
}

impl Connector {
    pub(crate) fn new(image: &ImageRef, options: &Options) -> Result<Connector> {
        let local = is_this_machine(&image.origin(true));
        let plain = options.plain_http || local && options.ca.is_none();
        Ok(Connector {
            tls: tls::connector(options.ca.as_deref())?,
            registry: image.origin(!plain),
            plain: options.plain_http,
            reach: OnceLock::new(),
        })
    }

    /// The registry.
    pub(crate) fn registry(&self) -> &Origin {
        &self.registry
    }

    /// A connection to `origin`, ready for a request.
    pub(crate) async fn connect(&self, origin: &Origin) -> Result<SendRequest<Body>, Trouble> {
        let own = *origin == self.registry;
        if !own && self.registry.tls && !origin.tls {
            return Err(refused(format!("{} leads to {origin}, out of TLS", self.registry)).into());
        }
        let late = |what: &str| Trouble::passing(remote(format!("{origin} {what} within {DEADLINE:?}")));
        let lookup = tokio::net::lookup_host((origin.bare_host(), origin.port));
        let found = timeout(DEADLINE, lookup).await.map_err(|_| late("was not found"))?;
        let found = found.map_err(|e| Trouble::passing(remote(format!("{origin} cannot be found: {e}"))))?;
        let mut last = None;
        let mut forbidden = None;
        for address in found {
            if let Err(why) = self.may(origin, address.ip()) {
                forbidden = Some(why);
                continue;
            }
            match timeout(DEADLINE, self.open(origin, address)).await {
                Ok(Ok(sender)) => {
                    if own {
                        self.reach.get_or_init(|| Reach::of(address.ip()));
                    }
                    return Ok(sender);
                }
                Ok(Err(trouble)) => last = Some(trouble),
                Err(_) => last = Some(late("did not answer")),
            }
        }
        let nothing = || Trouble::passing(remote(format!("{origin} has no address")));
        Err(last.or(forbidden.map(Trouble::Final)).unwrap_or_else(nothing))
    }

    fn may(&self, origin: &Origin, address: IpAddr) -> Result<()> {
        let there = Reach::of(address);
        if *origin != self.registry {
            let here = self.reach.get().copied().unwrap_or(Reach::Public);
            if !here.may_lead_to(there) {
                let why =
                    format!("{} leads to {origin}, which is in a private network: it is not followed", self.registry);
                return Err(refused(why));
            }
        } else if !origin.tls && !self.plain && there != Reach::Loopback {
            let why = format!("{origin} is not this machine: give --plain-http to go there without TLS");
            return Err(Error::new(ErrorKind::Permission, why));
        }
        Ok(())
    }

    async fn open(&self, origin: &Origin, address: SocketAddr) -> Result<SendRequest<Body>, Trouble> {
        let failed = |what: &str, e: &dyn std::fmt::Display| remote(format!("{origin}: {what}: {e}"));
        let stream = TcpStream::connect(address).await.map_err(|e| Trouble::passing(failed("no connection", &e)))?;
        stream.set_nodelay(true).map_err(|e| Trouble::passing(failed("no connection", &e)))?;
        if !origin.tls {
            return self.speak(origin, stream).await;
        }
        let name = ServerName::try_from(origin.bare_host().to_owned()).map_err(|e| failed("its name", &e))?;
        let stream =
            self.tls.connect(name, stream).await.map_err(|e| match e.get_ref().and_then(|e| e.downcast_ref()) {
                // Whoever it is will be the same next time.
                Some(rustls::Error::InvalidCertificate(why)) => {
                    let text =
                        format!("{origin}: its certificate is not to be trusted: {why:?}: give its authority by --ca");
                    Trouble::Final(Error::new(ErrorKind::Permission, text))
                }
                Some(rustls::Error::InvalidMessage(_)) => {
                    let text = format!("{origin} does not speak TLS: give --plain-http to do without");
                    Trouble::Final(Error::new(ErrorKind::Permission, text))
                }
                _ => Trouble::passing(failed("TLS", &e)),
            })?;
        self.speak(origin, stream).await
    }

    async fn speak(
        &self,
        origin: &Origin,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<SendRequest<Body>, Trouble> {
        let failed = |e: hyper::Error| Trouble::passing(remote(format!("{origin}: {e}")));
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Ends with its sender.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
        Ok(sender)
    }
}

/// Whether a name can only be this machine: `localhost`, or an address of it.
fn is_this_machine(origin: &Origin) -> bool {
    let host = origin.bare_host();
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| Reach::of(address) == Reach::Loopback)
}
