//! The form in which journals name events.

use uuid::Uuid;

/// An event as it was sent: its id and its `seq`.
pub(crate) type SentEvent = (Uuid, i64);

/// Bytes of one event: its id, then its seq, big-endian. The Redis script `publish.lua` cuts by it.
pub(crate) const ENTRY: usize = 24;

pub(crate) fn push(value: &mut Vec<u8>, (id, seq): SentEvent) {
    value.extend_from_slice(id.as_bytes());
    value.extend_from_slice(&seq.to_be_bytes());
}

pub(crate) fn parse(value: &[u8]) -> Vec<SentEvent> {
    value
        .chunks_exact(ENTRY)
        .filter_map(|entry| {
            let id = Uuid::from_slice(entry.get(..16)?).ok()?;
            let seq = i64::from_be_bytes(entry.get(16..)?.try_into().ok()?);
            Some((id, seq))
        })
        .collect()
}
