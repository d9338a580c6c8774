//! The C ABI: `include/securereg.h` is made from these files by `cargo xtask header`.
//!
//! Owns: every exported function, and what stands between C and the core. Promises, of each function: it never unwinds into
//! C and never ends the process; a handle that is zero, closed, freed or of another kind, a NULL where something is needed,
//! a struct of a wrong size and a call in a forked child are errors, each with a status of its own; outputs are written only
//! on success, the error only on failure. Leaves out: everything the core does.
//!
//! Handles are tokens of a table ([`table`]), not addresses. `unsafe` is for reading and writing what the caller points to
//! ([`args`]), and nothing else.

// The types are C's, named as C names them; what is public is so by its symbol.
#![allow(non_camel_case_types, unreachable_pub)]

mod args;
mod error;
mod events;
mod file;
#[cfg(securereg_test_panic)]
mod forced;
mod gguf;
mod model;
mod panics;
mod registry;
mod sealed;
mod status;
mod table;
mod task;
mod text;

use error::Failure;
use status::securereg_status;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Result<T, E = Failure> = std::result::Result<T, E>;

/// What every export begins with: whose process this is, and a wall that no panic passes.
fn enter(error: *mut error::securereg_error, call: impl FnOnce() -> Result<()>) -> securereg_status {
    // Before any lock is touched: in a forked child another thread's lock stays locked for ever.
    if table::is_forked() {
        return securereg_status::SECUREREG_FORKED;
    }
    let _inside = panics::Inside::enter();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        task::refuse_callbacks()?;
        #[cfg(securereg_test_panic)]
        forced::fire();
        call()
    }));
    let failure = match outcome {
        Ok(Ok(())) => return securereg_status::SECUREREG_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::panicked(payload),
    };
    let status = failure.status;
    // SAFETY: `error` is the caller's, who vouches that it is NULL or points to a `securereg_error` to be written.
    let told = catch_unwind(AssertUnwindSafe(|| unsafe { error::tell(error, failure) }));
    if let Err(payload) = told {
        // Whether the error could be told or not, the call failed as it failed.
        std::mem::forget(payload);
    }
    status
}
