//! Rules of the protocol that a test may switch off, to show that it would notice.
//!
//! The variable `OUTBOX_RULE_OFF` names the one. Without the feature `fault-injection` every rule always holds, and
//! nothing of this is compiled in.

/// What keeps events from being lost, sent twice or sent in disorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the features decide which rules are asked about")]
pub(crate) enum ProtocolRule {
    /// Redis refuses a batch where a newer session has one of its shards.
    Fencing,
    /// What was sent stands in Redis until the database has it.
    Journal,
    /// R1: what a fetch read counts for a shard only while that is open as it was when the fetch began.
    Openings,
    /// R2: an event that is settled stays excluded until every fetch that began before is over.
    Lingering,
    /// R3: an event waits for the unsettled ones of its key that stand before it.
    KeyOrder,
    /// Retries and failures are written only under the lease they were read with.
    FencedSettle,
    /// An event is done only when every handler that is announced for it has been asked, whichever process has it.
    EveryHandler,
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
            _ => return None,
        };
        tracing::warn!(?rule, "a rule of the protocol is switched off by {VARIABLE}");
        Some(rule)
    }
}
