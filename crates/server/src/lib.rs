//! The HTTP API of securereg.
//!
//! Owns: the listener, its limits, the bearer tokens, and the routes of the model API in both generations (docs/http.md
//! describes them with examples), and the OCI registry below `/v2/`. Promises: a request is refused before anything else about it is told when its token
//! does not cover it; handlers parse, call the core on a thread that may block, and render, and hold no other logic;
//! long work outlives its client and an identical repeat joins it; no number of slow or idle connections keeps
//! `/health` from answering. Leaves out: every decision about models, which the core makes.
//!
//! ```text
//! accept ── connection slots, header timeout, lingering close
//!   └─ request ── id, log, metrics
//!   └─ routes ── auth (scope of each route)
//!        └─ one handler a file ── blocking (lanes of threads) ── securereg::Registry
//!                              └─ jobs (long work, joined and polled)
//! ```

#![forbid(unsafe_code)]

mod accept;
mod auth;
mod blocking;
mod body;
mod config;
mod jobs;
mod metrics;
mod oci;
mod pulse;
mod reply;
mod request;
mod routes;
mod server;
mod settings;
mod slots;
mod staging;
mod status;
mod tokens;

pub use config::{Config, DEFAULT_PORT, Limits, OciConfig, Reach, TokenFiles};
pub use pulse::Pulse;
pub use server::{Server, ServerError, ShutdownHandle};
