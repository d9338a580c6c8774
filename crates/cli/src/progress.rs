//! Progress bars.
//!
//! Owns: the bar of a long call. Promises: it is drawn on standard error, only on a terminal and never with `--json`, and is
//! gone when the work is. Leaves out: what is being done ([`securereg::Task`]).

use crate::out::Form;
use crate::signals::Signals;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use securereg::{Phase, Task};
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
        let bar = &self.0;
        let mut shown = None;
        Task::unattended().cancelled_by(signals.flag()).with_progress(move |progress| {
            if shown != Some(progress.phase) {
                shown = Some(progress.phase);
                bar.set_message(match progress.phase {
                    Phase::Copy => "copying",
                    Phase::Verify => "verifying",
                    Phase::Inspect => "inspecting",
                });
            }
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        })
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
