//! How often a second something can be done.

use std::time::{Duration, Instant};

/// Counts what is done over and over for some time. The first time does not count: it prepares statements.
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

    /// To be asked before each time.
    pub(super) fn goes_on(&mut self) -> bool {
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

    /// How often a second it was done.
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
        while pace.goes_on() {
            times += 1;
        }
        assert_eq!((times, pace.times), (2, 1));
        assert!(pace.rate() > 0.0);
    }
}
