//! Rules of the protocol that a test may switch off, to show that it would notice.
//!
//! The variable `OUTBOX_RULE_OFF` names the rule. Without the feature `fault-injection` every rule always holds, and this is
//! not compiled in.

/// A rule that keeps events from being lost, sent twice or sent out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the features decide which rules are asked about")]
pub(crate) enum ProtocolRule {
    /// Redis refuses a batch if a newer session has one of its shards.
    Fencing,
    /// Sent events are in the journal in Redis until the database has them.
    Journal,
    /// R1: rows of a fetch count for a shard only while it is open as it was when the fetch began.
    Openings,
    /// R2: an event that is settled stays excluded until every fetch that began before is over.
    Lingering,
    /// R3: an event waits for the unsettled events of its key that precede it.
    KeyOrder,
    /// Retries and failures are written only under the lease they were read with.
    FencedSettle,
    /// An event is done only when every handler that is registered for it has handled it, in whichever process it is.
    EveryHandler,
    /// A consumer renews the entries that its handlers have, so that no other consumer takes them.
    Renewal,
    /// Redis refuses a consumer's read of a partition if another consumer has its lease.
    ReadFencing,
}

#[cfg(not(feature = "fault-injection"))]
pub(crate) const fn is_off(_: ProtocolRule) -> bool {
    false
}

#[cfg(feature = "fault-injection")]
pub(crate) use injected::is_off;

#[cfg(feature = "fault-injection")]
mod injected {
    use std::sync::OnceLock;

    use super::ProtocolRule;

    const VARIABLE: &str = "OUTBOX_RULE_OFF";

    pub(crate) fn is_off(rule: ProtocolRule) -> bool {
        static OFF: OnceLock<Option<ProtocolRule>> = OnceLock::new();
        *OFF.get_or_init(named) == Some(rule)
    }

    fn named() -> Option<ProtocolRule> {
        let rule = match std::env::var(VARIABLE).ok()?.as_str() {
            "fencing" => ProtocolRule::Fencing,
            "journal" => ProtocolRule::Journal,
            "openings" => ProtocolRule::Openings,
            "lingering" => ProtocolRule::Lingering,
            "key-order" => ProtocolRule::KeyOrder,
            "fenced-settle" => ProtocolRule::FencedSettle,
            "every-handler" => ProtocolRule::EveryHandler,
            "renewal" => ProtocolRule::Renewal,
            "read-fencing" => ProtocolRule::ReadFencing,
            _ => return None,
        };
        tracing::warn!(?rule, "protocol rule switched off by {VARIABLE}");
        Some(rule)
    }
}
