//! A panic on demand, in a build that is made for the tests of the boundary (`RUSTFLAGS=--cfg securereg_test_panic`).
//!
//! Owns: the one symbol that such a build exports beside the ABI's. Promises: no other build has it. Leaves out: everything.

use std::sync::atomic::{AtomicBool, Ordering};

static NEXT: AtomicBool = AtomicBool::new(false);

/// The next call panics.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_test_panic_next() {
    NEXT.store(true, Ordering::SeqCst);
}

pub(crate) fn fire() {
    if NEXT.swap(false, Ordering::SeqCst) {
        panic!("forced for a test");
    }
}
