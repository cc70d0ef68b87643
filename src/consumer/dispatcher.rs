//! Delivers entries, those of one key one after the other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use super::context::ConsumerContext;
use super::delivery::{Ending, deliver};
use crate::backend::event_source::{EntryRef, Received};
use crate::clock::BootInstant;

/// Delivers until the readers have ended and every delivery has.
pub(super) async fn dispatch(
    context: Arc<ConsumerContext>,
    mut read: mpsc::Receiver<Vec<Received>>,
    handled: mpsc::UnboundedSender<EntryRef>,
) {
    let (mut keys, mut running) = (Keys::default(), FuturesUnordered::new());
    let mut is_reading = true;
    let start = |received: Received, key: Option<Key>| {
        let (context, entry) = (Arc::clone(&context), received.entry);
        async move { (entry, key, deliver(context, received).await) }
    };
    while is_reading || !running.is_empty() {
        tokio::select! {
            batch = read.recv(), if is_reading => match batch {
                Some(batch) => for received in batch {
                    let (key, entry) = (key_of(&received), received.entry);
                    match keys.enter(key.as_ref(), received) {
                        Some(received) => running.push(start(received, key)),
                        None => context.held.set_waiting(entry, true),
                    }
                },
                None => is_reading = false,
            },
            Some((entry, key, ending)) = running.next() => {
                match ending {
                    // The acknowledger ends later than this.
                    Ending::Handled => _ = handled.send(entry),
                    Ending::SetAside | Ending::Lost => context.held.remove([entry], BootInstant::now()),
                    Ending::Released(renewal) => context.release(renewal),
                }
                if matches!(ending, Ending::Lost) {
                    context.metrics.lost.increment(1);
                }
                if let Some(key) = key && let Some(next) = keys.leave(&key) {
                    context.held.set_waiting(next.entry, false);
                    running.push(start(next, Some(key)));
                }
            }
        }
    }
}

/// A key of one stream, whose events are handled one after the other.
type Key = (usize, String);

fn key_of(received: &Received) -> Option<Key> {
    let key = &received.event.as_ref().ok()?.partition_key;
    (!key.is_empty()).then(|| (received.entry.stream, key.clone()))
}

/// The keys of which an event is being delivered, with the events that wait behind it.
#[derive(Default)]
struct Keys {
    busy: HashMap<Key, VecDeque<Received>>,
}

impl Keys {
    /// Returns the entry if it can be delivered now.
    fn enter(&mut self, key: Option<&Key>, received: Received) -> Option<Received> {
        let Some(key) = key else { return Some(received) };
        match self.busy.get_mut(key) {
            Some(waiting) => waiting.push_back(received),
            None => {
                self.busy.insert(key.clone(), VecDeque::new());
                return Some(received);
            }
        }
        None
    }

    /// Ends a key's delivery; returns its next entry.
    fn leave(&mut self, key: &Key) -> Option<Received> {
        let next = self.busy.get_mut(key)?.pop_front();
        if next.is_none() {
            self.busy.remove(key);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::event_source::EntryId;

    fn received(number: u64) -> Received {
        let entry = EntryRef { stream: 0, id: EntryId { millis: 1, number } };
        Received { entry, deliveries: 1, is_claimed: false, lease: None, bytes: 1, event: Err(String::new()) }
    }

    #[test]
    fn the_entries_of_a_key_leave_one_by_one_and_in_order() {
        let key = |name: &str| (0, name.to_owned());
        let mut keys = Keys::default();
        assert!(keys.enter(Some(&key("a")), received(1)).is_some());
        assert!(
            keys.enter(Some(&key("a")), received(2)).is_none() && keys.enter(Some(&key("a")), received(3)).is_none()
        );
        assert!(keys.enter(Some(&key("b")), received(4)).is_some() && keys.enter(None, received(5)).is_some());
        let next = |keys: &mut Keys| keys.leave(&key("a")).map(|received| received.entry.id.number);
        assert_eq!([next(&mut keys), next(&mut keys), next(&mut keys)], [Some(2), Some(3), None]);
        assert!(keys.enter(Some(&key("a")), received(6)).is_some());
        assert_eq!(keys.busy.len(), 2);
    }
}
