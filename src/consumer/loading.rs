//! Loads the events of entries that waited for their key without them.

use super::context::ConsumerContext;
use super::delivery::Ending;
use super::held::Hold;
use super::keys::Parked;
use crate::backend::event_source::{Content, EntryRef, Received, Renewal};
use crate::backoff::pause_after;

/// The outcome for parked entries of a key.
#[derive(Default)]
pub(super) struct Loaded {
    /// In their order.
    pub(super) entries: Vec<Received>,
    /// Those that handlers do not get.
    pub(super) ended: Vec<(EntryRef, Ending)>,
}

/// Loads entries of one key, until it succeeds or they are not this consumer's to handle.
pub(super) async fn load(context: &ConsumerContext, mut parked: Vec<Parked>) -> Loaded {
    let (mut loaded, mut failures) = (Loaded::default(), 0);
    loop {
        parked.retain(|parked| {
            let ending = ended(context, parked);
            loaded.ended.extend(ending.map(|ending| (parked.entry, ending)));
            ending.is_none()
        });
        let entries: Vec<EntryRef> = parked.iter().map(|parked| parked.entry).collect();
        match context.source.load(&entries).await {
            Ok(contents) => {
                for (parked, content) in parked.into_iter().zip(contents) {
                    loaded.add(context, parked, content);
                }
                return loaded;
            }
            Err(error) => {
                tracing::debug!(consumer = context.name, %error, "entries cannot be read again; retrying");
                context.pause(pause_after(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
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
    fn add(&mut self, context: &ConsumerContext, parked: Parked, content: Option<Content>) {
        let Parked { entry, deliveries, is_claimed, lease } = parked;
        let Some(Content { bytes, event }) = content else {
            self.ended.push((entry, Ending::Handled));
            return;
        };
        context.held.loaded(entry, bytes);
        self.entries.push(Received { entry, deliveries, is_claimed, lease, bytes, event });
    }
}
