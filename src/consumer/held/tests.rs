use super::*;
use crate::backend::event_source::{EntryId, LeaseId};

const RECLAIM: Duration = Duration::from_secs(9);

fn entry(number: u64) -> EntryRef {
    EntryRef { stream: 0, id: EntryId { millis: 1, number } }
}

fn received(number: u64, bytes: usize) -> Received {
    Received { entry: entry(number), deliveries: 1, is_claimed: false, lease: None, bytes, event: Err(String::new()) }
}

fn held(concurrency: usize, max_bytes: usize) -> (Held, BootInstant) {
    (Held::new(concurrency, max_bytes, RECLAIM), BootInstant::now())
}

#[test]
fn a_consumer_reads_ahead_twice_its_concurrency_and_what_it_handled_lately() {
    let (held, now) = held(2, 1_000_000);
    assert_eq!(held.room(now), 4);
    for number in 0..4 {
        assert!(held.add(&received(number, 10), now));
    }
    assert_eq!(held.room(now), 0);
    held.remove((0..4).map(entry), now);
    assert_eq!(held.room(now), 4);
    for number in 10..110 {
        held.add(&received(number, 10), now);
    }
    held.remove((10..110).map(entry), now);
    assert_eq!(held.room(now), 104);
    assert_eq!(held.room(now.after(READ_AHEAD * 2)), 4);
}

#[test]
fn bytes_stop_reading_but_one_entry_is_always_read() {
    let (held, now) = held(8, 100);
    held.add(&received(1, 500), now);
    assert_eq!(held.room(now), 0);
    held.remove([entry(1)], now);
    assert_eq!(held.room(now), 1, "the next one may be as large");
    for number in 2..200 {
        held.add(&received(number, 5), now);
        held.remove([entry(number)], now);
    }
    assert_eq!(held.room(now.after(READ_AHEAD * 2)), 5, "the estimate comes close");
}

#[test]
fn no_more_entries_are_read_together_than_fit_if_they_are_as_large_as_those_before() {
    let (held, now) = held(100, 1_000);
    assert_eq!(held.room(now), 200, "no size is known");
    held.add(&received(1, 100), now);
    assert_eq!(held.room(now), 9);
    held.add(&received(2, 899), now);
    assert_eq!(held.room(now), 1);
    held.add(&received(3, 1), now);
    assert_eq!(held.room(now), 0);
}

#[test]
fn entries_that_wait_for_another_try_take_no_room_until_there_are_very_many() {
    let (held, now) = held(2, 1_000_000);
    let most = u64::try_from(MOST_WAITING).unwrap();
    for number in 0..most - 1 {
        held.add(&received(number, 10), now);
        held.set_waiting(entry(number));
    }
    assert_eq!(held.room(now), 1);
    held.add(&received(most, 10), now);
    held.set_waiting(entry(most));
    assert_eq!(held.room(now), 0);
    held.set_active(entry(0));
    held.remove([entry(1)], now);
    assert_eq!(held.room(now), 2);
    held.remove((0..=most).map(entry), now.after(READ_AHEAD * 2));
    assert_eq!(held.room(now.after(READ_AHEAD * 5)), 4);
    held.add(&received(9_999, 2_000_000), now);
    held.set_waiting(entry(9_999));
    assert_eq!(held.room(now.after(READ_AHEAD * 5)), 0, "its bytes are too many");
}

#[test]
fn entries_behind_others_of_their_key_keep_their_events_while_there_is_room() {
    let (held, now) = held(2, 1_000);
    for (number, bytes, keeps) in [(0, 600, true), (1, 300, true), (2, 300, false), (3, 100, true), (4, 1, false)] {
        held.add(&received(number, bytes), now);
        assert_eq!(held.wait_behind(entry(number)), keeps, "{number}");
        assert!(held.room(now) > 0);
    }
    assert!(!held.wait_behind(entry(4)), "it has no room when it is tried again");
    held.remove([entry(0)], now);
    assert!(held.wait_behind(entry(2)));
    held.set_active(entry(2));
    held.remove((0..5).map(entry), now);
    assert_eq!(held.state().sums.all, StageSums::default());
}

#[tokio::test]
async fn a_parked_entry_is_loaded_when_there_is_room_for_its_event() {
    let (held, now) = held(2, 1_000);
    for number in 0..4 {
        held.add(&received(number, 900), now);
    }
    let parked: Vec<bool> = (0..4).map(|number| held.wait_behind(entry(number))).collect();
    assert_eq!(parked, [true, false, false, false]);
    held.make_room_for(entry(1)).await;
    held.make_room_for(entry(2)).await;
    assert_eq!(held.bytes(), 3 * 900);
    let mut last = std::pin::pin!(held.make_room_for(entry(3)));
    assert!(futures_util::poll!(&mut last).is_pending());
    held.set_waiting(entry(1));
    last.await;
}

#[test]
fn what_waits_in_a_stream_that_refuses_calls_keeps_no_other_stream_from_being_read() {
    let (held, now) = held(2, 1_000);
    let most = u64::try_from(MOST_OF_A_REFUSING_STREAM).unwrap();
    for number in 0..most {
        assert_eq!(held.refusing(), BTreeSet::new());
        held.add(&received(number, 0), now);
        held.set_refused(entry(number));
    }
    assert_eq!((held.refusing(), held.room(now)), (BTreeSet::from([0]), 4));
    held.remove([entry(0)], now);
    assert_eq!(held.refusing(), BTreeSet::new());
    held.add(&received(0, 101), now);
    held.set_waiting(entry(0));
    assert_eq!((held.refusing(), held.waiting()), (BTreeSet::from([0]), 0));
    held.add(&received(most, 5_000), now);
    held.set_waiting(entry(most));
    assert!(held.room(now.after(READ_AHEAD * 2)) > 0);
    held.remove((1..most).map(entry), now);
    assert_eq!((held.refusing(), held.waiting()), (BTreeSet::new(), 2));
    assert_eq!(held.room(now.after(READ_AHEAD * 2)), 0, "the stream answers again, and its entries count");
}

#[test]
fn an_entry_that_is_here_is_not_added_again() {
    let (held, now) = held(8, 100);
    assert!(held.add(&received(1, 1), now));
    assert!(!held.add(&received(1, 1), now));
    assert_eq!(held.len(), 1);
}

#[test]
fn an_entry_of_a_leased_stream_is_not_renewed_and_its_stream_is_busy_until_it_is_removed() {
    let (held, now) = held(8, 100);
    held.add(&Received { lease: Some(LeaseId(1)), ..received(1, 1) }, now);
    let late = now.after(RECLAIM);
    assert!(held.due(late).is_empty());
    assert_eq!((held.hold(entry(1), late), held.streams()), (Hold::Ours, BTreeSet::from([0])));
    held.remove([entry(1)], now);
    assert_eq!((held.hold(entry(1), late), held.streams()), (Hold::Lost, BTreeSet::new()));
}

#[test]
fn an_entry_is_renewed_before_it_is_doubtful_and_doubtful_before_others_may_take_it() {
    let (held, now) = held(8, 100);
    held.add(&received(1, 1), now);
    let at = |seconds| now.after(Duration::from_secs(seconds));
    assert!(held.due(at(2)).is_empty());
    let due = held.due(at(3));
    assert_eq!(due.len(), 1);
    assert_eq!((held.hold(entry(1), at(5)), held.hold(entry(1), at(6))), (Hold::Ours, Hold::Doubtful));
    assert_eq!(held.renewed(&due, &[], at(4)), 0);
    assert_eq!(held.hold(entry(1), at(9)), Hold::Ours);
    assert_eq!(held.renewed(&due, &[entry(1)], at(9)), 1);
    assert_eq!(held.hold(entry(1), at(9)), Hold::Lost);
    assert!(held.due(at(99)).is_empty());
    assert_eq!(held.hold(entry(2), now), Hold::Lost);
}
