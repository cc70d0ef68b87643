//! The warning of events whose `publisher_config` has a pair named `seq`: `publish` refuses it, other writers do not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::session::OutgoingEvent;

/// How often a lane's events are warned of.
const INTERVAL: Duration = Duration::from_secs(60);

/// When the last warning of each lane was logged.
#[derive(Default)]
pub(super) struct IgnoredSeq(HashMap<Arc<str>, Instant>);

impl IgnoredSeq {
    /// Warns of the event, unless one of its lane was warned of in the last minute.
    pub(super) fn warn(&mut self, outgoing: &OutgoingEvent) {
        let lane = &outgoing.shard.lane;
        if self.is_due(lane, Instant::now()) {
            tracing::warn!(
                backend = %if lane.is_empty() { "(default)" } else { lane }, event.id = %outgoing.event.id,
                "publisher_config has a pair named `seq`, which is ignored: the field of the entry is the event's own; \
                 rename the pair where the event is written"
            );
        }
    }

    fn is_due(&mut self, lane: &Arc<str>, now: Instant) -> bool {
        let is_due = self.0.get(lane).is_none_or(|last| now.duration_since(*last) >= INTERVAL);
        if is_due {
            self.0.insert(Arc::clone(lane), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_is_warned_of_once_a_minute() {
        let (mut ignored, began) = (IgnoredSeq::default(), Instant::now());
        let lanes: [Arc<str>; 2] = [Arc::from(""), Arc::from("orders")];
        let mut due = |seconds| lanes.each_ref().map(|lane| ignored.is_due(lane, began + Duration::from_secs(seconds)));
        assert_eq!([0, 59, 60, 119].map(&mut due), [[true; 2], [false; 2], [true; 2], [false; 2]]);
    }
}
