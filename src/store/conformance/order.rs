use super::Fixture;
use super::builders::*;
use crate::store::{DueKind, DueLane, LaneName, UnrecordedEvents};

pub(super) async fn the_first_unsettled_event_of_the_key_blocks<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::keyed("k").at(-50_000).status("published").insert(&fixture).await;
    let first = TestRow::keyed("k").at(-40_000).insert(&fixture).await;
    TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    let last = TestRow::keyed("k").at(-20_000).insert(&fixture).await;
    let alone = TestRow::keyed("l").insert(&fixture).await;
    let questions = [ask_before(&store, "k", last).await, ask_before(&store, "l", alone).await];
    let blockers = store.blockers(&lane(), false, &questions).await.unwrap();
    assert_eq!(blockers.len(), 1);
    assert_eq!(blockers["k"].id, first);
    assert_eq!(blockers["k"].position, position_of(&store, first).await);
    assert!(blockers["k"].due);
}

pub(super) async fn what_stands_before_the_place_asked_from_does_not_count<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::keyed("k").at(-50_000).insert(&fixture).await;
    let second = TestRow::keyed("k").at(-40_000).insert(&fixture).await;
    let failed = TestRow::keyed("k").at(-30_000).status("failed").insert(&fixture).await;
    let asked = TestRow::keyed("k").at(-20_000).insert(&fixture).await;
    let mut question = ask_before(&store, "k", asked).await;
    question.from = position_of(&store, second).await;
    let from_second = store.blockers(&lane(), true, std::slice::from_ref(&question)).await.unwrap();
    assert_eq!(from_second["k"].id, second, "the place itself counts");
    question.from = position_of(&store, failed).await;
    let from_failed = store.blockers(&lane(), true, std::slice::from_ref(&question)).await.unwrap();
    assert_eq!(from_failed["k"].id, failed);
    assert!(store.blockers(&lane(), false, &[question]).await.unwrap().is_empty());
}

pub(super) async fn an_event_that_has_no_place_yet_blocks_nobody<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for status in ["pending", "failed"] {
        TestRow::keyed("k").at(-40_000).status(status).insert(&fixture).await;
    }
    fixture.execute("UPDATE outbox_events SET seq = NULL").await;
    let asked = TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    let question = [ask_before(&store, "k", asked).await];
    assert!(store.blockers(&lane(), true, &question).await.unwrap().is_empty());
}

pub(super) async fn events_in_flight_and_later_ones_do_not_block<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let flying = TestRow::keyed("k").at(-40_000).insert(&fixture).await;
    let asked = TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    TestRow::keyed("k").at(-20_000).insert(&fixture).await;
    let mut question = ask_before(&store, "k", asked).await;
    let seq = position_of(&store, flying).await.seq;
    question.except.push((flying, seq));
    assert!(store.blockers(&lane(), false, &[question]).await.unwrap().is_empty());
}

pub(super) async fn an_event_with_the_id_of_one_in_flight_and_another_seq_blocks<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let again = TestRow::keyed("k").at(-40_000).insert(&fixture).await;
    let other = TestRow::keyed("k").at(-35_000).insert(&fixture).await;
    let asked = TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    let mut question = ask_before(&store, "k", asked).await;
    let seqs = [position_of(&store, again).await.seq - 1, position_of(&store, other).await.seq];
    question.except.extend([again, other].into_iter().zip(seqs));
    assert_eq!(store.blockers(&lane(), false, &[question]).await.unwrap()["k"].id, again);
}

pub(super) async fn a_retry_blocks_and_says_whether_it_is_due<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let waiting = TestRow::keyed("k").at(-40_000).retry_in(&fixture, 60_000).insert(&fixture).await;
    let due = TestRow::keyed("l").at(-40_000).retry_in(&fixture, -1000).insert(&fixture).await;
    let mut questions = Vec::new();
    for key in ["k", "l"] {
        let later = TestRow::keyed(key).at(-30_000).insert(&fixture).await;
        questions.push(ask_before(&store, key, later).await);
    }
    let blockers = store.blockers(&lane(), false, &questions).await.unwrap();
    assert_eq!((blockers["k"].id, blockers["k"].due), (waiting, false));
    assert_eq!((blockers["l"].id, blockers["l"].due), (due, true));
}

pub(super) async fn a_failed_event_blocks_only_where_it_holds_its_key<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let failed = TestRow::keyed("k").at(-50_000).status("failed").insert(&fixture).await;
    let pending = TestRow::keyed("k").at(-40_000).insert(&fixture).await;
    let asked = TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    let question = [ask_before(&store, "k", asked).await];
    let blockers = store.blockers(&lane(), true, &question).await.unwrap();
    assert_eq!((blockers["k"].id, blockers["k"].due), (failed, false));
    assert_eq!(store.blockers(&lane(), false, &question).await.unwrap()["k"].id, pending);
}

pub(super) async fn a_key_is_ordered_within_its_lane_alone<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::keyed("k").lane("other").at(-40_000).insert(&fixture).await;
    let asked = TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    let question = [ask_before(&store, "k", asked).await];
    assert!(store.blockers(&lane(), true, &question).await.unwrap().is_empty());
}

pub(super) async fn nothing_is_due_in_an_empty_lane_or_before_the_time<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::new().lane("other").insert(&fixture).await;
    TestRow::new().at(60_000).insert(&fixture).await;
    TestRow::new().status("published").insert(&fixture).await;
    TestRow::new().status("failed").insert(&fixture).await;
    assert!(!store.has_due(&[lane()], &[], &UnrecordedEvents::default()).await.unwrap());
    assert!(store.has_due(&[lane(), "other".into()], &[], &UnrecordedEvents::default()).await.unwrap());
}

pub(super) async fn one_question_tells_the_lanes_in_which_something_is_due<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let shards: Vec<i16> = (0..store.shards()).collect();
    let asked: Vec<(LaneName, Vec<i16>)> =
        ["", "due", "later", "retry", "untimed", "done"].map(|lane| (lane.into(), shards.clone())).into();
    assert_eq!(store.due_lanes(&asked).await.unwrap().lanes, []);
    TestRow::new().lane("due").insert(&fixture).await;
    TestRow::new().lane("unasked").insert(&fixture).await;
    TestRow::new().lane("later").at(60_000).insert(&fixture).await;
    TestRow::new().lane("later").retry_in(&fixture, 60_000).insert(&fixture).await;
    TestRow::new().lane("retry").retry_in(&fixture, -1000).insert(&fixture).await;
    TestRow::new().lane("untimed").status("retry").insert(&fixture).await;
    TestRow::new().lane("done").status("published").insert(&fixture).await;
    TestRow::new().lane("done").status("failed").insert(&fixture).await;
    let mut due = store.due_lanes(&asked).await.unwrap().lanes;
    due.sort_by_key(|due| due.lane.clone());
    let expected = [("due", DueKind::Pending), ("retry", DueKind::Retry), ("untimed", DueKind::Retry)];
    assert_eq!(due, expected.map(|(lane, kind)| DueLane { lane: lane.into(), kind }));
    assert_eq!(store.due_lanes(&[]).await.unwrap().lanes, []);
}

pub(super) async fn a_due_retry_is_due<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::new().retry_in(&fixture, 60_000).insert(&fixture).await;
    assert!(!store.has_due(&[lane()], &[], &UnrecordedEvents::default()).await.unwrap());
    TestRow::keyed("k").retry_in(&fixture, -1000).insert(&fixture).await;
    assert!(store.has_due(&[lane()], &[lane()], &UnrecordedEvents::default()).await.unwrap());
}

pub(super) async fn a_retry_without_a_time_is_due_by_its_schedule<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::new().at(60_000).status("retry").insert(&fixture).await;
    let behind = TestRow::keyed("k").at(120_000).retry_in(&fixture, -1000).insert(&fixture).await;
    assert_eq!(ids(&fetch_all(&store).await), [behind]);
    assert!(store.has_due(&[lane()], &[], &UnrecordedEvents::default()).await.unwrap());
    let first = TestRow::keyed("k").at(60_000).status("retry").insert(&fixture).await;
    let question = [ask_before(&store, "k", behind).await];
    let blockers = store.blockers(&lane(), false, &question).await.unwrap();
    assert_eq!((blockers["k"].id, blockers["k"].due), (first, false));
    assert!(
        !store.has_due(&[lane()], &[], &UnrecordedEvents::default()).await.unwrap(),
        "what is left waits for the schedule"
    );

    let due = TestRow::new().status("retry").insert(&fixture).await;
    assert!(ids(&fetch_all(&store).await).contains(&due));
    assert!(store.has_due(&[lane()], &[], &UnrecordedEvents::default()).await.unwrap());
}

pub(super) async fn what_waits_behind_a_pending_event_of_a_later_time_is_not_due<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::keyed("k").at(60_000).insert(&fixture).await;
    let behind = TestRow::keyed("k").at(120_000).retry_in(&fixture, -1000).insert(&fixture).await;
    let question = [ask_before(&store, "k", behind).await];
    assert!(!store.blockers(&lane(), false, &question).await.unwrap()["k"].due);
    assert!(!store.has_due(&[lane()], &[], &UnrecordedEvents::default()).await.unwrap());
}

pub(super) async fn what_waits_behind_a_retry_is_not_due<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::keyed("k").at(-40_000).retry_in(&fixture, 60_000).insert(&fixture).await;
    TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    TestRow::keyed("k").at(-20_000).retry_in(&fixture, -1000).insert(&fixture).await;
    assert!(!store.has_due(&[lane()], &[], &UnrecordedEvents::default()).await.unwrap());
    TestRow::keyed("k").at(-50_000).insert(&fixture).await;
    assert!(store.has_due(&[lane()], &[], &UnrecordedEvents::default()).await.unwrap());
}

pub(super) async fn what_cannot_be_recorded_is_not_due_and_blocks_its_key_if_it_was_rejected<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (first, alone) = (TestRow::keyed("k").insert(&fixture).await, TestRow::new().insert(&fixture).await);
    let sent = UnrecordedEvents { sent: vec![first, alone], blocking: Vec::new() };
    let rejected = UnrecordedEvents { sent: vec![alone], blocking: vec![first] };
    let is_due = async |unrecorded: &UnrecordedEvents| store.has_due(&[lane()], &[], unrecorded).await.unwrap();
    assert!(is_due(&UnrecordedEvents::default()).await);
    assert!(!is_due(&sent).await && !is_due(&rejected).await);
    TestRow::keyed("k").at(1_000).retry_in(&fixture, -1000).insert(&fixture).await;
    assert!(is_due(&sent).await && !is_due(&rejected).await);
    TestRow::new().insert(&fixture).await;
    assert!(is_due(&rejected).await);
}

pub(super) async fn what_waits_behind_a_failed_event_is_due_unless_the_lane_holds<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::keyed("k").at(-40_000).status("failed").insert(&fixture).await;
    TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    assert!(store.has_due(&[lane()], &["other".into()], &UnrecordedEvents::default()).await.unwrap());
    assert!(!store.has_due(&[lane()], &[lane()], &UnrecordedEvents::default()).await.unwrap());
}
