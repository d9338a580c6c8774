//! The command through its real binary.
//!
//! Owns: the one test binary of this crate. Promises: what docs/cli.md says. Leaves out: what the core, the mount and the
//! HTTP API promise, which their own tests hold them to.

mod daemons;
mod guard;
mod records;
mod remote;
mod signing;
mod support;
mod verbs;
