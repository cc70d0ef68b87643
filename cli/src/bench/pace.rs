//! The rate at which an operation can be repeated.

use std::time::{Duration, Instant};

/// Counts how often an operation runs within a time span. The first run does not count, because it prepares statements.
pub(super) struct Pace {
    span: Duration,
    tried: bool,
    started: Option<Instant>,
    times: u32,
}

impl Pace {
    pub(super) fn over(span: Duration) -> Self {
        Self { span, tried: false, started: None, times: 0 }
    }

    /// Whether to run again; called before each run.
    pub(super) fn should_continue(&mut self) -> bool {
        match self.started {
            Some(started) => {
                self.times += 1;
                started.elapsed() < self.span
            }
            None => {
                self.started = self.tried.then(Instant::now);
                self.tried = true;
                true
            }
        }
    }

    /// Runs a second.
    pub(super) fn rate(&self) -> f64 {
        self.started.map_or(0.0, |started| f64::from(self.times) / started.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_does_not_count_and_the_second_does() {
        let mut pace = Pace::over(Duration::ZERO);
        let mut times = 0;
        while pace.should_continue() {
            times += 1;
        }
        assert_eq!((times, pace.times), (2, 1));
        assert!(pace.rate() > 0.0);
    }
}
