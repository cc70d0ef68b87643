//! What a database says about itself, for `outbox doctor`. A fact that this role may not see is missing.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

#[derive(Debug, Clone, Default)]
pub(crate) struct DatabaseFacts {
    pub(crate) clock: Option<DateTime<Utc>>,
    /// Settings of this session by name, times in milliseconds.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) connections: Option<ConnectionFacts>,
    /// How long the oldest transaction of another session has been open, and what it is.
    pub(crate) oldest_transaction: Option<(Duration, String)>,
    /// Indexes of the outbox that do not exist, or are not valid.
    pub(crate) missing_indexes: Vec<String>,
    /// Foreign keys of other tables that delete or change with an event, as `table (constraint)`.
    pub(crate) cascades: Vec<String>,
    /// Tables of the outbox for which autovacuum is switched off.
    pub(crate) without_autovacuum: Vec<String>,
    /// Rows are inserted without a `seq`, because its default is gone.
    pub(crate) has_no_seq_default: bool,
    /// A synchronous standby is required, and none is connected.
    pub(crate) lacks_standby: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionFacts {
    /// The connections that the server allows to ordinary roles.
    pub(crate) most: i64,
    /// The limit of this role.
    pub(crate) role_limit: Option<i64>,
    /// Connections of other programs.
    pub(crate) of_others: i64,
}
