//! Push and pull against our own server in process, through a proxy that breaks, and against registries that lie.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on has failed")]

#[path = "../../../../tests/support/models.rs"]
mod models;

mod hostile;
mod rig;
mod roundtrip;
mod tls;
mod tokens;
