//! Writes whose connection is cut at one of the server's answers, whichever it is, also at that of the commit.

use std::sync::Arc;

use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use super::handlers::{accept, announce};
use crate::PublishError;
use crate::event::Status;
use crate::publish::NewEvent;
use crate::store::{Acceptance, Care, HandledDelivery, Result, Settled, Store};
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::{PATIENCE, eventually};

/// A database that is reached over the network.
pub(crate) trait ServerFixture: Fixture {
    /// The port of an address that names none.
    const PORT: u16;

    fn url(&self) -> String;

    /// A store on the same database, at another address.
    fn store_at(&self, url: &str) -> Arc<dyn Store>;
}

/// A store of which each connection is cut after this many answers.
async fn cut_after<F: ServerFixture>(fixture: &F, answers: usize) -> (Proxy, Arc<dyn Store>) {
    let mut url = url::Url::parse(&fixture.url()).unwrap();
    let proxy = Proxy::to(url.port().unwrap_or(F::PORT)).await;
    proxy.set(Passage::CutAfterReplies(answers));
    url.set_port(Some(proxy.port())).unwrap();
    (proxy, fixture.store_at(url.as_str()))
}

/// What a write knows whose connection is cut after some answers.
enum Told {
    Everything,
    /// The answer to a commit, or an earlier one, was lost.
    Nothing {
        is_committed: bool,
    },
}

impl Told {
    /// An error says that the write may be repeated.
    fn by(told: Result<()>, is_committed: bool) -> Self {
        match told {
            Ok(()) => {
                assert!(is_committed);
                Self::Everything
            }
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                Self::Nothing { is_committed }
            }
        }
    }
}

/// Cuts a write at each answer of the server, again and again until the answer to a commit was among them: answers
/// that follow each other closely arrive, and are counted, as one.
async fn at_each_answer(write: impl AsyncFn(usize) -> Told) {
    for _ in 0..20 {
        let mut committed = 0;
        for answers in 0.. {
            match write(answers).await {
                Told::Everything => break,
                Told::Nothing { is_committed } => committed += usize::from(is_committed),
            }
        }
        if committed > 0 {
            return;
        }
    }
    panic!("no answer to a commit was lost");
}

/// Repeats a settle while the transaction of an earlier execution, whose connection is cut, holds the row.
async fn until_free(settle: impl AsyncFn() -> Vec<Settled>) {
    let mut outcomes = Vec::new();
    eventually("the row is not locked", PATIENCE, async || {
        outcomes = settle().await;
        outcomes != [Settled::Locked]
    })
    .await;
    assert!(matches!(outcomes[..], [Settled::Recorded | Settled::Superseded]), "{outcomes:?}");
}

pub(super) async fn an_insert_whose_answer_is_lost_may_be_repeated<F: ServerFixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    at_each_answer(async |answers| {
        let (_proxy, cut) = cut_after(&fixture, answers).await;
        let id = Uuid::now_v7();
        let event = NewEvent::new("t", "s").id(id);
        let told = cut.insert(vec![event.clone()]).await;
        let earlier = store.find(id).await.unwrap();
        let stored = store.insert(vec![event]).await.unwrap();
        assert!(earlier.as_ref().is_none_or(|earlier| *earlier == stored[0]), "after {answers} answers");
        let told = told.map(|told| assert_eq!(told, stored)).map_err(|error| match error {
            PublishError::Store(error) => error,
            other => panic!("{other}"),
        });
        Told::by(told, earlier.is_some())
    })
    .await;
}

/// Settles that owe a handler nothing or something, and that delete.
pub(super) async fn a_settle_whose_answer_is_lost_is_repeated_and_counts_once<F: ServerFixture>() {
    let fixture = F::fresh().await;
    settle_at_each_answer(&fixture, Status::Published, false).await;
    settle_at_each_answer(&fixture, Status::Published, true).await;
    announce(&fixture.store(), &[("mail", "*")]).await;
    settle_at_each_answer(&fixture, Status::Processing, false).await;
}

async fn settle_at_each_answer<F: ServerFixture>(fixture: &F, settled: Status, deletes: bool) {
    let store = fixture.store();
    at_each_answer(async |answers| {
        let (_proxy, cut) = cut_after(fixture, answers).await;
        let id = TestRow::new().insert(fixture).await;
        let seq = find(&store, id).await.seq;
        let event = [Acceptance { deletes, ..accepted(&[(id, seq)]).remove(0) }];
        let told = cut.settle_published(&event, Care::Usual).await;
        let earlier = store.find(id).await.unwrap();
        let is_settled = earlier.as_ref().is_none_or(|earlier| earlier.status == settled);
        until_free(async || outcomes(store.settle_published(&event, Care::AfterDoubt).await.unwrap())).await;

        let event = store.find(id).await.unwrap();
        assert_eq!(event.is_none(), deletes);
        assert!(event.as_ref().is_none_or(|event| event.status == settled), "after {answers} answers");
        assert!(!is_settled || event.map(|event| event.published_at) == earlier.map(|event| event.published_at));
        let deliveries = format!("SELECT count(*) FROM outbox_handler_deliveries WHERE event_id = {}", fixture.id(id));
        assert_eq!(fixture.number(&deliveries).await, i64::from(settled == Status::Processing));
        Told::by(told.map(drop), is_settled)
    })
    .await;
}

pub(super) async fn a_rejection_whose_answer_is_lost_is_repeated_and_counts_once<F: ServerFixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    at_each_answer(async |answers| {
        let (_proxy, cut) = cut_after(&fixture, answers).await;
        let id = TestRow::new().insert(&fixture).await;
        let rejection = [worker.reject(&fetch_one(&store, id).await)];
        let told = cut.settle_rescheduled(worker.id, &rejection).await;
        let earlier = find(&store, id).await;
        let is_settled = earlier.status == Status::Retry;
        until_free(async || outcomes(store.settle_rescheduled(worker.id, &rejection).await.unwrap())).await;

        let event = find(&store, id).await;
        assert_eq!((event.status, event.retry_count), (Status::Retry, 1), "after {answers} answers");
        assert!(!is_settled || event == earlier);
        Told::by(told.map(drop), is_settled)
    })
    .await;
}

pub(super) async fn a_handlers_answer_that_is_lost_is_repeated_and_ends_the_event<F: ServerFixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("mail", "*")]).await;
    at_each_answer(async |answers| {
        let (_proxy, cut) = cut_after(&fixture, answers).await;
        let id = TestRow::new().insert(&fixture).await;
        accept(&store, id, &[], &[]).await;
        let handled = [HandledDelivery::kept("mail", id, find(&store, id).await.seq)];
        let told = cut.settle_handled(&handled, Care::Usual).await;
        let is_settled = find(&store, id).await.status == Status::Published;
        until_free(async || store.settle_handled(&handled, Care::AfterDoubt).await.unwrap()).await;
        assert_eq!(find(&store, id).await.status, Status::Published, "after {answers} answers");
        Told::by(told.map(drop), is_settled)
    })
    .await;
}
