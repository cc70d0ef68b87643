//! The tasks for streams that one consumer of the group reads at a time: one keeps their leases, one reads them.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::context::{Call, ConsumerContext};
use super::tasks::ROOM_CHECK;
use crate::backend::event_source::{Received, StreamLeases};
use crate::backoff::pause_after;
use crate::clock::BootInstant;

/// The parts of a lease after which it is renewed, and after which that is tried again.
const RENEWED_AFTER: u32 = 3;
const RETRIED_AFTER: u32 = 12;

/// Renews the leases, and takes a fair share of what is free. Does not end.
pub(super) async fn keep_leases(context: Arc<ConsumerContext>) {
    let Some(leases) = context.source.leases() else { return };
    loop {
        let beat = leases.beat(leases.term() / RENEWED_AFTER).await;
        context.note(Call::Leasing, &beat);
        leases.expire();
        context.metrics.partitions.set(leases.held().len() as f64);
        context.metrics.take_overs.increment(*beat.as_ref().unwrap_or(&0) as u64);
        let pause = leases.term() / if beat.is_ok() { RENEWED_AFTER } else { RETRIED_AFTER };
        let was_stopping = context.is_stopping();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The others may take this one's share.
            () = context.stopped(), if !was_stopping => {}
        }
    }
}

/// Reads leased streams until the consumer is to stop, and then hands them over. Does not end, so that no partition is left
/// behind.
pub(super) async fn read_partitions(context: Arc<ConsumerContext>, entries: mpsc::Sender<Vec<Received>>) {
    let Some(leases) = context.source.leases() else { return };
    let (mut failures, mut changes) = (0, leases.changes());
    while !context.is_stopping() {
        hand_over(&context, leases).await;
        let asked = BootInstant::now();
        context.turn(true, asked);
        context.source.rest(&context.held.refusing());
        let room = context.held.room(asked);
        if room == 0 {
            wait(&context).await;
            continue;
        }
        let read = leases.read(room, &context.held.streams()).await;
        context.note(Call::ReadingPartitions, &read);
        let Ok(mut read) = read else {
            context.pause(pause_after(failures)).await;
            failures += 1;
            continue;
        };
        failures = 0;
        read.retain(|received| context.held.add(received, asked));
        if read.is_empty() {
            wait_for_entries(&context, leases, &mut changes).await;
        } else if entries.send(read).await.is_err() {
            return;
        }
    }
    drop(entries);
    leases.give_up();
    loop {
        hand_over(&context, leases).await;
        wait(&context).await;
    }
}

/// Gives entries that were not handled to the other consumers, and then the streams of which nothing is in memory.
async fn hand_over(context: &ConsumerContext, leases: &dyn StreamLeases) {
    give_back(context).await;
    if leases.is_draining() {
        let handed_over = leases.hand_over(&context.held.streams()).await;
        context.note(Call::HandingOver, &handed_over);
    } else {
        context.note(Call::HandingOver, &Ok(()));
    }
}

/// Gives entries that were not handled to the other consumers.
pub(super) async fn give_back(context: &ConsumerContext) {
    // They stay in the list until it is certain: this task may be ended meanwhile.
    let released = context.released();
    if released.is_empty() {
        return;
    }
    match context.source.renew(&released).await {
        Ok(_) => {
            context.forget_released(released.len());
            context.held.remove(released.iter().map(|renewal| renewal.entry), BootInstant::now());
        }
        Err(error) => tracing::debug!(consumer = context.name, %error, "entries cannot be given back; retrying"),
    }
}

/// Waits until there is something to read or to hand over.
async fn wait_for_entries(context: &ConsumerContext, leases: &dyn StreamLeases, changes: &mut watch::Receiver<()>) {
    tokio::select! {
        waited = leases.wait() => {
            context.note(Call::ReadingPartitions, &waited);
            if waited.is_err() {
                context.pause(pause_after(0)).await;
            }
        }
        // The sender is in the source.
        _ = changes.changed() => {}
        () = wait(context), if leases.is_draining() => {}
        () = context.stopped() => {}
    }
}

/// Waits until an entry has left the memory, or for a moment.
async fn wait(context: &ConsumerContext) {
    tokio::select! {
        () = context.held.changed(true) => {}
        () = tokio::time::sleep(ROOM_CHECK) => {}
    }
}
