//! The task that acknowledges what is handled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::context::{Call, ConsumerContext};
use crate::backend::event_source::{EntryRef, Refusals, SourceUnavailable};
use crate::backoff::pause_after;
use crate::clock::BootInstant;

/// The most entries that are acknowledged together.
const MOST_ACKNOWLEDGED: usize = 1_000;

/// A stream that refuses to acknowledge entries. The source does not read it meanwhile, so these are what was in memory.
struct Refusing {
    entries: Vec<EntryRef>,
    reason: SourceUnavailable,
    failures: u32,
    next_try: Instant,
}

/// Acknowledges what is handled, as much as there is in one call, until the dispatcher has ended. A stream that refuses it holds up
/// no other one.
pub(super) async fn acknowledge(context: Arc<ConsumerContext>, mut handled: mpsc::UnboundedReceiver<EntryRef>) {
    let (mut entries, mut refusing) = (Vec::new(), BTreeMap::<usize, Refusing>::new());
    loop {
        let next_try = refusing.values().map(|stream| stream.next_try).min();
        let is_over = tokio::select! {
            count = handled.recv_many(&mut entries, MOST_ACKNOWLEDGED) => count == 0,
            () = tokio::time::sleep_until(next_try.unwrap_or_else(Instant::now)), if next_try.is_some() => false,
        };
        let is_due = |stream: &Refusing| is_over || stream.next_try <= Instant::now();
        let tried: BTreeMap<usize, Refusing>;
        (tried, refusing) = refusing.into_iter().partition(|(_, stream)| is_due(stream));
        tried.values().for_each(|stream| entries.extend(&stream.entries));
        entries.retain(|entry| match refusing.get_mut(&entry.stream) {
            Some(stream) => {
                wait(&context, stream, *entry);
                false
            }
            None => true,
        });
        for (number, reason) in call(&context, &entries).await {
            let failures = tried.get(&number).map_or(0, |stream| stream.failures);
            let next_try = Instant::now() + pause_after(failures);
            let mut stream = Refusing { entries: Vec::new(), reason, failures: failures.saturating_add(1), next_try };
            entries.extract_if(.., |entry| entry.stream == number).for_each(|entry| wait(&context, &mut stream, entry));
            refusing.insert(number, stream);
        }
        let outcome = refusing.values().next().map_or(Ok(()), |stream| Err(stream.reason.clone()));
        context.note(Call::Acknowledging, &outcome);
        remove(&context, &mut entries);
        if is_over {
            return give_up(&context, &refusing);
        }
    }
}

/// Such an entry takes no room from those of other streams.
fn wait(context: &ConsumerContext, stream: &mut Refusing, entry: EntryRef) {
    context.held.set_refused(entry);
    stream.entries.push(entry);
}

/// Repeats the call until the server answers.
async fn call(context: &ConsumerContext, entries: &[EntryRef]) -> Refusals {
    let mut failures = 0;
    loop {
        match context.source.acknowledge(entries).await {
            Ok(refusals) => return refusals,
            failed => context.note(Call::Acknowledging, &failed),
        }
        tokio::time::sleep(pause_after(failures)).await;
        failures = failures.saturating_add(1);
    }
}

/// Notes entries that are acknowledged.
fn remove(context: &ConsumerContext, entries: &mut Vec<EntryRef>) {
    context.metrics.acknowledged.increment(entries.len() as u64);
    context.acknowledged.fetch_add(entries.len() as u64, Ordering::Relaxed);
    context.held.remove(entries.drain(..), BootInstant::now());
    context.note_entries();
}

fn give_up(context: &ConsumerContext, refusing: &BTreeMap<usize, Refusing>) {
    for Refusing { entries, reason, .. } in refusing.values() {
        tracing::warn!(
            consumer = context.name, entries = entries.len(), %reason,
            "entries are handled and cannot be acknowledged; they may be delivered again"
        );
    }
}
