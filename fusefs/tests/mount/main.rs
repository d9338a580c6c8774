//! The promises of the mount, shown through a real one.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, reason = "tests")]

mod hung;
mod lifecycle;
mod repair;
mod revocation;
mod serving;
#[path = "../support/mod.rs"]
mod support;
mod tamper;

/// What child processes of the tests run; without their environment it does nothing.
#[test]
fn probe_child() {
    support::probe::child();
}
