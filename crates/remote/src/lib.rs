//! The client side of OCI registries: promoted models to them, and models from them.
//!
//! Owns: `push` and `pull`, and all they need: references, credentials, tokens, TLS, connections, uploads, downloads. Promises: what
//! is pushed was read through `VerifiedFile`; what is pulled is promoted only after every blob had its digest, and then by the same
//! gate as any other source; a registry can send us neither into a private network nor over a declared size, and our secrets go to
//! it and to the token server it names, never to where it redirects; memory does not grow with a model. Leaves out: judging, storing, words for people.
//!
//! ```text
//! push   image ─ credentials ─ auth ─┬─ upload ─┐            pull   fetch (partial: kept over an interruption)
//! pull                               client     manifest            └─ quarantine/ ─ layers ─ Registry::promote
//!                                    └─ connect (address: where it may lead)
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on has failed"))]

mod address;
mod auth;
mod body;
mod challenge;
mod client;
mod connect;
mod credentials;
mod fail;
mod fetch;
mod image;
mod manifest;
mod partial;
mod pull;
mod push;
mod tls;
mod upload;
mod url;
mod watch;

pub use credentials::Keychain;
pub use image::ImageRef;
pub use manifest::Types;
pub use pull::{Pulled, keeps_parts, pull, sweep};
pub use push::{Pushed, push};
pub use watch::{Doing, Step, Watch};

use std::path::PathBuf;

/// How a registry is reached.
#[derive(Debug, Default)]
pub struct Options {
    /// HTTP without TLS to any host; without it, to this machine only.
    pub plain_http: bool,
    /// Certificates, in PEM, to trust besides the system's. With it, this machine too is spoken to through TLS.
    pub ca: Option<PathBuf>,
    /// Where passwords are.
    pub keychain: Keychain,
}
