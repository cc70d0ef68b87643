use tokio::sync::Notify;

use super::*;
use crate::fixtures;
use crate::store::{Blocker, FetchedRow, PredecessorQuery};
use crate::system::credit::{Credit, CreditPermit};
use crate::system::delivery::Delivery;

const SHARD: i16 = 3;

fn in_flight() -> Arc<InFlight> {
    let in_flight = InFlight::new(Arc::from("orders"));
    in_flight.open(SHARD, 1);
    in_flight
}

fn permit(_: &FetchedRow) -> CreditPermit {
    Credit::new(100, 100, Arc::new(Notify::new())).take(0)
}

fn row(scheduled_at: i64, key: &str) -> FetchedRow {
    fixtures::fetched(SHARD, scheduled_at, key)
}

fn rows(all: &[&FetchedRow]) -> Vec<FetchedRow> {
    all.iter().map(|&row| row.clone()).collect()
}

/// Admits these rows with one whole fetch.
fn admit(in_flight: &Arc<InFlight>, all: &[&FetchedRow]) -> Vec<Delivery> {
    admit_by(&mut in_flight.begin_fetch(), rows(all))
}

/// Admits rows with a fetch that finds no blocker.
fn admit_by(fetch: &mut Fetch, rows: Vec<FetchedRow>) -> Vec<Delivery> {
    fetch.questions(&rows, BootInstant::now(), true);
    fetch.admit(rows, &HashMap::new(), permit).deliveries
}

fn admit_one(in_flight: &Arc<InFlight>, row: &FetchedRow) -> Delivery {
    let mut deliveries = admit(in_flight, &[row]);
    assert_eq!(deliveries.len(), 1);
    deliveries.remove(0)
}

fn admit_behind(in_flight: &Arc<InFlight>, blocker: &FetchedRow, due: bool, row: &FetchedRow) -> Vec<Delivery> {
    let blocker = Blocker { id: blocker.id, position: blocker.position, due };
    let (blockers, rows) = (HashMap::from([(row.partition_key.clone(), blocker)]), vec![row.clone()]);
    let mut fetch = in_flight.begin_fetch();
    fetch.questions(&rows, BootInstant::now(), true);
    fetch.admit(rows, &blockers, permit).deliveries
}

fn keys_to_reread(in_flight: &InFlight, most: usize) -> Vec<String> {
    in_flight.take_keys_to_reread(most).into_iter().map(|start| start.key).collect()
}

fn excepted(question: &PredecessorQuery) -> Vec<Uuid> {
    question.except.iter().map(|(id, _)| *id).collect()
}

fn ids(deliveries: &[Delivery]) -> Vec<Uuid> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

// R1.

#[test]
fn rows_of_a_shard_reopened_during_the_fetch_are_refused_and_reread() {
    let in_flight = in_flight();
    let (early, late) = (row(1, ""), row(2, ""));
    let mut fetch = in_flight.begin_fetch();
    in_flight.open(SHARD, 1);
    assert!(admit_by(&mut fetch, rows(&[&late, &early])).is_empty());
    assert_eq!(in_flight.take_rewinds(), HashMap::from([(SHARD, early.position)]), "from the first of them");
    assert_eq!(admit(&in_flight, &[&early, &late]).len(), 2);
}

#[test]
fn rows_of_a_shard_not_open_during_the_whole_fetch_are_refused() {
    let in_flight = in_flight();
    let row = row(1, "");
    let mut fetch = in_flight.begin_fetch();
    in_flight.close(SHARD);
    assert!(admit_by(&mut fetch, vec![row.clone()]).is_empty());
    let mut fetch = in_flight.begin_fetch();
    in_flight.open(SHARD, 1);
    assert!(admit_by(&mut fetch, vec![row.clone()]).is_empty());
    assert_eq!(admit(&in_flight, &[&row]).len(), 1);
}

#[test]
fn one_shards_new_session_does_not_touch_the_rows_of_another() {
    let in_flight = in_flight();
    in_flight.open(4, 1);
    let other = fixtures::fetched(4, 1, "");
    let mut fetch = in_flight.begin_fetch();
    in_flight.open(SHARD, 2);
    let admitted = admit_by(&mut fetch, vec![row(1, ""), other.clone()]);
    assert_eq!(ids(&admitted), [other.id]);
}

#[test]
fn a_delivery_of_an_earlier_session_is_not_current() {
    let in_flight = in_flight();
    let delivery = admit_one(&in_flight, &row(1, ""));
    assert!(delivery.is_current());
    in_flight.open(SHARD, 1);
    assert!(!delivery.is_current(), "the epoch is the same, the session is not");
}

#[test]
fn an_event_behind_one_that_is_recorded_while_it_is_read_is_read_again() {
    let in_flight = in_flight();
    let (first, second) = (row(1, "k"), row(2, "k"));
    let mut delivery = admit_one(&in_flight, &first);
    delivery.reject();
    let mut fetch = in_flight.begin_fetch();
    fetch.questions(std::slice::from_ref(&second), BootInstant::now(), true);
    let blocker = Blocker { id: first.id, position: first.position, due: true };
    delivery.settled(false);
    assert!(fetch.admit(vec![second], &HashMap::from([("k".to_owned(), blocker)]), permit).deliveries.is_empty());
    assert_eq!(keys_to_reread(&in_flight, 10), ["k"]);
}

// R2.

#[test]
fn what_is_in_flight_is_not_admitted_again() {
    let in_flight = in_flight();
    let row = row(1, "");
    let mut delivery = admit_one(&in_flight, &row);
    assert!(admit(&in_flight, &[&row, &row]).is_empty());
    delivery.accept();
    assert!(admit(&in_flight, &[&row]).is_empty());
    delivery.reject();
    assert!(admit(&in_flight, &[&row]).is_empty());
}

#[test]
fn an_event_that_comes_twice_in_one_fetch_is_admitted_once() {
    let row = row(1, "");
    assert_eq!(admit(&in_flight(), &[&row, &row]).len(), 1);
}

#[test]
fn a_settled_event_stays_until_every_fetch_that_began_before_is_over() {
    let in_flight = in_flight();
    let (event, other) = (row(1, ""), row(2, ""));
    let older = in_flight.begin_fetch();
    let delivery = admit_one(&in_flight, &event);
    let mut old = in_flight.begin_fetch();
    delivery.settled(false);
    assert!(!in_flight.is_busy(SHARD) && in_flight.is_empty(), "nothing waits for it");
    assert_eq!(in_flight.len(), 1);
    let newer = in_flight.begin_fetch();
    drop(older);
    let admitted = admit_by(&mut old, rows(&[&event, &other]));
    assert_eq!(ids(&admitted), [other.id], "it was read before it was settled");
    drop(admitted);
    drop(old);
    assert_eq!(in_flight.len(), 0, "a fetch that began later does not keep it");
    drop(newer);
}

#[test]
fn a_fetch_that_is_given_up_keeps_nothing() {
    let in_flight = in_flight();
    let delivery = admit_one(&in_flight, &row(1, ""));
    let stalled = in_flight.begin_fetch();
    delivery.settled(false);
    assert_eq!(in_flight.len(), 1);
    drop(stalled);
    assert_eq!(in_flight.len(), 0);
}

// R3.

#[test]
fn events_queued_ahead_or_accepted_let_the_next_of_their_key_go() {
    let in_flight = in_flight();
    let (first, second, third) = (row(1, "k"), row(2, "k"), row(3, "k"));
    let mut one = admit_one(&in_flight, &first);
    let two = admit_one(&in_flight, &second);
    one.accept();
    let three = admit_one(&in_flight, &third);
    assert!(!two.is_blocked() && !three.is_blocked());
}

#[test]
fn one_fetchs_rows_of_a_key_leave_in_their_order() {
    let (first, second, third) = (row(1, "k"), row(2, "k"), row(3, "k"));
    let in_flight = in_flight();
    let deliveries = admit(&in_flight, &[&third, &first, &second]);
    assert_eq!(ids(&deliveries), [first.id, second.id, third.id]);
}

#[test]
fn an_event_is_blocked_by_an_unsettled_earlier_one_and_not_by_a_later_one() {
    let in_flight = in_flight();
    let (first, second, third) = (row(1, "k"), row(2, "k"), row(3, "k"));
    assert!(admit_behind(&in_flight, &first, false, &second).is_empty());
    assert!(!in_flight.has_keys_to_reread(), "a blocker that is not due is not read either");
    assert_eq!(admit_behind(&in_flight, &third, false, &second).len(), 1);
}

#[test]
fn a_due_blocker_makes_its_key_wanted_from_the_start() {
    let in_flight = in_flight();
    let (first, second) = (row(1, "k"), row(2, "k"));
    assert!(admit_behind(&in_flight, &first, true, &second).is_empty());
    assert_eq!(keys_to_reread(&in_flight, 10), ["k"]);
    assert!(!in_flight.has_keys_to_reread());
}

#[test]
fn a_rejected_event_blocks_what_is_read_and_what_is_on_its_way() {
    let in_flight = in_flight();
    let (first, second, third) = (row(1, "k"), row(2, "k"), row(3, "k"));
    let mut one = admit_one(&in_flight, &first);
    let two = admit_one(&in_flight, &second);
    let (other, free) = (admit_one(&in_flight, &row(2, "l")), admit_one(&in_flight, &row(2, "")));
    one.reject();
    assert!(two.is_blocked());
    assert!(!one.is_blocked(), "not by itself");
    assert!(!other.is_blocked() && !free.is_blocked());
    assert!(admit(&in_flight, &[&third]).is_empty());
}

#[test]
fn an_event_settled_as_a_retry_blocks_while_older_fetches_are_under_way() {
    let in_flight = in_flight();
    let (first, second) = (row(1, "k"), row(2, "k"));
    let mut one = admit_one(&in_flight, &first);
    one.reject();
    let mut old = in_flight.begin_fetch();
    one.settled(true);
    // The old fetch queried the key before the retry was recorded, and so names no blocker.
    assert!(admit_by(&mut old, vec![second.clone()]).is_empty());
    drop(old);
    assert_eq!(in_flight.len(), 0);
    assert!(admit_behind(&in_flight, &first, false, &second).is_empty(), "from now on the database says so");
    assert_eq!(admit(&in_flight, &[&second]).len(), 1);
}

/// The first of three is rejected, which releases the second, and fails finally while the third is being read.
#[test]
fn no_event_being_fetched_overtakes_one_released_behind_a_rejected_one() {
    let in_flight = in_flight();
    let (first, second, third) = (row(1, "k"), row(2, "k"), row(3, "k"));
    let mut deliveries = admit(&in_flight, &[&first, &second]);
    let (mut refused, released) = (deliveries.remove(0), deliveries.remove(0));
    let mut fetch = in_flight.begin_fetch();
    let asked = fetch.questions(&rows(&[&third]), BootInstant::now(), true);
    assert_eq!(excepted(&asked[0]), [first.id, second.id, third.id], "they are on their way");
    refused.reject();
    drop(released);
    refused.settled(false);
    assert!(fetch.admit(rows(&[&third]), &HashMap::new(), permit).deliveries.is_empty());
    assert_eq!(in_flight.lock().released.len(), 1);
    drop(fetch);
    assert!(in_flight.lock().released.is_empty(), "no fetch needs it any more");
    assert_eq!(in_flight.take_rewinds().get(&SHARD), Some(&second.position), "the second is read again");
    assert_eq!(keys_to_reread(&in_flight, 1), ["k"]);
    assert_eq!(ids(&admit(&in_flight, &[&second, &third])), [second.id, third.id]);
}

/// The third was queued already, for a later batch.
#[test]
fn no_queued_event_overtakes_one_released_behind_a_rejected_one() {
    let in_flight = in_flight();
    let (first, second, third) = (row(1, "k"), row(2, "k"), row(3, "k"));
    let mut deliveries = admit(&in_flight, &[&first, &second, &third]);
    let (mut refused, released, queued) = (deliveries.remove(0), deliveries.remove(0), deliveries.remove(0));
    refused.reject();
    drop(released);
    refused.settled(false);
    assert!(queued.is_blocked());
    drop(queued);
    assert_eq!(ids(&admit(&in_flight, &[&second, &third])), [second.id, third.id]);
}

#[test]
fn events_without_a_key_wait_for_nothing() {
    let in_flight = in_flight();
    let mut rejected = admit_one(&in_flight, &row(1, ""));
    rejected.reject();
    let next = admit_one(&in_flight, &row(2, ""));
    assert!(!next.is_blocked());
}

#[test]
fn an_unreadable_row_blocks_its_key_and_is_returned_with_the_reason() {
    let in_flight = in_flight();
    let (mut broken, next) = (row(1, "k"), row(2, "k"));
    broken.event = Err("nonsense".to_owned());
    let mut fetch = in_flight.begin_fetch();
    fetch.questions(&rows(&[&broken, &next]), BootInstant::now(), true);
    let admitted = fetch.admit(rows(&[&broken, &next]), &HashMap::new(), permit);
    assert!(admitted.deliveries.is_empty());
    assert_eq!((admitted.unreadable[0].0.id, admitted.unreadable[0].1.as_str()), (broken.id, "nonsense"));
}

#[test]
fn a_predecessor_query_excludes_events_in_flight_and_those_just_read() {
    let in_flight = in_flight();
    let (first, second, third, free) = (row(1, "k"), row(2, "k"), row(3, "k"), row(1, ""));
    let _one = admit_one(&in_flight, &first);
    let mut fetch = in_flight.begin_fetch();
    let questions = fetch.questions(&rows(&[&first, &second, &third, &free]), BootInstant::now(), true);
    assert_eq!(questions.len(), 1);
    assert_eq!((questions[0].key.as_str(), questions[0].before), ("k", third.position));
    assert_eq!(excepted(&questions[0]), [first.id, second.id, third.id]);
    assert!(fetch.questions(&rows(&[&first, &free]), BootInstant::now(), true).is_empty());
}

// Blocked keys.

#[test]
fn a_key_that_waits_is_wanted_when_its_event_in_flight_is_done() {
    let in_flight = in_flight();
    let (first, second) = (row(1, "k"), row(2, "k"));
    let mut one = admit_one(&in_flight, &first);
    one.reject();
    assert!(admit(&in_flight, &[&second]).is_empty());
    assert!(!in_flight.has_keys_to_reread());
    one.settled(false);
    assert_eq!(keys_to_reread(&in_flight, 10), ["k"], "it failed for good and does not hold its key");
}

#[test]
fn a_key_behind_a_retry_is_wanted_when_the_retry_is_done() {
    let in_flight = in_flight();
    let (first, second) = (row(1, "k"), row(2, "k"));
    admit_one(&in_flight, &first).settled(true);
    assert!(!in_flight.has_keys_to_reread());
    assert!(admit_behind(&in_flight, &first, false, &second).is_empty());
    admit_one(&in_flight, &first).settled(false);
    assert_eq!(keys_to_reread(&in_flight, 10), ["k"]);
    admit_one(&in_flight, &second).settled(false);
    assert!(!in_flight.has_keys_to_reread(), "nothing waits any more");
}

#[test]
fn handlers_that_are_owed_an_event_behind_another_are_named_when_that_is_settled() {
    let in_flight = in_flight();
    let (first, second, third) = (row(1, "k"), row(2, "k"), row(3, "k"));
    let [one, two, three] = [&first, &second, &third].map(|row| admit_one(&in_flight, row));
    let mail = ["mail".to_owned()];
    three.note_owing(&mail);
    assert!(three.settled(false).contains("mail"), "two others precede it");
    assert!(one.settled(false).contains("mail"), "another one precedes it");
    assert!(two.settled(false).contains("mail"));
    let fourth = row(4, "k");
    assert!(admit_one(&in_flight, &fourth).settled(false).is_empty(), "nothing waits any more");
}

#[test]
fn a_handler_that_is_owed_an_event_behind_a_retry_is_named_when_that_is_done() {
    let in_flight = in_flight();
    let (first, second, alone) = (row(1, "k"), row(2, "k"), row(3, "other"));
    let [one, two, other] = [&first, &second, &alone].map(|row| admit_one(&in_flight, row));
    assert!(one.settled(true).is_empty(), "it is tried again");
    for delivery in [&two, &other] {
        delivery.note_owing(&["mail".to_owned()]);
    }
    assert!(two.settled(false).contains("mail"));
    assert!(other.settled(false).is_empty(), "no other precedes it");
    in_flight.close(SHARD);
    in_flight.open(SHARD, 1);
    assert!(admit_one(&in_flight, &first).settled(false).contains("mail"), "also under another session");
}

#[test]
fn keys_whose_handlers_were_woken_make_room_for_others() {
    let in_flight = in_flight();
    let most = 10_000;
    for number in 0..most + 10 {
        let key = format!("k{number}");
        let (first, second) = (row(2 * number, &key), row(2 * number + 1, &key));
        let [one, two] = [&first, &second].map(|row| admit_one(&in_flight, row));
        assert!(one.settled(true).is_empty());
        two.note_owing(&["mail".to_owned()]);
        assert!(two.settled(false).contains("mail"), "{key}");
        let retried = admit_one(&in_flight, &first);
        assert!(retried.settled(false).contains("mail"), "{key}");
        in_flight.take_keys_to_reread(10);
        in_flight.note_empty_key(&key);
    }
}

#[test]
fn wanted_keys_are_taken_a_few_at_a_time() {
    let in_flight = in_flight();
    ["a", "b", "c"].iter().for_each(|key| in_flight.reread_key(key));
    assert_eq!(keys_to_reread(&in_flight, 2), ["a", "b"]);
    assert_eq!(keys_to_reread(&in_flight, 2), ["c"]);
}

// Dropped deliveries.

#[test]
fn a_ticket_dropped_before_it_was_accepted_gives_its_event_back() {
    let in_flight = in_flight();
    let (first, second) = (row(1, ""), row(2, ""));
    drop(admit(&in_flight, &[&first, &second]));
    assert_eq!(in_flight.take_rewinds(), HashMap::from([(SHARD, first.position)]));
    assert!(in_flight.session(SHARD).is_some(), "its session is not in doubt");
    assert_eq!(admit(&in_flight, &[&first, &second]).len(), 2);
}

#[test]
fn a_ticket_dropped_after_it_was_accepted_closes_its_shard() {
    let in_flight = in_flight();
    in_flight.open(4, 1);
    let row = row(1, "");
    let mut delivery = admit_one(&in_flight, &row);
    delivery.accept();
    drop(delivery);
    assert!(in_flight.session(SHARD).is_none() && in_flight.session(4).is_some());
    assert_eq!(in_flight.take_rewinds(), HashMap::from([(SHARD, row.position)]));
}

#[test]
fn a_rejected_events_ticket_that_is_dropped_frees_its_key() {
    let in_flight = in_flight();
    let (first, second) = (row(1, "k"), row(2, "k"));
    let mut one = admit_one(&in_flight, &first);
    one.reject();
    drop(one);
    in_flight.open(SHARD, 1);
    assert_eq!(ids(&admit(&in_flight, &[&first, &second])), [first.id, second.id]);
}

// Events found in the journal.

#[test]
fn what_the_journal_holds_is_adopted_as_accepted_under_the_new_epoch() {
    let in_flight = in_flight();
    in_flight.close(SHARD);
    let (sent, next) = (row(1, "k"), row(2, "k"));
    let fetch = in_flight.begin_fetch();
    let mut deliveries =
        fetch.adopt(vec![sent.clone()], &HashMap::from([(SHARD, 9)]), &HashMap::new(), permit).unwrap();
    drop(fetch);
    assert!(deliveries[0].is_accepted());
    assert_eq!(deliveries[0].session.epoch, 9);
    in_flight.open(SHARD, 9);
    assert_eq!(ids(&admit(&in_flight, &[&sent, &next])), [next.id], "it is not sent again, and lets its key go on");
    deliveries.remove(0).settled(false);
}

/// The first waits for the retry of a handler, which the next fetch brings.
#[test]
fn a_journaled_event_is_not_handled_before_an_earlier_one_of_its_key() {
    let in_flight = in_flight();
    in_flight.close(SHARD);
    let (waiting, sent, other) = (row(1, "k"), row(2, "k"), row(3, "other"));
    let mut fetch = in_flight.begin_fetch();
    let rows = vec![sent.clone(), other.clone()];
    assert_eq!(fetch.questions(&rows, BootInstant::now(), true).len(), 2);
    let blocker = Blocker { id: waiting.id, position: waiting.position, due: false };
    let blockers = HashMap::from([("k".to_owned(), blocker)]);
    let deliveries = fetch.adopt(rows, &HashMap::from([(SHARD, 9)]), &blockers, permit).unwrap();
    let blocked: Vec<bool> = deliveries.iter().map(Delivery::is_blocked).collect();
    assert_eq!((ids(&deliveries), blocked), (vec![sent.id, other.id], vec![true, false]));
}

#[test]
fn what_is_in_flight_or_of_another_shard_is_not_adopted() {
    let in_flight = in_flight();
    let (here, elsewhere) = (row(1, ""), fixtures::fetched(9, 1, ""));
    let _ticket = admit_one(&in_flight, &here);
    let fetch = in_flight.begin_fetch();
    let adopted =
        fetch.adopt(vec![here.clone(), elsewhere], &HashMap::from([(SHARD, 1)]), &HashMap::new(), permit).unwrap();
    assert!(adopted.is_empty());
    assert_eq!(in_flight.ids(), [here.id]);
}

/// This worker lost the shard before it could record what it sent. Another one recorded it, an operator replayed it, the
/// other sent it again and died, and the shard is back.
#[test]
fn a_journaled_replay_is_not_sent_again_once_its_original_is_recorded() {
    let in_flight = in_flight();
    let before = row(1, "");
    let mut delivery = admit_one(&in_flight, &before);
    delivery.accept();
    in_flight.close(SHARD);
    let mut replayed = before.clone();
    replayed.position.seq += 1;
    let found =
        || in_flight.begin_fetch().adopt(vec![replayed.clone()], &HashMap::from([(SHARD, 3)]), &HashMap::new(), permit);
    assert!(found().is_none(), "the shard stays closed");
    delivery.settled(false);
    let adopted = found().unwrap();
    in_flight.open(SHARD, 3);
    assert_eq!(ids(&adopted), [replayed.id]);
    assert!(admit(&in_flight, &[&replayed]).is_empty(), "it is in the stream");
}

/// The event was recorded, and an operator replayed it or a writer published its id again, before it left the memory.
#[test]
fn an_event_with_the_id_of_one_in_flight_waits_for_it_and_holds_its_key() {
    let in_flight = in_flight();
    let (first, later) = (row(1, "k"), row(3, "k"));
    let mut again = first.clone();
    again.position = row(2, "k").position;
    let mut delivery = admit_one(&in_flight, &first);
    delivery.accept();
    assert!(admit(&in_flight, &[&again]).is_empty());
    let mut fetch = in_flight.begin_fetch();
    let questions = fetch.questions(&rows(&[&again, &later]), BootInstant::now(), true);
    assert_eq!(
        questions[0].except,
        [(first.id, 1), (later.id, 3)],
        "the database is asked for the one with another seq"
    );
    drop(fetch);
    assert!(admit_behind(&in_flight, &again, true, &later).is_empty());
    assert!(!in_flight.has_keys_to_reread(), "it cannot be admitted yet");
    delivery.settled(false);
    assert_eq!(keys_to_reread(&in_flight, 10), ["k"]);
    assert_eq!(ids(&admit(&in_flight, &[&again, &later])), [again.id, later.id]);
}

#[test]
fn an_event_with_the_id_of_one_in_flight_holds_its_own_key_if_that_is_another() {
    let in_flight = in_flight();
    let (first, mut again, later) = (row(1, "k"), row(2, "k2"), row(3, "k2"));
    again.id = first.id;
    let mut delivery = admit_one(&in_flight, &first);
    delivery.accept();
    assert!(admit(&in_flight, &[&again]).is_empty());
    let questions = in_flight.begin_fetch().questions(&rows(&[&later]), BootInstant::now(), true);
    assert_eq!(questions.len(), 1, "its key is not known to be free");
    assert!(admit_behind(&in_flight, &again, true, &later).is_empty());
    delivery.settled(false);
    assert_eq!(keys_to_reread(&in_flight, 10), ["k2"]);
    assert_eq!(ids(&admit(&in_flight, &[&again, &later])), [again.id, later.id]);
}

#[test]
fn an_event_without_a_key_is_read_again_once_the_one_with_its_id_has_left_the_memory() {
    let in_flight = in_flight();
    let first = row(1, "");
    let mut again = first.clone();
    again.position.seq += 1;
    let delivery = admit_one(&in_flight, &first);
    assert!(admit(&in_flight, &[&again]).is_empty());
    assert!(in_flight.take_rewinds().is_empty());
    delivery.settled(false);
    assert_eq!(in_flight.take_rewinds(), HashMap::from([(SHARD, again.position)]));
    assert_eq!(ids(&admit(&in_flight, &[&again])), [again.id]);
}

/// R2's race by construction, on a real database: a sweep whose snapshot is older than a settle.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_sweep_with_a_snapshot_older_than_a_settle_does_not_refetch_the_event() {
    use crate::store::conformance::Fixture;
    use crate::store::postgres::fixture::PostgresFixture;
    use crate::store::{FetchRequest, Range};
    use crate::test_support::{PATIENCE, eventually};

    let fixture = PostgresFixture::fresh().await;
    let store = fixture.store();
    let insert = |n: i32| {
        format!(
            "INSERT INTO outbox_events (id, event_type, source, publisher_backend, scheduled_at) \
             VALUES (gen_random_uuid(), 't', 's', 'orders', now() - interval '{n} seconds')"
        )
    };
    fixture.execute(&insert(2)).await;
    let lane: LaneName = Arc::from("orders");
    let all = |shard| Range { shard, from: Position::START, to: None, limit: 100 };
    let everything = FetchRequest::of_ranges(Arc::clone(&lane), (0..store.shards()).map(all).collect());
    let in_flight = InFlight::new(lane);
    (0..store.shards()).for_each(|shard| in_flight.open(shard, 1));
    let mut fetch = in_flight.begin_fetch();
    let first = store.fetch(&everything).await.unwrap().rows;
    let mut deliveries = admit_by(&mut fetch, first);
    drop(fetch);
    let mut delivery = deliveries.remove(0);
    let (id, seq) = (delivery.id, delivery.position.seq);
    delivery.accept();
    fixture.execute(&insert(1)).await;

    // The sweep reads through a view, at whose first row it waits: its statement has its snapshot by then.
    let mut sweep = in_flight.begin_fetch();
    fixture
        .execute(
            "CREATE FUNCTION stop_here() RETURNS boolean LANGUAGE plpgsql VOLATILE AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock(17); RETURN true; END $$; \
             ALTER TABLE outbox_events RENAME TO outbox_rows; \
             CREATE VIEW outbox_events AS SELECT *, xmin, ctid FROM outbox_rows WHERE stop_here();",
        )
        .await;
    let mut gate = fixture.begin().await;
    gate.execute("SELECT pg_advisory_xact_lock(17)").await;
    let asked = tokio::spawn({
        let (store, everything) = (fixture.store(), everything.clone());
        async move { store.fetch(&everything).await.unwrap().rows }
    });
    eventually("the sweep has its snapshot and waits", PATIENCE, async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        fixture.number(waiting).await == 1
    })
    .await;
    fixture
        .execute(&format!(
            "UPDATE outbox_rows SET status = 'published', published_at = now() WHERE id = '{id}' AND seq = {seq}"
        ))
        .await;
    delivery.settled(false);
    gate.commit().await;
    let rows = tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();
    assert!(rows.iter().any(|row| row.id == id), "its snapshot is older than the settle");
    assert_eq!(rows.len(), 2);
    let admitted = admit_by(&mut sweep, rows);
    assert_eq!(admitted.len(), 1);
    assert!(admitted.iter().all(|delivery| delivery.id != id));
    drop(sweep);
    assert!(!in_flight.ids().contains(&id), "the event leaves with the last fetch that could have seen it");
}

#[test]
fn a_blocked_key_with_very_many_events_is_left_out_until_one_of_them_can_be_sent() {
    let in_flight = in_flight();
    let blocker = row(0, "k");
    let many: Vec<FetchedRow> = (1..=600).map(|n| row(n, "k")).collect();
    let read = |in_flight: &Arc<InFlight>| {
        let blocked = Blocker { id: blocker.id, position: blocker.position, due: false };
        let mut fetch = in_flight.begin_fetch();
        fetch.questions(&many, BootInstant::now(), true);
        fetch.admit(many.clone(), &HashMap::from([("k".to_owned(), blocked)]), permit).deliveries
    };
    assert!(read(&in_flight).is_empty());
    assert_eq!(in_flight.take_heavy_keys(&[SHARD + 1]), ["k"]);
    assert!(keys_to_reread(&in_flight, 10).is_empty(), "its shard's sweep has not begun again");
    assert_eq!(in_flight.take_heavy_keys(&[SHARD]), ["k"]);
    assert_eq!(keys_to_reread(&in_flight, 10), ["k"]);
    let left_out = (0..200).filter(|_| !in_flight.take_heavy_keys(&[SHARD]).is_empty()).count();
    assert_eq!(left_out, 198, "one sweep in a hundred reads it, too");
    let sent = admit_one(&in_flight, &many[0]);
    assert!(in_flight.take_heavy_keys(&[SHARD]).is_empty(), "its events are read like any other's");
    drop(sent);

    assert!(read(&in_flight).is_empty());
    in_flight.note_empty_key("k");
    assert!(in_flight.take_heavy_keys(&[SHARD]).is_empty());
    assert!(read(&in_flight).is_empty());
    in_flight.forget_blocked_keys(&[SHARD]);
    assert!(in_flight.take_heavy_keys(&[SHARD]).is_empty(), "another worker may have it");
}
