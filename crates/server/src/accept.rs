//! The accept loop and the life of one connection.
//!
//! Owns: sockets, timers, and the order of a shutdown. Promises: headers arrive in time or the connection ends; an
//! answer that nobody takes ends it too, but no timer runs while a handler works; an answer given before the whole
//! request was read still arrives (the close lingers); a shutdown stops accepting at once and lets requests in progress
//! finish. Leaves out: which connection gives way (`slots`), what is answered (`routes`).

use crate::auth::Peer;
use crate::config::Limits;
use crate::metrics::{End, Metrics};
use crate::pulse::Beats;
use crate::routes::App;
use crate::slots::{Entered, Handling, Slots};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tower::ServiceExt;

/// How long a close waits for the client to take the answer, and how much of what it still sends is read meanwhile.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;
/// The head of a request is at most this large, in bytes, and so is what is read of a body at once.
const HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 64;

/// Serves `router` on `listener` until `stop` turns true; returns the connections that are still open.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    app: &Arc<App>,
    mut stop: watch::Receiver<bool>,
    mut beats: Beats,
) -> JoinSet<()> {
    let (limits, metrics) = (app.limits, &app.metrics);
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let slots = Slots::new(connection_cap(limits.connections, descriptors));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return open,
            Some(_) = open.join_next() => continue,
            Some(asked) = beats.recv() => {
                asked.answer(app);
                continue;
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, most likely: give one up, and don't spin meanwhile.
                tracing::warn!(error = %e, "cannot accept a connection");
                metrics.accept_errors.inc();
                slots.evict_one();
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Every connection waits for an answer: dropping the socket tells the new one at once.
        let Some(entered) = slots.enter() else {
            metrics.connections_refused.inc();
            continue;
        };
        let counted = Counted::new(metrics);
        let connection = connection(stream, peer, Arc::new(entered), router.clone(), limits, stop.clone());
        open.spawn(async move { counted.ended(connection.await) });
    }
}

/// Half of the `descriptors` this process may have are left to the registry.
fn connection_cap(wanted: usize, descriptors: Option<u64>) -> usize {
    let half = descriptors.map_or(usize::MAX, |n| usize::try_from(n / 2).unwrap_or(usize::MAX));
    wanted.min(half)
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    entered: Arc<Entered>,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> End {
    // Answers are small and whole: waiting to fill a segment only delays them.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Watched { stream, entered: Arc::clone(&entered), linger: None, discarded: 0 });
    let requests = Arc::clone(&entered);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let handling = requests.handling();
        request.extensions_mut().insert(Peer(peer));
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let response = answer.await?;
            handling.sending();
            Ok::<Response<Held>, Infallible>(response.map(|body| Held { body, _handling: handling }))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEAD)
        .max_headers(MAX_HEADERS);
    let mut serving = pin!(http.serve_connection(io, service));
    let stall = limits.body_timeout;
    let mut stopping = *stop.borrow();
    if stopping {
        serving.as_mut().graceful_shutdown();
    }
    loop {
        let idle = Duration::from_millis(entered.stalled_ms());
        let check = stall.saturating_sub(idle).max(Duration::from_millis(10));
        tokio::select! {
            ended = &mut serving => {
                let Err(e) = ended else { return End::Done };
                tracing::debug!(%peer, error = %e, "connection ended");
                return if e.is_timeout() { End::HeaderTimeout } else { End::Error };
            }
            () = tokio::time::sleep(check) => {
                if Duration::from_millis(entered.stalled_ms()) >= stall {
                    tracing::debug!(%peer, "connection closed: the client takes nothing");
                    return End::Stalled;
                }
            }
            () = entered.evicted() => {
                tracing::debug!(%peer, "connection closed: idle, and others want in");
                return End::Evicted;
            }
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A connection in the figures; one whose task is dropped at the end of a shutdown leaves them too.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Counted {
        metrics.connections.inc();
        Counted(Arc::clone(metrics))
    }

    fn ended(self, end: End) {
        self.0.connection_ended(end);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// The body of an answer, which keeps its connection from counting as idle until it was handed over.
struct Held {
    body: Body,
    _handling: Handling,
}

impl HttpBody for Held {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that notes when bytes move, and whose close lingers.
///
/// Closing a socket with unread bytes in it resets the connection, and a reset can overtake the answer: a client that is
/// still sending its body would see "connection reset" in place of the 403 or 413. So the close ends our side only, and
/// reads on, bounded in time and bytes, until the client ends its own.
struct Watched {
    stream: TcpStream,
    entered: Arc<Entered>,
    linger: Option<Pin<Box<Sleep>>>,
    discarded: usize,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.entered.touch();
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.entered.touch();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.entered.touch();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let deadline = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scratch = [0; 8 << 10];
        loop {
            if this.discarded > LINGER_BYTES || deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => this.discarded += buf.filled().len(),
                // The client has ended its side, or is gone.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_at_most_half_the_descriptors() {
        for (wanted, descriptors, cap) in
            [(1024, None, 1024), (1024, Some(65_536), 1024), (1024, Some(1024), 512), (1024, Some(2049), 1024)]
        {
            assert_eq!(connection_cap(wanted, descriptors), cap, "{wanted} of {descriptors:?}");
        }
    }
}
