//! The worker's own clock. It measures durations only; the database decides what is due and whose lease has ended.

use std::time::Duration;

/// An instant of the boot clock, which also counts while the machine is suspended, so a lease cannot outlive a sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootInstant(Duration);

impl BootInstant {
    pub(crate) fn now() -> Self {
        #[cfg(target_os = "linux")]
        let id = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(id);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Self(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    pub(crate) fn after(self, span: Duration) -> Self {
        Self(self.0 + span)
    }

    /// So long ago, or the start of the machine.
    pub(crate) fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    /// This instant or the next one that is a multiple of a span.
    pub(crate) fn rounded_up(self, span: Duration) -> Self {
        let span = span.as_nanos().max(1);
        let missing = (span - self.0.as_nanos() % span) % span;
        Self(self.0 + Duration::from_nanos(u64::try_from(missing).unwrap_or(0)))
    }

    /// The time from `earlier` to this; zero if `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
