//! Whether a server still serves, as seen by its own process.
//!
//! Owns: [`Pulse`], which a watchdog asks. Promises: it beats only when the loop that accepts connections took the question, a
//! thread of the runtime passed it on, and the registry told its catalog, all within the time given; a catalog that is told to be bad is
//! a catalog that was told: a restart would not mend it. Leaves out: who asks, and what follows.

use crate::blocking::Lane;
use crate::routes::App;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::mpsc;

/// Asks a server whether it serves; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pulse(mpsc::Sender<Asked>);

/// Where the server hears it.
pub(crate) type Beats = mpsc::Receiver<Asked>;

/// A question that waits for its answer.
#[derive(Debug)]
pub(crate) struct Asked(SyncSender<()>);

/// A pulse, and the end of it that the accept loop holds.
pub(crate) fn new() -> (Pulse, Beats) {
    // More than one that waits says no more than one does.
    let (sender, beats) = mpsc::channel(1);
    (Pulse(sender), beats)
}

impl Pulse {
    /// Whether the server answers within `limit`. Blocks for so long at most; not for a thread of a runtime.
    pub fn beats_within(&self, limit: Duration) -> bool {
        let (answer, answered) = sync_channel(1);
        // Full when the last question was not taken yet.
        self.0.try_send(Asked(answer)).is_ok() && answered.recv_timeout(limit).is_ok()
    }
}

impl Asked {
    /// Answers when the registry has.
    pub(crate) fn answer(self, app: &Arc<App>) {
        let app = Arc::clone(app);
        tokio::spawn(async move {
            let registry = app.registry.clone();
            let ask = move || {
                drop(registry.catalog());
                Ok(())
            };
            let told = app.lanes.run(Lane::Health, ask).await;
            if told.is_ok() {
                // Whoever asked may have given up.
                let _ = self.0.send(());
            }
        });
    }
}
