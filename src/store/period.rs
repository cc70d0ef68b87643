//! Whether something happened recently.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A time that something began, and that ends by itself.
#[derive(Default)]
pub(crate) struct Period(Mutex<Option<Instant>>);

impl Period {
    pub(crate) fn is_running(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    pub(crate) fn run_for(&self, length: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + length);
    }
}
