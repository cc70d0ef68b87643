//! The intake: a bounded queue of events that applications send, and one INSERT for those that wait in it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use super::context::SystemContext;
use super::unserved;
use crate::error::{PublishError, StoreError};
use crate::publish::{InsertResult, NewEvent};
use crate::store::NotInserted;

/// The most events that share one INSERT. As many may wait for the next one.
const MOST: usize = 1_000;

/// If this many events are refused alone and none is accepted, the events are not the cause.
const MOST_REFUSED_WITHOUT_A_PASS: usize = 3;

/// An event to insert, with the caller that waits for it.
pub(crate) struct PendingInsert {
    pub(crate) event: NewEvent,
    pub(crate) answer: oneshot::Sender<InsertResult>,
}

impl PendingInsert {
    /// Whether the caller still waits.
    fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }
}

/// The waiting events, bounded in number and in bytes. A full queue stops the actor that fills it, so its mailbox fills,
/// which slows senders down.
pub(crate) struct Intake {
    queue: Mutex<Queue>,
    max_bytes: usize,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<PendingInsert>,
    bytes: usize,
    is_writing: bool,
}

#[derive(Default)]
struct State {
    is_full: bool,
    is_closed: bool,
}

impl Intake {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { queue: Mutex::default(), max_bytes, state: watch::Sender::default() }
    }

    /// Adds an event. Returns whether writing must be started.
    fn put(&self, waiting: PendingInsert) -> bool {
        let mut queue = self.queue();
        queue.bytes += waiting.event.size();
        queue.waiting.push(waiting);
        self.note_space(&queue);
        !std::mem::replace(&mut queue.is_writing, true)
    }

    /// The events to write next; `None` ends the writing.
    fn take(&self) -> Option<Vec<PendingInsert>> {
        let mut queue = self.queue();
        queue.waiting.retain(PendingInsert::is_wanted);
        let batch = std::mem::take(&mut queue.waiting);
        queue.bytes = 0;
        self.note_space(&queue);
        queue.is_writing = !batch.is_empty();
        queue.is_writing.then_some(batch)
    }

    fn note_space(&self, queue: &Queue) {
        let is_full = queue.waiting.len() >= MOST || queue.bytes >= self.max_bytes;
        self.state.send_if_modified(|state| std::mem::replace(&mut state.is_full, is_full) != is_full);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.state.borrow().is_full
    }

    /// Resolves when another event may be added, or when no more are accepted.
    pub(crate) fn space(&self) -> impl Future<Output = ()> + use<> {
        self.until(|state| !state.is_full || state.is_closed)
    }

    /// Resolves when the system has ended.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + use<> {
        self.until(|state| state.is_closed)
    }

    pub(crate) fn close(&self) {
        self.state.send_modify(|state| state.is_closed = true);
    }

    fn until<F: Fn(&State) -> bool>(&self, is_reached: F) -> impl Future<Output = ()> + use<F> {
        let mut state = self.state.subscribe();
        async move {
            // The sender is dropped only with the system.
            let _ = state.wait_for(|state| is_reached(state)).await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the writing, also if it panics.
struct Writing(Arc<SystemContext>);

impl Drop for Writing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.intake.queue().is_writing = false;
        }
    }
}

/// Queues an event. Events that arrive while a statement runs share the next one.
pub(crate) fn enqueue(context: &Arc<SystemContext>, waiting: PendingInsert) {
    if context.intake.put(waiting) {
        context.runtime.spawn(write_all(Writing(Arc::clone(context))));
    }
}

async fn write_all(writing: Writing) {
    let context = &writing.0;
    while let Some(batch) = context.intake.take() {
        write(context, batch).await;
    }
}

/// Inserts events together. A batch that the database refuses is halved until the refused events are alone, so that the
/// others are stored; a batch is not divided if the outcome is unknown or the cause is a state of the server.
async fn write(context: &Arc<SystemContext>, batch: Vec<PendingInsert>) {
    let mut statements_left = 16 * (batch.len().ilog2() as usize + 1);
    let (mut passed, mut refused) = (false, 0);
    // The first part is last in the list, so that the events of a key are written in order.
    let mut parts = vec![batch];
    while let Some(part) = parts.pop() {
        statements_left = statements_left.saturating_sub(1);
        let (part, failure) = match insert(context, part).await {
            Ok(()) => {
                passed = true;
                continue;
            }
            Err(failed) => failed,
        };
        let refusal = match failure {
            NotInserted::Answered(_) => context.store.refusal(events_of(&part)).await,
            NotInserted::InDoubt(_) => None,
        };
        match refusal {
            None => fail(part, &failure.into()),
            Some(refusal) if part.len() == 1 => {
                refused += 1;
                fail(part, &refusal.into());
            }
            Some(refusal) if statements_left == 0 || (!passed && refused >= MOST_REFUSED_WITHOUT_A_PASS) => {
                fail(part, &refused_with_others(refusal).into());
            }
            Some(_) => parts.extend(halves(part)),
        }
    }
}

/// Inserts events with one statement and answers their callers; returns the events that were not written.
async fn insert(
    context: &Arc<SystemContext>,
    part: Vec<PendingInsert>,
) -> Result<(), (Vec<PendingInsert>, NotInserted)> {
    let part = Arc::new(Mutex::new(part));
    // Filtered once there is a connection: the insert does not wait for callers that stopped waiting before.
    let take = {
        let part = Arc::clone(&part);
        move || {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.retain(PendingInsert::is_wanted);
            events_of(&part)
        }
    };
    let inserted = context.store.insert_each(Box::new(take)).await;
    let part = std::mem::take(&mut *part.lock().unwrap_or_else(PoisonError::into_inner));
    match inserted {
        Ok(stored) => {
            answer(context, part, stored);
            Ok(())
        }
        Err(failure) => Err((part, failure)),
    }
}

fn answer(context: &Arc<SystemContext>, part: Vec<PendingInsert>, stored: Vec<InsertResult>) {
    let lanes =
        || stored.iter().filter_map(|stored| stored.as_ref().ok()).map(|event| event.publisher_backend.as_str());
    context.announce(lanes().collect());
    unserved::check(context, lanes());
    for (waiting, stored) in part.into_iter().zip(stored) {
        // An event whose caller has stopped waiting is in the outbox all the same.
        let _ = waiting.answer.send(stored);
    }
}

fn fail(part: Vec<PendingInsert>, error: &PublishError) {
    for waiting in part {
        let _ = waiting.answer.send(Err(error.clone()));
    }
}

/// Turns a refusal into an error that does not blame this event.
fn refused_with_others(refusal: StoreError) -> StoreError {
    match refusal {
        StoreError::Query { operation, reason, .. } => StoreError::Query {
            operation,
            reason: format!("refused in a batch with other events, and the cause could not be isolated: {reason}"),
            transient: true,
        },
        other => other,
    }
}

fn halves(mut part: Vec<PendingInsert>) -> [Vec<PendingInsert>; 2] {
    let second = part.split_off(part.len() / 2);
    [second, part]
}

fn events_of(part: &[PendingInsert]) -> Vec<NewEvent> {
    part.iter().map(|waiting| waiting.event.clone()).collect()
}
