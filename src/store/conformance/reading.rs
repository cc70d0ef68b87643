use super::Fixture;
use super::builders::*;
use crate::store::{ExceptedEvent, FetchRequest, KeyStart, Position, PredecessorQuery};

pub(super) async fn due_events_come_in_the_order_of_their_schedule<F: Fixture>() {
    let fixture = F::fresh().await;
    let third = TestRow::keyed("k").at(-10_000).insert(&fixture).await;
    let first = TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    let second = TestRow::keyed("k").at(-20_000).insert(&fixture).await;
    assert_eq!(ids(&fetch_all(&fixture.store()).await), [first, second, third]);
}

pub(super) async fn an_event_is_read_only_when_its_time_has_come<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = TestRow::new().at(60_000).insert(&fixture).await;
    assert!(fetch_all(&store).await.is_empty());
    fixture.execute(&format!("UPDATE outbox_events SET scheduled_at = {}", fixture.time(0))).await;
    assert_eq!(ids(&fetch_all(&store).await), [id]);
}

pub(super) async fn a_range_excludes_both_its_ends_and_keeps_its_limit<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut events = Vec::new();
    for n in 0..5 {
        events.push(TestRow::keyed("k").at(-60_000 + n).insert(&fixture).await);
    }
    let all = fetch_all(&store).await;
    let mut request = everything(&store);
    request.ranges.retain(|range| range.shard == all[0].shard);
    request.ranges[0].from = all[0].position;
    request.ranges[0].to = Some(all[4].position);
    assert_eq!(ids(&store.fetch(&request).await.unwrap().rows), events[1..4]);
    request.ranges[0].limit = 2;
    assert_eq!(ids(&store.fetch(&request).await.unwrap().rows), events[1..3]);
}

pub(super) async fn a_range_leaves_out_the_events_of_some_keys_and_its_limit_counts_the_others<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut others = Vec::new();
    for n in 0..4 {
        TestRow::keyed("the \"heavy\" one").at(-60_000 + n).insert(&fixture).await;
        others.push(TestRow::new().at(-30_000 + n).insert(&fixture).await);
    }
    others.push(TestRow::keyed("other").at(-20_000).insert(&fixture).await);
    let mut request = everything(&store);
    request.except_keys = vec!["absent".to_owned(), "the \"heavy\" one".to_owned()];
    request.ranges.iter_mut().for_each(|range| range.limit = 5);
    let found = store.fetch(&request).await.unwrap().rows;
    let mut found: Vec<_> = found.iter().filter(|row| row.in_range).map(|row| row.id).collect();
    found.sort();
    others.sort();
    assert_eq!(found, others);
}

/// As by a replay: it is in memory in another place than in the table.
pub(super) async fn an_event_that_was_moved_into_a_range_takes_no_room_of_its_limit<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for n in 0..4 {
        TestRow::keyed("k").at(-60_000 + n).insert(&fixture).await;
    }
    let all = fetch_all(&store).await;
    let moved = ExceptedEvent { position: Position::START, ..all[0].excepted() };
    let mut request = FetchRequest { except: vec![moved], ..everything(&store) };
    request.ranges.retain(|range| range.shard == all[0].shard);
    request.ranges[0].limit = 2;
    assert_eq!(store.fetch(&request).await.unwrap().rows.len(), 2);
}

pub(super) async fn lanes_are_read_apart<F: Fixture>() {
    let fixture = F::fresh().await;
    TestRow::new().lane("").insert(&fixture).await;
    TestRow::new().lane("other").insert(&fixture).await;
    TestRow::new().lane("other").retry_in(&fixture, -1000).insert(&fixture).await;
    let ours = TestRow::new().insert(&fixture).await;
    assert_eq!(ids(&fetch_all(&fixture.store()).await), [ours]);
}

pub(super) async fn a_retry_without_a_time_is_due_and_stops_nobody<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let timeless = TestRow::keyed("k").at(-30_000).status("retry").insert(&fixture).await;
    let later = TestRow::keyed("k").at(-20_000).insert(&fixture).await;
    assert!(ids(&fetch_all(&store).await).contains(&timeless));
    let before = Position { scheduled_at: i64::MAX, seq: i64::MAX };
    let except = vec![(later, position_of(&store, later).await.seq)];
    let question = PredecessorQuery { key: "k".to_owned(), from: Position::START, before, except };
    let blockers = store.blockers(&super::builders::lane(), false, &[question]).await.unwrap();
    assert_eq!((blockers["k"].id, blockers["k"].due), (timeless, true));
}

pub(super) async fn a_retry_is_read_only_when_it_is_due<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::new().retry_in(&fixture, 60_000).insert(&fixture).await;
    let due = TestRow::new().retry_in(&fixture, -1000).insert(&fixture).await;
    let answer = fetch_all(&store).await;
    assert_eq!(ids(&answer), [due]);
    assert!(answer[0].retry);
    assert_eq!((answer[0].retry_count, answer[0].max_retries), (1, 3));
    let request = FetchRequest { retry_shards: Vec::new(), ..everything(&store) };
    assert!(store.fetch(&request).await.unwrap().rows.is_empty());
}

pub(super) async fn a_key_is_read_from_its_start_up_to_a_limit<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let second = TestRow::keyed("k").at(-20_000).insert(&fixture).await;
    let first = TestRow::keyed("k").at(-30_000).retry_in(&fixture, -1000).insert(&fixture).await;
    TestRow::keyed("k").at(-10_000).insert(&fixture).await;
    TestRow::keyed("k").at(-50_000).retry_in(&fixture, 60_000).insert(&fixture).await;
    TestRow::keyed("k").at(60_000).insert(&fixture).await;
    let other = TestRow::keyed("l").insert(&fixture).await;
    let answer = store.fetch(&keys_alone(&["k"], 2, &store)).await.unwrap();
    assert_eq!(ids(&answer.rows), [first, second]);
    assert_eq!(answer.rows.iter().map(|row| row.retry).collect::<Vec<_>>(), [true, false]);
    assert_eq!(answer.rows[0].partition_key, "k");
    let answer = store.fetch(&keys_alone(&["k", "l", "m"], 2, &store)).await.unwrap();
    let mut expected = [first, second, other];
    expected.sort();
    assert_eq!(sorted_ids(&answer), expected);
}

pub(super) async fn a_key_is_read_from_a_place_on<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::keyed("k").at(-40_000).insert(&fixture).await;
    TestRow::keyed("k").at(-30_000).retry_in(&fixture, -1000).insert(&fixture).await;
    let third = TestRow::keyed("k").at(-20_000).insert(&fixture).await;
    let fourth = TestRow::keyed("k").at(-10_000).retry_in(&fixture, -1000).insert(&fixture).await;
    let keys = vec![KeyStart { key: "k".to_owned(), from: position_of(&store, third).await }];
    let answer = store.fetch(&FetchRequest { keys, ..keys_alone(&[], 10, &store) }).await.unwrap();
    assert_eq!(ids(&answer.rows), [third, fourth]);
}

pub(super) async fn reading_stops_at_the_most_events_of_all_kinds_together<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for n in 0..2 {
        TestRow::keyed("k").at(-60_000 + n).insert(&fixture).await;
        TestRow::keyed("l").retry_in(&fixture, -1000).insert(&fixture).await;
    }
    let keys = vec![KeyStart::whole("l")];
    let in_all = FetchRequest { keys, ..everything(&store) };
    for (max_events, cut_short) in [(1, true), (2, true), (3, true), (5, true), (6, false), (7, false)] {
        let answer = store.fetch(&FetchRequest { max_events, ..in_all.clone() }).await.unwrap();
        assert_eq!((answer.rows.len(), answer.cut_short), (max_events.min(6), cut_short));
        assert_eq!(answer.rows.iter().filter(|row| row.in_range).count(), max_events.min(2));
    }
}

pub(super) async fn reading_stops_at_the_byte_budget_but_not_before_one_event<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for n in 0..4 {
        let data = format!("'\"{}\"'", "x".repeat(1000));
        TestRow::keyed("k").at(-60_000 + n).with("data", data).insert(&fixture).await;
    }
    let request = FetchRequest { max_bytes: 2500, ..everything(&store) };
    let answer = store.fetch(&request).await.unwrap();
    assert_eq!((answer.rows.len(), answer.cut_short), (2, true));
    let answer = store.fetch(&FetchRequest { max_bytes: 1, ..request.clone() }).await.unwrap();
    assert_eq!((answer.rows.len(), answer.cut_short), (1, true));
    let answer = store.fetch(&FetchRequest { max_bytes: 10_000, ..request }).await.unwrap();
    assert_eq!((answer.rows.len(), answer.cut_short), (4, false));
}

pub(super) async fn an_oversize_event_comes_back_with_the_reason<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::keyed("k").at(-60_000).with("data", format!("'\"{}\"'", "x".repeat(5000))).insert(&fixture).await;
    TestRow::keyed("k").at(-30_000).insert(&fixture).await;
    let request = FetchRequest { max_event_bytes: 1000, ..everything(&store) };
    let rows = store.fetch(&request).await.unwrap().rows;
    assert!(rows[0].event.as_ref().unwrap_err().contains("max_event_bytes"), "{:?}", rows[0].event);
    assert!(rows[1].event.is_ok());
}

pub(super) async fn a_row_that_is_no_event_comes_back_with_the_reason_beside_the_others<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for (column, nonsense) in fixture.nonsense() {
        TestRow::new().with(column, *nonsense).insert(&fixture).await;
        let good = TestRow::new().insert(&fixture).await;
        let rows = fetch_all(&store).await;
        let (bad, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.event.is_err());
        assert_eq!((bad.len(), ids(&rest)), (1, vec![good]), "{column} = {nonsense}");
        assert!(bad[0].event.as_ref().unwrap_err().contains(column), "{nonsense}: {:?}", bad[0].event);
        fixture.execute("DELETE FROM outbox_events").await;
    }
}

pub(super) async fn what_is_settled_is_not_read_again<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    TestRow::new().status("published").insert(&fixture).await;
    TestRow::keyed("k").status("failed").insert(&fixture).await;
    assert!(fetch_all(&store).await.is_empty());
    assert!(store.fetch(&keys_alone(&["k"], 10, &store)).await.unwrap().rows.is_empty());
}

pub(super) async fn only_what_is_not_recorded_as_published_is_unrecorded<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let pending = TestRow::new().insert(&fixture).await;
    let failed = TestRow::new().status("failed").insert(&fixture).await;
    let published = TestRow::new().status("published").with("published_at", fixture.time(0)).insert(&fixture).await;
    let replayed = TestRow::new().insert(&fixture).await;
    let mut sent = Vec::new();
    for id in [pending, failed, published] {
        sent.push((id, find(&store, id).await.seq));
    }
    sent.push((replayed, find(&store, replayed).await.seq + 1));
    sent.push((uuid::Uuid::now_v7(), 1));
    let mut found = ids(&store.find_unsettled(&lane(), &sent).await.unwrap());
    found.sort();
    assert_eq!(found, [pending, failed]);
}
