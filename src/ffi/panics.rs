//! Panics inside the library, kept from the host's terminal.
//!
//! Owns: the panic hook while a call of the ABI is running. Promises: a panic on the thread of such a call
//! writes nothing (standard error may be a closed pipe, and SIGPIPE would end the host); its place goes into the error.
//! A Rust host's own panics go to the hook it had. Leaves out: catching (`enter`).

use std::cell::{Cell, RefCell};
use std::sync::Once;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// This thread runs a call of the ABI for as long as this lives.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn enter() -> Inside {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if DEPTH.try_with(Cell::get).unwrap_or(1) == 0 {
                    return before(info);
                }
                let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
                let _ = PLACE.try_with(|last| last.replace(place));
            }));
        });
        // A thread that is ending has no locals any more.
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
        Inside(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    }
}

/// Where this thread panicked last.
pub(crate) fn last_place() -> String {
    PLACE.try_with(RefCell::take).unwrap_or_default()
}
