//! The command through its real binary.
//!
//! Owns: the one test binary of this crate. Promises: what docs/cli.md says. Leaves out: what the core, the mount and the
//! HTTP API promise, which their own tests hold them to.

mod confined;
mod daemons;
mod guard;
mod log;
mod records;
mod remote;
mod signing;
mod supervised;
mod support;
mod upkeep;
mod verbs;
