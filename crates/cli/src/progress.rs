//! Progress bars.
//!
//! Owns: the bar of a long call. Promises: it is drawn on standard error, only on a terminal and never with `--json`, and is
//! gone when the work is. Leaves out: what is being done ([`securereg::Task`]).

use crate::out::Form;
use crate::signals::Signals;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use securereg::{Phase, Task};
use securereg_remote::{Doing, Step};
use std::io::IsTerminal;

/// The bar of one long call; erased when dropped.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar, hidden where nobody could see it.
    pub(crate) fn new(form: Form) -> Bar {
        let target = if form == Form::Text && std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{msg:10} {wide_bar} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well formed"));
        Bar(bar)
    }

    /// A task that moves this bar and that a signal cancels.
    pub(crate) fn task<'a>(&'a self, signals: &'a Signals) -> Task<'a> {
        Task::unattended()
            .cancelled_by(signals.flag())
            .with_progress(|progress| self.show(word(progress.phase), progress.done, progress.total))
    }

    /// Moves this bar by work over the network.
    pub(crate) fn step(&self, step: Step) {
        let word = match step.doing {
            Doing::Upload => "sending",
            Doing::Download => "fetching",
            Doing::Unpack => "unpacking",
            Doing::Promote(phase) => word(phase),
        };
        self.show(word, step.done, step.total);
    }

    fn show(&self, word: &'static str, done: u64, total: u64) {
        if self.0.message() != word {
            self.0.set_message(word);
        }
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Copy => "copying",
        Phase::Verify => "verifying",
        Phase::Inspect => "inspecting",
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
