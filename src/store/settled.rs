//! The outcome of a settle, event by event.

/// The effect of a settle on one event's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The row holds the outcome, durably.
    Recorded,
    /// The row was deleted or replayed. For a rejection also: the row changed since it was fetched, or the lease is
    /// another worker's.
    Superseded,
    /// Another transaction holds the row; it may be an earlier execution of the same settle.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "SQLite locks no rows"))]
    Locked,
    /// The database refused to write this row.
    Refused(String),
    /// The search for refused rows stopped before this event.
    Untried,
}

/// How a settle treats rows that it does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// No earlier execution is in doubt.
    Usual,
    /// An earlier execution may have committed without being durable, so this one always writes and waits.
    AfterDoubt,
}
