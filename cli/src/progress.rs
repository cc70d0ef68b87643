//! Progress of a long command: on stderr, only if it is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const REDRAW: Duration = Duration::from_millis(100);

/// A progress display; removed when dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// For work of unknown length.
    pub(super) fn spinner() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(REDRAW);
        Self(bar)
    }

    /// For a known number of events.
    pub(super) fn bar(events: usize) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} events, {eta} to go");
        let bar = ProgressBar::new(u64::try_from(events).unwrap_or(0));
        Self(style.map_or(bar.clone(), |style| bar.with_style(style)))
    }

    /// For work that reports its own progress.
    pub(super) fn steps() -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg} {bar:30} {human_pos}/{human_len}, {elapsed}");
        let bar = ProgressBar::no_length();
        Self(style.map_or(bar.clone(), |style| bar.with_style(style)))
    }

    pub(super) fn show(&self, what: &str, done: u64, total: u64) {
        if self.0.length().is_none() {
            self.0.enable_steady_tick(REDRAW);
        }
        self.0.set_message(what.to_owned());
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub(super) fn message(&self, text: String) {
        self.0.set_message(text);
    }

    pub(super) fn advance(&self, events: usize) {
        self.0.inc(u64::try_from(events).unwrap_or(0));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
