//! What a consumer reads events from. The entries of a source are *pending* from when they are read until they are
//! acknowledged; those of a consumer that died can be claimed by another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::event::OutboxEvent;
use crate::settings::StartAt;

/// The id of an entry in its stream. Later entries have greater ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryId {
    /// When the entry was added, in milliseconds since 1970.
    pub(crate) millis: u64,
    pub(crate) number: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

impl FromStr for EntryId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (millis, number) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { millis: millis.parse().map_err(|_| ())?, number: number.parse().map_err(|_| ())? })
    }
}

/// An entry of one of the source's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryRef {
    /// The number that the source has given to the stream: an even one, and the next one to the stream of its retried dead letters.
    pub(crate) stream: usize,
    pub(crate) id: EntryId,
}

impl EntryRef {
    /// The number of the stream that its event was published into.
    pub(crate) fn origin(self) -> usize {
        self.stream & !1
    }
}

/// A lease of a stream, as this process knows it. None has the number of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LeaseId(pub(crate) u64);

/// Whether entries that were read under a lease may be given to handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseState {
    Held,
    /// No: it will be given to another consumer.
    Leaving,
    /// No: another consumer may have it.
    Over,
}

/// An entry that was read and is pending.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) entry: EntryRef,
    /// How often handlers have begun with it, this time included if it is new.
    pub(crate) deliveries: u32,
    /// Another consumer, or an earlier life of this one, had it before.
    pub(crate) is_claimed: bool,
    /// The lease under which it was read; `None`: its stream is shared.
    pub(crate) lease: Option<LeaseId>,
    pub(crate) bytes: usize,
    /// The event, or why the entry is none.
    pub(crate) event: Result<Arc<OutboxEvent>, String>,
}

/// What is in an entry.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) bytes: usize,
    /// The event, or why the entry is none.
    pub(crate) event: Result<Arc<OutboxEvent>, String>,
}

/// What changes about an entry that stays pending.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    pub(crate) entry: EntryRef,
    pub(crate) deliveries: u32,
    /// How long the entry counts as untouched: zero keeps it, more than `reclaim_after` gives it to other consumers.
    pub(crate) idle: Duration,
}

/// Why an entry is set aside.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    pub(crate) entry: EntryRef,
    pub(crate) deliveries: u32,
    pub(crate) reason: String,
    /// The event, if the entry has one: the stream may have been trimmed.
    pub(crate) event: Option<Arc<OutboxEvent>>,
}

/// A dead letter as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct StoredLetter {
    /// The stream that it is in.
    pub(crate) dead: String,
    /// When it was added is in its id.
    pub(crate) id: EntryId,
    /// The stream and the entry that it was.
    pub(crate) stream: String,
    pub(crate) entry: String,
    pub(crate) consumer: String,
    pub(crate) deliveries: u32,
    pub(crate) reason: String,
    /// The names of the entry's own fields, for operators.
    pub(crate) fields: Vec<String>,
    /// The event, or why the entry was none.
    pub(crate) event: Result<Arc<OutboxEvent>, String>,
}

/// What a consumer's group has not handled, of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Backlog {
    pub(crate) stream: String,
    /// Entries that no consumer has read; `None` if the server cannot tell.
    pub(crate) unread: Option<u64>,
    /// The group exists in it.
    pub(crate) has_group: bool,
    /// Entries that a consumer has read and not acknowledged.
    pub(crate) pending: u64,
    /// The age of the oldest of these.
    pub(crate) oldest: Option<Duration>,
    /// Dead letters.
    pub(crate) dead: u64,
}

/// The source cannot be used now, with the reason.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SourceUnavailable(pub(crate) String);

/// The streams that refused a call, with the reasons. What the call asked of the others is done.
pub(crate) type Refusals = BTreeMap<usize, SourceUnavailable>;

/// Entries that were left by other consumers.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) entries: Vec<Received>,
    /// There may be more of them: also if these are none, because what was left was trimmed.
    pub(crate) may_be_more: bool,
}

/// The outcome of renewals.
#[derive(Debug, Default)]
pub(crate) struct Renewed {
    /// Entries that are not this consumer's any more.
    pub(crate) lost: Vec<EntryRef>,
    pub(crate) refused: Refusals,
}

/// The outcome for an entry that is to become a dead letter.
#[derive(Debug)]
pub(crate) enum SetAside {
    Moved,
    /// It is not this consumer's any more.
    Lost,
    /// Its stream, or the one of its dead letters, refuses the call.
    Refused(SourceUnavailable),
}

/// The streams of a consumer. After an error it is not known whether the call had an effect; each can be repeated.
#[async_trait]
pub(crate) trait EventSource: Send + Sync + 'static {
    /// Reads new entries, this many at most unless there are more streams. Waits a moment for the first.
    async fn read(&self, most: usize) -> Result<Vec<Received>, SourceUnavailable>;

    /// Takes entries that were left, oldest first.
    async fn claim(&self, most: usize) -> Result<Claimed, SourceUnavailable>;

    /// Reads entries of one stream again, in their order; `None` for those that were trimmed. The inner error: the stream refuses it.
    async fn load(
        &self,
        entries: &[EntryRef],
    ) -> Result<Result<Vec<Option<Content>>, SourceUnavailable>, SourceUnavailable>;

    /// Records that entries are done.
    async fn acknowledge(&self, entries: &[EntryRef]) -> Result<Refusals, SourceUnavailable>;

    /// Renews entries that are still this consumer's.
    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, SourceUnavailable>;

    /// Moves an entry to the dead letters and acknowledges it, unless it is not this consumer's any more.
    async fn set_aside(&self, letter: &DeadLetter) -> Result<SetAside, SourceUnavailable>;

    /// What is left to do.
    async fn backlogs(&self) -> Result<Vec<Backlog>, SourceUnavailable>;

    /// Leaves the group, and removes from it consumers that left nothing behind.
    async fn leave(&self) -> Result<(), SourceUnavailable>;

    /// Leaves these streams unread for a moment, because too many of their entries wait for calls that were refused.
    fn rest(&self, streams: &BTreeSet<usize>);

    /// A stream that refuses calls and is not read meanwhile, with the reason.
    fn refusing(&self) -> Option<SourceUnavailable>;

    /// The stream's name, for operators.
    fn stream_name(&self, stream: usize) -> String;

    /// The streams that one consumer of the group reads at a time, if the source can have such. `read` and `claim` leave them
    /// out.
    fn leases(&self) -> Option<&dyn StreamLeases> {
        None
    }
}

/// The dead letters of a source, for operators.
#[async_trait]
pub(crate) trait LetterStore: Send + Sync {
    /// The names of the streams of dead letters.
    async fn dead_streams(&self) -> Result<Vec<String>, SourceUnavailable>;

    async fn count_letters(&self, dead: &str) -> Result<u64, SourceUnavailable>;

    /// The dead letters of a stream, after one of them, oldest first.
    async fn letters(
        &self,
        dead: &str,
        after: Option<EntryId>,
        most: usize,
    ) -> Result<Vec<StoredLetter>, SourceUnavailable>;

    /// One dead letter.
    async fn letter(&self, dead: &str, id: EntryId) -> Result<Option<StoredLetter>, SourceUnavailable>;

    /// Gives dead letters to the group again, a page at most; returns those that were still there.
    async fn retry_letters(&self, dead: &str, ids: &[EntryId]) -> Result<Vec<EntryId>, SourceUnavailable>;

    /// Deletes dead letters, a page at most; returns those that were still there.
    async fn delete_letters(&self, dead: &str, ids: &[EntryId]) -> Result<Vec<EntryId>, SourceUnavailable>;
}

/// How far each stream was read, by its number and as its source writes it.
pub(crate) type Positions = BTreeMap<usize, String>;

/// Reading without a group.
#[async_trait]
pub(crate) trait TailSource: Send + Sync {
    /// Reads the entries behind these positions, and moves the positions. Waits a moment for the first.
    async fn read_after(&self, positions: &mut Positions, start: StartAt) -> Result<Vec<Received>, SourceUnavailable>;
}

/// All that the streams of a consumer can do.
pub(crate) trait ConsumerSource: EventSource + LetterStore + TailSource {}

impl<S: EventSource + LetterStore + TailSource> ConsumerSource for S {}

/// The streams of a source that one consumer of the group reads at a time. `busy` are the numbers of the streams of which this
/// process has entries in memory; only the task that reads adds some.
#[async_trait]
pub(crate) trait StreamLeases: Send + Sync {
    /// How long a lease lasts.
    fn term(&self) -> Duration;

    /// Renews the leases, and takes free streams up to a fair share; fails if there is no answer in this time. Returns how many
    /// were taken from consumers that were silent.
    async fn beat(&self, limit: Duration) -> Result<usize, SourceUnavailable>;

    /// Ends leases that were not renewed in time.
    fn expire(&self);

    /// The state of a lease, by this process' own clock. Once it is over, it remains so.
    fn state(&self, lease: LeaseId) -> LeaseState;

    /// Changes whenever leases begin or end.
    fn changes(&self) -> watch::Receiver<()>;

    /// The names of the streams that this process has.
    fn held(&self) -> Vec<String>;

    /// Reads entries: those that are pending, of any consumer, and then new ones, in their order. Does not wait.
    async fn read(&self, most: usize, busy: &BTreeSet<usize>) -> Result<Vec<Received>, SourceUnavailable>;

    /// Waits a moment for new entries. Can be given up at any time.
    async fn wait(&self) -> Result<(), SourceUnavailable>;

    /// Whether a lease waits until entries have left the memory.
    fn is_draining(&self) -> bool;

    /// Releases the streams that are given up, if nothing of them is in memory.
    async fn hand_over(&self, busy: &BTreeSet<usize>) -> Result<(), SourceUnavailable>;

    /// Gives up all streams, and takes no more.
    fn give_up(&self);

    /// Ends all leases of this life of the tasks.
    fn restart(&self);

    /// Releases all streams, and leaves those that share them.
    async fn leave(&self) -> Result<(), SourceUnavailable>;
}
