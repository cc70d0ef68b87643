//! The tasks that read shared streams, and renew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::context::{Call, ConsumerContext};
use crate::backend::event_source::{Claimed, Received};
use crate::backoff::pause_after;
use crate::clock::BootInstant;
use crate::fault_injection::{self, ProtocolRule};

/// How often a reader checks for room if nothing tells it.
pub(super) const ROOM_CHECK: Duration = Duration::from_millis(50);

/// Reads entries until the consumer is to stop: those that were left from time to time, and new ones.
pub(super) async fn read(context: Arc<ConsumerContext>, entries: mpsc::Sender<Vec<Received>>) {
    let (mut failures, mut next_claim) = (0, BootInstant::now());
    while !context.is_stopping() {
        let asked = BootInstant::now();
        context.turn(false, asked);
        context.source.rest(&context.held.refusing());
        let room = context.held.room(asked);
        if room == 0 {
            wait_for_room(&context).await;
            continue;
        }
        let claims = asked >= next_claim;
        let read = if claims {
            context.source.claim(room).await
        } else {
            context.source.read(room).await.map(|entries| Claimed { entries, may_be_more: true })
        };
        context.note(Call::Reading, &read);
        let Ok(Claimed { entries: mut read, may_be_more }) = read else {
            // A claim that fails does not keep new entries from being read.
            next_claim = if claims { asked.after(ROOM_CHECK) } else { next_claim };
            context.pause(pause_after(failures)).await;
            failures += 1;
            continue;
        };
        failures = 0;
        if !may_be_more {
            next_claim = asked.after(context.settings.reclaim_after / 2);
        }
        // An entry that is here may be read again after a reply was lost.
        read.retain(|received| context.held.add(received, asked));
        if !read.is_empty() && entries.send(read).await.is_err() {
            return;
        }
    }
}

async fn wait_for_room(context: &ConsumerContext) {
    tokio::select! {
        () = context.held.changed(false) => {}
        () = tokio::time::sleep(ROOM_CHECK) => {}
        () = context.stopped() => {}
    }
}

/// Renews what is in memory for long, so that no other consumer takes it. Does not end.
pub(super) async fn renew(context: Arc<ConsumerContext>) {
    let mut pause = context.settings.reclaim_after / 8;
    loop {
        tokio::time::sleep(pause).await;
        pause = context.settings.reclaim_after / 8;
        let asked = BootInstant::now();
        let mut due = context.held.due(asked);
        if due.is_empty() || fault_injection::is_off(ProtocolRule::Renewal) {
            context.note(Call::Renewing, &Ok(()));
            continue;
        }
        let renewed = context.source.renew(&due).await;
        if renewed.is_err() {
            pause = pause_after(0);
        }
        let renewed = renewed.and_then(|renewed| {
            due.retain(|renewal| !renewed.refused.contains_key(&renewal.entry.stream));
            let lost = context.held.renewed(&due, &renewed.lost, asked);
            renewed.refused.into_values().next().map_or(Ok(lost), Err)
        });
        context.note(Call::Renewing, &renewed);
        let lost = renewed.unwrap_or(0);
        if lost > 0 {
            tracing::warn!(consumer = context.name, entries = lost, "another consumer took entries of this one");
        }
    }
}
