//! How soon the sweep finds events that were committed behind the cursor.

use super::*;
use crate::fixtures;
use crate::store::FetchedRow;

const MS: Duration = Duration::from_millis(1);

fn row(shard: i16, (scheduled_at, seq): (i64, i64)) -> FetchedRow {
    let mut row = fixtures::fetched(shard, scheduled_at, "");
    row.position.seq = seq;
    row
}

/// The result of a store: pending rows in a plan's ranges.
fn answer(plan: &FetchPlan, pending: &[(i64, i64)]) -> FetchResult {
    let mut rows: Vec<FetchedRow> = Vec::new();
    for range in &plan.ranges {
        let inside = pending
            .iter()
            .map(|&place| row(range.shard, place))
            .filter(|row| range.from < row.position && range.to.is_none_or(|to| row.position < to));
        rows.extend(inside.take(usize::try_from(range.limit).unwrap()));
    }
    FetchResult { rows, cut_short: false, clock: None }
}

fn cursor() -> LaneReader {
    let mut cursor = LaneReader::new(MS * 100);
    let session = SessionId { epoch: 1, number: 1 };
    cursor.set_open(&HashMap::from([(0, session)]));
    cursor
}

/// Commits events one by one and settles them immediately; returns the time until an event that is committed late, behind
/// the cursor, is found.
fn time_until_found(took: Duration, late: impl Fn(i64) -> (i64, i64)) -> Option<Duration> {
    let mut cursor = cursor();
    let start = BootInstant::now();
    let (mut now, mut seen) = (start, 0);
    let mut committed = None;
    while now.since(start) < Duration::from_secs(120) {
        let micros = i64::try_from(now.since(start).as_micros()).unwrap();
        // 200 events a second, announced each.
        let newest = micros / 5_000;
        if newest > seen {
            cursor.schedule_fetch_at(now);
        }
        let mut pending: Vec<(i64, i64)> = (seen + 1..=newest).map(|n| (n * 5_000, n * 10)).collect();
        if now.since(start) > Duration::from_secs(30) {
            let (event, _) = *committed.get_or_insert_with(|| (late(newest), now));
            pending.insert(0, event);
        }
        let Some(plan) = cursor.plan(1_000, false, now) else {
            now = now.after(MS);
            continue;
        };
        now = now.after(took);
        let answer = answer(&plan, &pending);
        cursor.advance(&plan, &answer, now);
        if let Some(((at, seq), since)) = committed
            && answer.rows.iter().any(|row| row.position == Position { scheduled_at: at, seq })
        {
            return Some(now.since(since));
        }
        if plan.purpose == Purpose::Forward {
            seen = newest;
        }
    }
    None
}

#[test]
fn an_event_behind_the_cursor_is_found_soon_while_others_keep_coming() {
    for took in [MS, MS * 8] {
        let found = time_until_found(took, |newest| ((newest - 400) * 5_000, (newest - 400) * 10 + 1));
        assert!(found.is_some_and(|span| span < Duration::from_secs(5)), "{took:?}: {found:?}");
    }
}

#[test]
fn an_event_whose_place_bounds_a_sweep_step_is_found() {
    for took in [MS, MS * 8] {
        // The position of an event that was read before, as after an operator's retry.
        let found = time_until_found(took, |newest| ((newest - 400) * 5_000, (newest - 400) * 10));
        assert!(found.is_some_and(|span| span < Duration::from_secs(5)), "{took:?}: {found:?}");
    }
}

#[test]
fn a_process_stopped_during_a_sweep_sweeps_again_within_seconds() {
    let mut cursor = cursor();
    let began = BootInstant::now();
    let forward = cursor.plan(1_000, false, began).unwrap();
    cursor.advance(&forward, &answer(&forward, &[(5_000, 10)]), began.after(MS));
    let sweep = cursor.plan(1_000, false, began.after(MS * 30)).unwrap();
    assert_eq!(sweep.purpose, Purpose::Sweep);
    let woken = began.after(Duration::from_secs(3_600));
    cursor.advance(&sweep, &answer(&sweep, &[]), woken);
    let next = (0..60).find(|second| {
        let plan = cursor.plan(1_000, false, woken.after(Duration::from_secs(*second)));
        plan.is_some_and(|plan| plan.purpose == Purpose::Sweep)
    });
    assert!(next.is_some_and(|second| second <= 15), "{next:?}");
}

fn many(shards: i16) -> LaneReader {
    let mut cursor = LaneReader::new(MS * 100);
    cursor.set_open(&(0..shards).map(|shard| (shard, SessionId { epoch: 1, number: 1 })).collect());
    cursor
}

/// Drives a lane of 32 shards in which nothing is due until it has swept for this time; returns the sweep's steps, by the
/// number of shards with which each started.
fn steps(span: Duration, took: impl Fn(&FetchPlan) -> Duration) -> Vec<usize> {
    let mut cursor = many(32);
    let start = BootInstant::now();
    let (mut now, mut steps) = (start, Vec::new());
    while now.since(start) < span {
        let Some(plan) = cursor.plan(1_000, false, now) else {
            now = now.after(MS);
            continue;
        };
        let begun = plan.ranges.iter().filter(|range| range.from == Position::START).count();
        now = now.after(took(&plan));
        if plan.purpose == Purpose::Sweep {
            steps.push(begun);
        }
        cursor.advance(&plan, &FetchResult { clock: Some(1_000_000), ..FetchResult::default() }, now);
    }
    steps
}

#[test]
fn if_reading_from_the_start_is_slow_a_sweep_takes_a_few_shards_at_a_time() {
    // Dead rows at the start: 20 ms for each shard.
    let expensive = |plan: &FetchPlan| {
        MS * u32::try_from(plan.ranges.iter().filter(|r| r.from == Position::START).count()).unwrap() * 20
    };
    let begun = steps(Duration::from_secs(30), |plan| expensive(plan).max(MS));
    assert!(begun.iter().all(|count| *count <= FRESH_TOGETHER), "{begun:?}");
    assert!(begun.iter().sum::<usize>() >= 32, "{begun:?}");
}

#[test]
fn where_it_is_cheap_an_idle_lane_is_swept_by_one_statement_a_second() {
    let begun = steps(Duration::from_secs(30), |_| MS);
    assert!(begun.len() <= 40, "{} steps", begun.len());
    assert_eq!(begun.last(), Some(&32));
}

#[test]
fn a_sweep_that_is_given_up_begins_with_one_shard_after_a_rest() {
    let mut cursor = many(32);
    let mut now = BootInstant::now();
    while let Some(plan) = cursor.plan(1_000, false, now) {
        if plan.purpose == Purpose::Sweep {
            now = now.after(Duration::from_secs(10));
            cursor.note_failed_fetch(&plan, false, now);
            break;
        }
        cursor.advance(&plan, &FetchResult { clock: Some(1_000_000), ..FetchResult::default() }, now);
    }
    let next = (0..60_000).step_by(50).find_map(|ms| {
        let at = now.after(Duration::from_millis(ms));
        let plan = cursor.plan(1_000, false, at)?;
        if plan.purpose == Purpose::Sweep {
            return Some((ms, plan.ranges.len()));
        }
        cursor.advance(&plan, &FetchResult::default(), at);
        None
    });
    let (ms, shards) = next.unwrap();
    assert!(ms >= 10_000, "{ms}");
    assert_eq!(shards, 1);
}

#[test]
fn a_first_reading_that_is_given_up_is_tried_with_one_shard() {
    let mut cursor = many(32);
    let now = BootInstant::now();
    let plan = cursor.plan(1_000, false, now).unwrap();
    assert_eq!(plan.ranges.len(), FRESH_TOGETHER);
    cursor.note_failed_fetch(&plan, false, now);
    assert_eq!(cursor.plan(1_000, false, now).unwrap().ranges.len(), 1);
}
