//! What is seen while it runs: a bar on a terminal, and a line per round in any case.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Shows how far a scenario is. On anything but a terminal only the lines remain.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Begins a scenario of so many steps.
    pub(super) fn begin(scenario: &str, steps: u64) -> Progress {
        let bar = ProgressBar::new(steps);
        // The template is a constant; were it wrong, the default would be shown.
        if let Ok(style) = ProgressStyle::with_template("{prefix:>10} {wide_bar} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(scenario.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        Progress { bar }
    }

    /// Says what is being done.
    pub(super) fn doing(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// A step is done, and this came of it.
    pub(super) fn step(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
