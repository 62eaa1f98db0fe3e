//! The progress of a scenario: a bar on a terminal, and a line per round.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Shows the progress of a scenario. The bar is for terminals alone, the lines are always written.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Begins a scenario of `steps` steps.
    pub(super) fn begin(scenario: &str, steps: u64) -> Progress {
        let bar = ProgressBar::new(steps);
        // With a wrong template, which is a constant, the bar has its default style.
        if let Ok(style) = ProgressStyle::with_template("{prefix:>10} {wide_bar} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(scenario.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        Progress { bar }
    }

    /// Shows the present step's name.
    pub(super) fn doing(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Ends a step, and writes its result.
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
