//! The events of a mixed load, and the planned outcome of each.

use std::fmt;

use rand::Rng;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::handlers::{BILLED_TYPE, HANDLED_TYPE};

/// The file in which workers record the ids that the backend accepted.
pub(crate) const ACCEPTED: &str = "accepted";
/// The file of the publisher `lines`.
pub(crate) const LINES: &str = "lines.jsonl";

pub(crate) const PLAIN_TYPE: &str = "thing.happened";

/// The size above which another writer's event fails.
pub(crate) const MAX_EVENT_BYTES: usize = 350 << 10;
const MOST_DATA: f64 = (300 << 10) as f64;
const TOO_MUCH_DATA: usize = 400 << 10;

/// Rejections after which an event that is always rejected fails.
const FEW_RETRIES: i32 = 2;
/// Enough retries that neighbours in a handler's mailbox do not spend them all when its actor dies.
const MANY_RETRIES: i32 = 1_000;

/// How a backend or a handler misbehaves instead of accepting an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misbehaviour {
    Refuse,
    Panic,
    Hang,
}

impl Misbehaviour {
    const ALL: [(Self, &str); 3] = [(Self::Refuse, "refuse"), (Self::Panic, "panic"), (Self::Hang, "hang")];

    /// Parses an event's subject: the kind, and how often.
    pub(crate) fn parse(subject: &str) -> Option<(Self, i32)> {
        let (word, times) = subject.split_once(' ')?;
        let (what, _) = Self::ALL.into_iter().find(|(_, name)| *name == word)?;
        Some((what, times.parse().ok()?))
    }
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Self::ALL.into_iter().find(|(what, _)| what == self).unwrap();
        f.write_str(name)
    }
}

/// Where events are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// The default publisher's stream, in both of its lanes: once.
    Stream,
    /// The stream of the publisher with `on_failed = "hold"`: once.
    Held,
    /// A file of JSON lines: at least once.
    Lines,
    /// The suite's own backend: at least once.
    Accepted,
}

impl Target {
    pub(crate) const ALL: [Self; 4] = [Self::Stream, Self::Held, Self::Lines, Self::Accepted];

    pub(crate) fn is_exact(self) -> bool {
        matches!(self, Self::Stream | Self::Held)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Published,
    /// Rejected permanently, or until its retries are spent.
    Failed,
}

/// How often an event is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retries {
    Exactly(i32),
    /// Other events in the mailbox of an actor that dies may be rejected with it.
    AtLeast(i32),
}

impl Retries {
    pub(crate) fn least(self) -> i32 {
        let (Self::Exactly(times) | Self::AtLeast(times)) = self;
        times
    }

    pub(crate) fn allow(self, found: i32) -> bool {
        match self {
            Self::Exactly(times) => found == times,
            Self::AtLeast(times) => found >= times,
        }
    }
}

/// An event to write, and its expected outcome.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) id: Uuid,
    pub(crate) kind: &'static str,
    pub(crate) lane: &'static str,
    pub(crate) key: String,
    pub(crate) event_type: &'static str,
    pub(crate) subject: String,
    /// The data as JSON.
    pub(crate) data: String,
    pub(crate) extensions: &'static str,
    pub(crate) publisher_config: &'static str,
    pub(crate) max_retries: i32,
    /// The delay until it is due.
    pub(crate) delay_millis: i32,
    pub(crate) target: Target,
    pub(crate) end: End,
    pub(crate) retries: Retries,
}

impl Plan {
    /// Whether the library can write it, or only another writer.
    pub(crate) fn is_valid(&self) -> bool {
        self.end == End::Published && self.target != Target::Held || self.target == Target::Accepted
    }

    fn plain(rng: &mut StdRng, key: String) -> Self {
        let lane = if rng.random() { "" } else { "default" };
        Self {
            id: uuid::Builder::from_random_bytes(rng.random()).into_uuid(),
            kind: "plain",
            lane,
            // A key's order is guaranteed only within a lane.
            key: if key.is_empty() { key } else { format!("{key} {lane}") },
            event_type: PLAIN_TYPE,
            subject: String::new(),
            data: data(rng),
            extensions: "{}",
            publisher_config: "{}",
            max_retries: 3,
            delay_millis: 0,
            target: Target::Stream,
            end: End::Published,
            retries: Retries::Exactly(0),
        }
    }

    /// Draws an event, with a key of the writer or without a key.
    pub(crate) fn draw(rng: &mut StdRng, key: String) -> Self {
        let plain = Self::plain(rng, key.clone());
        match rng.random_range(0..100) {
            0..40 => plain,
            40..48 => Self { kind: "scheduled", key: String::new(), delay_millis: rng.random_range(0..3_000), ..plain },
            48..60 => Self { kind: "lines", lane: "lines", key, target: Target::Lines, ..plain },
            60..72 => Self { lane: "mine", key, target: Target::Accepted, ..plain }.refused_by_the_backend(rng),
            72..86 => plain.handled(rng),
            86..94 => Self { lane: "held", key, target: Target::Held, ..plain }.held(rng),
            94..97 => Self { kind: "too large", data: string(TOO_MUCH_DATA), ..plain }.refused_for_good(),
            _ => Self { kind: "no event", extensions: "[1]", ..plain }.refused_for_good(),
        }
    }

    fn refused_for_good(self) -> Self {
        Self { end: End::Failed, retries: Retries::Exactly(1), ..self }
    }

    fn refused_by_the_backend(self, rng: &mut StdRng) -> Self {
        let what = if rng.random_bool(0.8) { Misbehaviour::Refuse } else { Misbehaviour::Panic };
        let times = rng.random_range(0..4);
        let failed = times >= FEW_RETRIES;
        Self {
            kind: "refused",
            subject: format!("{what} {times}"),
            max_retries: FEW_RETRIES,
            end: if failed { End::Failed } else { End::Published },
            retries: Retries::Exactly(times.min(FEW_RETRIES)),
            ..self
        }
    }

    fn handled(self, rng: &mut StdRng) -> Self {
        let what = match rng.random_range(0..20) {
            0 => Misbehaviour::Panic,
            1 => Misbehaviour::Hang,
            _ => Misbehaviour::Refuse,
        };
        let times = i32::from(rng.random_bool(0.25));
        Self {
            kind: "handled",
            event_type: if rng.random() { HANDLED_TYPE } else { BILLED_TYPE },
            subject: format!("{what} {times}"),
            max_retries: MANY_RETRIES,
            // Attempts of a handler in another process do not count as the event's.
            retries: Retries::AtLeast(0),
            ..self
        }
    }

    /// Some events cannot be sent until an operator has fixed them; their key waits.
    fn held(self, rng: &mut StdRng) -> Self {
        let broken = rng.random_bool(0.1);
        let publisher_config = if broken { r#"{"field": {"nested": true}}"# } else { "{}" };
        Self { kind: "held", publisher_config, ..self }
    }
}

/// Data that is mostly small and sometimes large.
fn data(rng: &mut StdRng) -> String {
    let bytes = MOST_DATA.powf(rng.random::<f64>().powi(2)) as usize;
    if bytes < 3 { "1".to_owned() } else { string(bytes - 2) }
}

fn string(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes))
}
