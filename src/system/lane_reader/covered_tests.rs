use super::*;

const MS: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(1);

/// A lane that was read to its end and swept, and the time then.
fn idle() -> (LaneReader, BootInstant) {
    let mut lane = LaneReader::new(MS * 100);
    lane.set_open(&HashMap::from([(0, SessionId { epoch: 1, number: 1 })]));
    let mut now = BootInstant::now();
    for _ in 0..10 {
        while let Some(plan) = lane.plan(10, false, now) {
            lane.advance(&plan, &FetchResult { clock: Some(1), ..FetchResult::default() }, now);
        }
        now = now.after(MS * 50);
    }
    (lane, now)
}

fn fetches(lane: &mut LaneReader, now: BootInstant) -> Option<FetchPlan> {
    let plan = lane.plan(10, false, now)?;
    lane.advance(&plan, &FetchResult::default(), now);
    Some(plan)
}

#[test]
fn a_covered_lane_neither_polls_nor_sweeps_until_an_answer_is_late() {
    let (mut lane, mut now) = idle();
    for _ in 0..100 {
        assert!(lane.can_be_asked(now));
        lane.note_nothing_due(now, now, LIMIT);
        now = now.after(MS * 100);
        assert!(lane.rests(now) && fetches(&mut lane, now).is_none());
    }
    now = now.after(LIMIT);
    let plans: Vec<FetchPlan> = std::iter::from_fn(|| fetches(&mut lane, now)).collect();
    assert!(plans.iter().any(|plan| !plan.retry_shards.is_empty()), "it polls, also for retries");
    assert!(plans.iter().any(FetchPlan::is_sweep), "{plans:?}");
}

#[test]
fn what_is_announced_or_comes_due_here_is_fetched_from_a_covered_lane() {
    let (mut lane, now) = idle();
    lane.note_nothing_due(now, now, LIMIT);
    lane.schedule_fetch_at(now);
    assert!(!lane.rests(now) && !lane.can_be_asked(now));
    assert!(fetches(&mut lane, now).is_some_and(|plan| plan.retry_shards.is_empty()));
    lane.note_nothing_due(now, now, LIMIT);
    lane.retries_at(now.after(MS * 10));
    assert!(fetches(&mut lane, now).is_none());
    assert!(fetches(&mut lane, now.after(MS * 30)).is_some_and(|plan| !plan.retry_shards.is_empty()));
}

#[test]
fn what_a_question_finds_is_fetched_and_swept_for_immediately() {
    let (mut lane, now) = idle();
    lane.note_nothing_due(now, now, LIMIT);
    let later = now.after(MS * 900);
    lane.cover(later, LIMIT);
    lane.note_due(&[DueKind::Pending], later, later);
    assert!(fetches(&mut lane, later).is_some_and(|plan| !plan.is_sweep() && !plan.ranges.is_empty()));
    let next = lane.plan(10, false, later);
    assert!(next.is_some_and(|plan| plan.is_sweep()), "it may be behind the cursor");
}

#[test]
fn a_lane_in_which_due_events_wait_polls_by_itself() {
    let (mut lane, now) = idle();
    lane.note_due(&[DueKind::Pending, DueKind::Retry], now, now);
    while fetches(&mut lane, now).is_some() {}
    assert!(lane.can_be_asked(now), "they may have been delivered");
    lane.note_due(&[DueKind::Retry], now, now);
    while fetches(&mut lane, now).is_some() {}
    assert!(!lane.can_be_asked(now) && lane.can_be_asked(now.after(ASK_AGAIN)));
    lane.note_nothing_due(now, now, LIMIT);
    lane.note_due(&[DueKind::Pending], now.after(ASK_AGAIN), now.after(ASK_AGAIN));
    while fetches(&mut lane, now.after(ASK_AGAIN)).is_some() {}
    assert!(lane.can_be_asked(now.after(ASK_AGAIN)));
}

#[test]
fn an_answer_from_before_a_hurried_sweep_does_not_put_it_off() {
    let (mut lane, now) = idle();
    lane.cover(now, LIMIT * 60);
    lane.hurry_sweep(now.after(MS));
    lane.note_nothing_due(now, now.after(MS * 2), LIMIT * 60);
    let soon = now.after(LIMIT * 2);
    let plans: Vec<FetchPlan> = std::iter::from_fn(|| fetches(&mut lane, soon)).collect();
    assert!(plans.iter().any(FetchPlan::is_sweep), "{plans:?}");
    lane.note_nothing_due(soon, soon, LIMIT * 60);
    assert!(lane.rests(soon.after(LIMIT)), "an answer from after it covers the lane");
}
