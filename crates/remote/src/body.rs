//! What a request carries.
//!
//! Owns: bodies that are in memory, and bodies that another thread reads as they are sent. Promises: the length is known beforehand; a
//! stream that cannot be read to its end ends the connection, so that no server takes a part for the whole. Leaves out: reading.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::Receiver;

/// A request's body.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it, or nothing any more.
    Whole(Bytes),
    /// This many bytes, as they come.
    Stream(Receiver<Bytes>, u64),
}

impl Body {
    pub(crate) fn empty() -> Body {
        Body::Whole(Bytes::new())
    }

    fn left(&self) -> u64 {
        match self {
            Body::Whole(bytes) => bytes.len() as u64,
            Body::Stream(_, left) => *left,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Body::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Stream(_, 0) => Poll::Ready(None),
            Body::Stream(from, left) => from.poll_recv(context).map(|bytes| {
                let taken = bytes.filter(|bytes| !bytes.is_empty() && bytes.len() as u64 <= *left);
                Some(taken.ok_or_else(|| io::Error::other("the source has ended early")).map(|bytes| {
                    *left -= bytes.len() as u64;
                    Frame::data(bytes)
                }))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}
