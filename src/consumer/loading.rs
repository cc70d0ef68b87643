//! Loads the events of entries that waited for their key without them.

use super::context::ConsumerContext;
use super::delivery::Ending;
use super::held::Hold;
use super::keys::Parked;
use crate::backend::event_source::{Content, EntryRef, Received, Renewal, SourceUnavailable};
use crate::backoff::pause_after;

/// The outcome for parked entries of a key.
#[derive(Default)]
pub(super) struct Loaded {
    /// In their order.
    pub(super) entries: Vec<Received>,
    /// Those that handlers do not get.
    pub(super) ended: Vec<(EntryRef, Ending)>,
    /// Those behind them for whose events there is no room yet.
    pub(super) parked: Vec<Parked>,
}

/// Loads the first entries of one key, as many as there is room for but at least one, until it succeeds or they are not this
/// consumer's to handle.
pub(super) async fn load(context: &ConsumerContext, mut parked: Vec<Parked>) -> Loaded {
    let (mut loaded, mut failures, mut is_refused) = (Loaded::default(), 0, false);
    if let Some(first) = parked.first() {
        // Handlers get it next.
        tokio::select! {
            () = context.held.make_room_for(first.entry) => {}
            () = context.stopped() => {}
            () = context.lease_ended(first.lease) => {}
        }
    }
    // Their sizes are known from when they were read.
    let followers = parked.iter().skip(1).take_while(|parked| context.held.wait_behind(parked.entry)).count();
    loaded.parked = parked.split_off(parked.len().min(1 + followers));
    loop {
        parked.retain(|parked| {
            let ending = ended(context, parked);
            loaded.ended.extend(ending.map(|ending| (parked.entry, ending)));
            ending.is_none()
        });
        let entries: Vec<EntryRef> = parked.iter().map(|parked| parked.entry).collect();
        let contents = match context.source.load(&entries).await {
            Ok(Ok(contents)) => contents,
            Ok(Err(error)) => {
                is_refused = true;
                entries.iter().for_each(|entry| context.held.set_refused(*entry));
                wait(context, &error, &mut failures).await;
                continue;
            }
            Err(error) => {
                wait(context, &error, &mut failures).await;
                continue;
            }
        };
        if is_refused {
            entries.iter().skip(1).for_each(|entry| context.held.set_behind(*entry));
            entries.iter().take(1).for_each(|entry| context.held.set_active(*entry));
        }
        for (parked, content) in parked.into_iter().zip(contents) {
            loaded.add(parked, content);
        }
        return loaded;
    }
}

async fn wait(context: &ConsumerContext, error: &SourceUnavailable, failures: &mut u32) {
    tracing::debug!(consumer = context.name, %error, "entries cannot be read again; retrying");
    context.pause(pause_after(*failures)).await;
    *failures = failures.saturating_add(1);
}

/// How an entry ends whose handlers must not begin.
fn ended(context: &ConsumerContext, parked: &Parked) -> Option<Ending> {
    let Parked { entry, deliveries, is_claimed, lease } = *parked;
    match context.hold(entry, lease) {
        Hold::Lost => Some(Ending::Lost),
        Hold::Ours | Hold::Doubtful if !context.is_stopping() => None,
        _ => {
            // What did not begin is not counted.
            let deliveries = if is_claimed { deliveries } else { deliveries.saturating_sub(1) };
            Some(Ending::Released(Renewal { entry, deliveries, idle: context.settings.reclaim_after }))
        }
    }
}

impl Loaded {
    /// An entry that was trimmed is acknowledged.
    fn add(&mut self, parked: Parked, content: Option<Content>) {
        let Parked { entry, deliveries, is_claimed, lease } = parked;
        let Some(Content { bytes, event }) = content else {
            self.ended.push((entry, Ending::Handled));
            return;
        };
        self.entries.push(Received { entry, deliveries, is_claimed, lease, bytes, event });
    }
}
