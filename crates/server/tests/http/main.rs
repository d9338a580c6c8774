//! The HTTP API over real sockets, against the real core.
//!
//! One binary, because each would link the core again. Tests are named after promises of model-api.md or after threats.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod abuse;
#[allow(dead_code, reason = "the unit tests use the rest")]
mod bucket;
mod connections;
mod containment;
mod figures;
mod hostile;
mod jobs;
mod models;
mod oci;
mod promote;
mod rig;
mod s3;
mod scopes;
mod verify;
