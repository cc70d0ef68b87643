//! Delivers entries, those of one key one after the other.

use std::sync::Arc;

use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use super::context::ConsumerContext;
use super::delivery::{Ending, deliver};
use super::keys::{Key, Keys, Next, key_of};
use super::loading::{Loaded, load};
use crate::backend::event_source::{EntryRef, Received};
use crate::clock::BootInstant;

/// What a task of the dispatcher has done.
enum Done {
    Delivered(EntryRef, Option<Key>, Ending),
    Loaded(Key, Loaded),
}

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
        Either::Left(async move { Done::Delivered(entry, key, deliver(context, received).await) })
    };
    // The acknowledger ends later than this.
    let end = |entry: EntryRef, ending: Ending| match ending {
        Ending::Handled => _ = handled.send(entry),
        Ending::SetAside => context.held.remove([entry], BootInstant::now()),
        Ending::Lost => {
            context.held.remove([entry], BootInstant::now());
            context.metrics.lost.increment(1);
        }
        Ending::Released(renewal) => context.release(renewal),
    };
    while is_reading || !running.is_empty() {
        let free = tokio::select! {
            batch = read.recv(), if is_reading => {
                is_reading = batch.is_some();
                for received in batch.into_iter().flatten() {
                    let key = key_of(&received);
                    if let Some(received) = keys.enter(key.as_ref(), received, |entry| context.held.wait_behind(entry)) {
                        running.push(start(received, key));
                    }
                }
                None
            }
            Some(done) = running.next() => match done {
                Done::Delivered(entry, key, ending) => {
                    end(entry, ending);
                    key
                }
                Done::Loaded(key, Loaded { entries, ended, parked }) => {
                    ended.into_iter().for_each(|(entry, ending)| end(entry, ending));
                    keys.put_back(&key, entries, parked);
                    Some(key)
                }
            },
        };
        let Some(key) = free else { continue };
        match keys.leave(&key) {
            Some(Next::Entry(next)) => {
                context.held.set_active(next.entry);
                running.push(start(next, Some(key)));
            }
            Some(Next::Parked(parked)) => {
                let context = Arc::clone(&context);
                running.push(Either::Right(async move { Done::Loaded(key, load(&context, parked).await) }));
            }
            None => {}
        }
    }
}
