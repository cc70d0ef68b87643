//! Whether a worker makes progress, as its loops note it: heartbeats, polls, fetches, and the database's clock.

use std::sync::atomic::{AtomicBool, AtomicI16, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::BootInstant;
use crate::error::StoreError;

pub(crate) struct Liveness {
    stopping: AtomicBool,
    /// The protocol in force, as a heartbeat last saw it.
    protocol: AtomicI16,
    /// How much the database's clock is ahead of this process', in microseconds; it decides nothing.
    clock_ahead: AtomicI64,
    /// When the database last answered a heartbeat.
    last_beat: Mutex<Option<BootInstant>>,
    /// When the poll loop last ran.
    pulse: Mutex<BootInstant>,
    /// Every fetch has failed since then.
    unreadable: Mutex<Option<DatabaseUnreadable>>,
}

/// Since when no event can be read, and why.
#[derive(Debug, Clone)]
pub(crate) struct DatabaseUnreadable {
    pub(crate) since: BootInstant,
    pub(crate) reason: String,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            stopping: AtomicBool::new(false),
            protocol: AtomicI16::new(1),
            clock_ahead: AtomicI64::new(0),
            last_beat: Mutex::new(None),
            pulse: Mutex::new(BootInstant::now()),
            unreadable: Mutex::default(),
        }
    }
}

impl Liveness {
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn note_protocol(&self, protocol: i16) {
        self.protocol.store(protocol, Ordering::Relaxed);
    }

    /// Whether every worker knows that handlers of other processes are owed events that are delivered here.
    pub(crate) fn owes_handlers(&self) -> bool {
        self.protocol.load(Ordering::Relaxed) >= 2
    }

    /// The database's clock, as a heartbeat last saw it.
    pub(crate) fn database_now(&self) -> DateTime<Utc> {
        let (now, ahead) = (Utc::now(), TimeDelta::microseconds(self.clock_ahead.load(Ordering::Relaxed)));
        // A clock beyond the calendar is ignored.
        now.checked_add_signed(ahead).unwrap_or(now)
    }

    /// Notes the database's `clock`, read just before `now` of this process' clock: a heartbeat reads it last.
    pub(crate) fn note_clock(&self, clock: DateTime<Utc>, now: DateTime<Utc>) {
        let ahead = (clock - now).num_microseconds().unwrap_or(0);
        self.clock_ahead.store(ahead, Ordering::Relaxed);
    }

    pub(crate) fn note_beat(&self) {
        *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(BootInstant::now());
    }

    /// Whether the database answered a heartbeat within the lease time.
    pub(crate) fn lease_health(&self, lease: Duration) -> Result<(), String> {
        let last = *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner);
        match last.map(|last| BootInstant::now().since(last)) {
            Some(span) if span < lease => Ok(()),
            Some(span) => Err(format!("no heartbeat was answered for {span:.1?}, so its leases expire")),
            None => Err("no heartbeat was answered yet".to_owned()),
        }
    }

    /// Notes that the poll loop runs.
    pub(crate) fn tick(&self) {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) = BootInstant::now();
    }

    /// How long ago the poll loop last ran.
    pub(crate) fn silent_for(&self) -> Duration {
        BootInstant::now().since(*self.pulse.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a fetch succeeded, or failed.
    pub(crate) fn note_read(&self, error: Option<&StoreError>) {
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        let since = unreadable.as_ref().map_or_else(BootInstant::now, |before| before.since);
        *unreadable =
            error.map(|error| DatabaseUnreadable { since, reason: format!("events cannot be read: {error}") });
    }

    /// The failure, if no fetch has succeeded for the lease time: other workers may be able to read what this one cannot.
    pub(crate) fn unreadable(&self, lease: Duration) -> Option<DatabaseUnreadable> {
        let unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        unreadable.filter(|unreadable| BootInstant::now().since(unreadable.since) >= lease)
    }
}
