//! How far a long command is: on stderr, where that is a terminal, and nowhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const REDRAW: Duration = Duration::from_millis(100);

/// Goes when it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// For work whose end is not known.
    pub(super) fn spinner() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(REDRAW);
        Self(bar)
    }

    /// For so many events.
    pub(super) fn bar(events: i64) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} events, {eta} to go");
        let bar = ProgressBar::new(u64::try_from(events).unwrap_or(0));
        Self(style.map_or(bar.clone(), |style| bar.with_style(style)))
    }

    pub(super) fn say(&self, text: String) {
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
