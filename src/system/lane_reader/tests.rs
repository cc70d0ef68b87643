use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::fixtures;
use crate::store::FetchedRow;

const SHARDS: i16 = 2;

/// Later than all rows.
const CLOCK: i64 = 200_000;

fn sessions(epoch: i64, number: u64) -> HashMap<i16, SessionId> {
    (0..SHARDS).map(|shard| (shard, SessionId { epoch, number })).collect()
}

/// The table as the store reads it.
#[derive(Default)]
struct Table {
    rows: Vec<FetchedRow>,
}

impl Table {
    fn answer(&self, plan: &FetchPlan, cut_after: usize) -> FetchResult {
        let clock = plan.ranges.iter().any(|range| range.limit == 0).then_some(CLOCK);
        let mut answer = FetchResult { clock, ..FetchResult::default() };
        for range in &plan.ranges {
            let mut inside: Vec<&FetchedRow> = self
                .rows
                .iter()
                .filter(|row| row.shard == range.shard && range.from < row.position)
                .filter(|row| range.to.is_none_or(|to| row.position < to))
                .collect();
            inside.sort_by_key(|row| row.position);
            for row in inside.into_iter().take(usize::try_from(range.limit).unwrap()) {
                if answer.rows.len() == cut_after {
                    answer.cut_short = true;
                    return answer;
                }
                answer.rows.push(row.clone());
            }
        }
        answer
    }

    fn remove(&mut self, read: &FetchResult) {
        self.rows.retain(|row| read.rows.iter().all(|other| other.id != row.id));
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A transaction commits a row at this position.
    Appear {
        shard: i16,
        at: i64,
    },
    /// A fetch, cut short after this many rows; its events are settled.
    Fetch {
        budget: usize,
        cut_after: usize,
    },
    /// A fetch that takes too long.
    Late {
        budget: usize,
    },
    /// A fetch whose events are released unsent.
    GiveBack {
        budget: usize,
    },
    Look,
    /// Time passes.
    Wait {
        ms: u64,
    },
    /// The shards are opened again, under the same or a new lease.
    Reopen {
        new_lease: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..SHARDS, 0_i64..200_000).prop_map(|(shard, at)| Step::Appear { shard, at }),
        4 => (1_usize..8, 1_usize..8).prop_map(|(budget, cut_after)| Step::Fetch { budget, cut_after }),
        1 => (1_usize..8).prop_map(|budget| Step::Late { budget }),
        2 => (1_usize..8).prop_map(|budget| Step::GiveBack { budget }),
        1 => Just(Step::Look),
        2 => (0_u64..300).prop_map(|ms| Step::Wait { ms }),
        1 => any::<bool>().prop_map(|new_lease| Step::Reopen { new_lease }),
    ]
}

struct Model {
    cursor: LaneReader,
    table: Table,
    now: BootInstant,
    seq: i64,
    epoch: i64,
    session: u64,
}

impl Model {
    fn new() -> Self {
        let mut cursor = LaneReader::new(Duration::from_millis(100));
        cursor.set_open(&sessions(1, 1));
        Self { cursor, table: Table::default(), now: BootInstant::now(), seq: 0, epoch: 1, session: 1 }
    }

    fn fetch(&mut self, budget: usize, cut_after: usize) -> FetchResult {
        let Some(plan) = self.cursor.plan(budget, false, self.now) else { return FetchResult::default() };
        assert!(
            plan.most <= budget && (!plan.ranges.is_empty() || !plan.retry_shards.is_empty()),
            "a plan asks for something"
        );
        let answer = self.table.answer(&plan, cut_after.min(plan.most));
        self.now = self.now.after(Duration::from_millis(1));
        self.cursor.advance(&plan, &answer, self.now);
        if !plan.is_sweep() {
            self.assert_read_to_the_cursors(&plan, &answer);
        }
        answer
    }

    /// What was in a range, and is behind its cursor now, was read.
    fn assert_read_to_the_cursors(&self, plan: &FetchPlan, answer: &FetchResult) {
        for range in &plan.ranges {
            let state = &self.cursor.shards[&range.shard];
            // A shard that the fetch did not reach is read again from the same position.
            let behind = |row: &&FetchedRow| {
                !state.must_read
                    && row.shard == range.shard
                    && range.from < row.position
                    && row.position <= state.cursor
            };
            let is_read = |row: &FetchedRow| answer.rows.iter().any(|read| read.id == row.id);
            let left = self.table.rows.iter().filter(behind).find(|row| !is_read(row));
            assert!(left.is_none(), "{:?} was passed over", left.map(|row| row.position));
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Appear { shard, at } => {
                self.seq += 1;
                let mut row = fixtures::fetched(shard, at, "");
                row.position.seq = self.seq;
                self.table.rows.push(row);
            }
            Step::Fetch { budget, cut_after } => {
                let answer = self.fetch(budget, cut_after);
                self.table.remove(&answer);
            }
            Step::Late { budget } => {
                if let Some(plan) = self.cursor.plan(budget, false, self.now) {
                    self.now = self.now.after(Duration::from_secs(10));
                    self.cursor.note_failed_fetch(&plan, true, self.now);
                }
            }
            Step::GiveBack { budget } => {
                let answer = self.fetch(budget, usize::MAX);
                let mut places: HashMap<i16, Position> = HashMap::new();
                for row in &answer.rows {
                    let place = places.entry(row.shard).or_insert(row.position);
                    *place = (*place).min(row.position);
                }
                self.cursor.rewind(&places);
            }
            Step::Look => self.cursor.schedule_fetch_at(BootInstant::now()),
            Step::Wait { ms } => self.now = self.now.after(Duration::from_millis(ms)),
            Step::Reopen { new_lease } => {
                self.epoch += i64::from(new_lease);
                self.session += 1;
                self.cursor.set_open(&sessions(self.epoch, self.session));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_read_at_last_wherever_and_whenever_it_appears(
        steps in prop::collection::vec(step(), 0..120), budget in 1_usize..6, cut_after in 1_usize..6,
    ) {
        let mut model = Model::new();
        steps.into_iter().for_each(|step| model.take(step));
        let mut turns = 0;
        while !model.table.rows.is_empty() {
            turns += 1;
            prop_assert!(turns < 2_000, "{} rows are never read: {:?}", model.table.rows.len(), model.cursor);
            model.take(Step::Fetch { budget, cut_after });
            model.take(Step::Wait { ms: 30 });
        }
    }

    #[test]
    fn sweeping_ends_though_what_it_finds_stays_in_flight(
        places in prop::collection::vec(0_i64..200_000, 1..40), budget in 1_usize..6,
    ) {
        // In flight: the table still has the rows, the fetch leaves them out.
        let mut model = Model::new();
        places.into_iter().for_each(|at| model.take(Step::Appear { shard: 0, at }));
        let mut seen: Vec<Uuid> = Vec::new();
        for _ in 0..400 {
            let Some(plan) = model.cursor.plan(budget, false, model.now) else {
                model.take(Step::Wait { ms: 30 });
                continue;
            };
            let mut visible = Table::default();
            let sweeping = plan.purpose == Purpose::Sweep;
            visible.rows = model.table.rows.iter().filter(|row| !(sweeping && seen.contains(&row.id))).cloned().collect();
            let answer = visible.answer(&plan, plan.most);
            seen.extend(answer.rows.iter().map(|row| row.id));
            model.now = model.now.after(Duration::from_millis(1));
            model.cursor.advance(&plan, &answer, model.now);
        }
        prop_assert!(model.table.rows.iter().all(|row| seen.contains(&row.id)));
    }
}

fn one_read(rows: Vec<FetchedRow>) -> Model {
    let mut model = Model::new();
    model.table.rows = rows;
    let answer = model.fetch(100, usize::MAX);
    model.table.remove(&answer);
    model
}

#[test]
fn a_shard_is_read_from_its_start_under_a_new_lease_and_not_if_reopened() {
    let mut model = one_read(vec![fixtures::fetched(0, 100_000, "")]);
    assert_eq!(model.cursor.shards[&0].cursor.scheduled_at, 100_000);
    model.take(Step::Reopen { new_lease: false });
    assert_eq!(model.cursor.shards[&0].cursor.scheduled_at, 100_000);
    model.take(Step::Reopen { new_lease: true });
    assert_eq!(model.cursor.shards[&0].cursor, Position::START);
}

#[test]
fn a_sweep_continues_after_the_cursor_is_rewound_to_its_position() {
    let mut model = one_read(vec![fixtures::fetched(0, 100_000, "")]);
    model.take(Step::Fetch { budget: 10, cut_after: 10 });
    let swept = Position { scheduled_at: 50_000, seq: 1 };
    model.cursor.shards.get_mut(&0).unwrap().sweep = swept;
    model.cursor.rewind(&HashMap::from([(0, swept)]));
    model.take(Step::Appear { shard: 0, at: 10_000 });
    for _ in 0..20 {
        model.take(Step::Wait { ms: 200 });
        model.take(Step::Fetch { budget: 10, cut_after: 10 });
    }
    assert!(model.table.rows.is_empty(), "what was committed behind the cursor is found");
}

#[test]
fn a_shard_that_was_lost_is_not_read() {
    let mut model = Model::new();
    let kept: HashMap<i16, SessionId> = HashMap::from([(1, SessionId { epoch: 1, number: 1 })]);
    model.cursor.set_open(&kept);
    let plan = model.cursor.plan(10, false, model.now).unwrap();
    assert_eq!(plan.ranges.iter().map(|range| range.shard).collect::<Vec<_>>(), [1]);
    model.cursor.set_open(&HashMap::new());
    assert!(model.cursor.plan(10, false, model.now).is_none());
}

#[test]
fn without_room_nothing_is_asked_for() {
    let mut model = Model::new();
    assert!(model.cursor.plan(0, false, model.now).is_none());
}

#[test]
fn an_idle_lane_is_fetched_once_every_poll_interval_or_on_a_wakeup() {
    let mut model = one_read(Vec::new());
    assert!(model.cursor.plan(10, false, model.now).is_none());
    model.now = model.now.after(Duration::from_millis(101));
    assert!(model.cursor.plan(10, false, model.now).is_some());
    assert!(model.cursor.plan(10, false, model.now).is_none());
    model.cursor.schedule_fetch_at(model.now);
    let called = model.cursor.plan(10, false, model.now).unwrap();
    assert!(called.ranges.len() == 2 && called.retry_shards.is_empty(), "who calls has written no retry");
    model.now = model.now.after(Duration::from_millis(99));
    assert!(model.cursor.plan(10, false, model.now).is_some(), "a call does not put polling off");
}

#[test]
fn turns_at_odd_times_poll_no_more_often_and_ticks_that_waver_no_less() {
    let poll = |every: Duration, waver: Duration| {
        let mut model = one_read(Vec::new());
        let began = model.now;
        let ticks = (0..).map(|tick| began.after(every * tick).after(waver * (tick % 3)));
        let polled = ticks.take_while(|at| at.since(began) < Duration::from_secs(10));
        polled
            .filter(|at| {
                model
                    .cursor
                    .plan(10, false, *at)
                    .is_some_and(|plan| plan.purpose == Purpose::Forward && !plan.ranges.is_empty())
            })
            .count()
    };
    let often = poll(Duration::from_millis(7), Duration::ZERO);
    assert!((99..=102).contains(&often), "{often}");
    let wavering = poll(Duration::from_millis(100), Duration::from_millis(6));
    assert!((98..=101).contains(&wavering), "{wavering}");
}

#[test]
fn retries_are_looked_for_when_they_come_due_and_now_and_then() {
    let mut model = one_read(Vec::new());
    let retries = |model: &mut Model| model.cursor.plan(10, false, model.now).map_or(0, |plan| plan.retry_shards.len());
    model.now = model.now.after(Duration::from_millis(500));
    assert_eq!(retries(&mut model), 0);
    for ms in [10, 100] {
        model.cursor.retries_at(model.now.after(Duration::from_millis(ms)));
    }
    for ms in [30, 90] {
        model.now = model.now.after(Duration::from_millis(ms));
        assert_eq!(retries(&mut model), 2, "each at its time");
        assert_eq!(retries(&mut model), 0);
    }
    model.now = model.now.after(Duration::from_millis(1_001));
    assert_eq!(retries(&mut model), 2);
}

#[test]
fn after_a_look_that_found_much_what_is_announced_waits_a_little() {
    for (found, pause) in [(1, 0), (8, 2), (24, 6)] {
        let mut model = one_read((1..=found).map(|n| fixtures::fetched(0, n * 1_000_000, "")).collect());
        let began = model.now;
        model.cursor.next_sweep = began.after(Duration::from_secs(60));
        model.cursor.schedule_fetch_at(began);
        let mut looks = |at: u64| {
            let plan = model.cursor.plan(10, false, began.after(Duration::from_millis(at)));
            plan.is_some_and(|plan| plan.purpose == Purpose::Forward)
        };
        assert_eq!(looks(0), pause == 0, "{found}");
        assert_eq!(looks(pause), pause > 0, "{found}");
    }
}

#[test]
fn what_is_announced_while_a_fetch_is_under_way_is_looked_for_by_the_next() {
    let mut model = one_read(Vec::new());
    let began = model.now.after(Duration::from_millis(101));
    let plan = model.cursor.plan(10, false, began).unwrap();
    model.cursor.schedule_fetch_at(began.after(Duration::from_millis(1)));
    let answered = began.after(Duration::from_millis(2));
    model.cursor.advance(&plan, &FetchResult::default(), answered);
    assert_eq!(model.cursor.plan(10, false, answered).unwrap().ranges.len(), 2);
}

#[test]
fn an_event_that_is_read_by_its_key_does_not_move_the_cursor() {
    let mut model = Model::new();
    let plan = model.cursor.plan(10, true, model.now).unwrap();
    let ahead = FetchedRow { in_range: false, ..fixtures::fetched(0, 900, "k") };
    let answer = FetchResult { rows: vec![fixtures::fetched(0, 100, ""), ahead], cut_short: false, clock: None };
    model.cursor.advance(&plan, &answer, model.now);
    assert_eq!(model.cursor.shards[&0].cursor.scheduled_at, 100);
}

#[test]
fn retries_that_all_have_to_wait_are_not_read_again_at_once() {
    let mut model = Model::new();
    let began = model.now;
    let plan = model.cursor.plan(10, false, began).unwrap();
    let waiting = || FetchedRow { in_range: false, retry: true, ..fixtures::fetched(0, 100, "k") };
    let answer = FetchResult { rows: vec![waiting(), waiting()], cut_short: false, clock: None };
    let answered = began.after(Duration::from_millis(5));
    model.cursor.advance(&plan, &answer, answered);
    assert!(model.cursor.plan(10, false, answered).is_none());
    let later = model.cursor.plan(10, false, answered.after(Duration::from_millis(5))).unwrap();
    assert!(later.ranges.is_empty() && later.retry_shards.len() == 2, "only the retries had more");
}

#[test]
fn large_events_make_a_byte_budget_worth_fewer_of_them() {
    let mut model = Model::new();
    let before = model.cursor.affordable(1 << 20);
    for _ in 0..40 {
        let mut row = fixtures::fetched(0, 1, "");
        let mut event = fixtures::event(1, "");
        event.data_binary = Some(vec![0; 100_000]);
        row.event = Ok(Arc::new(event));
        model.cursor.schedule_fetch_at(BootInstant::now());
        model.table.rows = vec![row];
        model.take(Step::Reopen { new_lease: true });
        model.fetch(10, usize::MAX);
    }
    assert!(model.cursor.affordable(1 << 20) * 20 < before);
}

// Reading from the start.

#[test]
fn fetches_of_an_empty_lane_go_on_from_the_clock_sweeps_from_the_start() {
    let mut model = Model::new();
    let clock = 50_000_000;
    let plan = model.cursor.plan(10, false, model.now).unwrap();
    model.cursor.advance(&plan, &FetchResult { clock: Some(clock), ..FetchResult::default() }, model.now);
    let sweep = model.cursor.plan(10, false, model.now).unwrap();
    assert_eq!(sweep.purpose, Purpose::Sweep);
    assert!(sweep.ranges.iter().all(|range| range.from == Position::START), "what is committed late is found");
    model.cursor.advance(&sweep, &FetchResult::default(), model.now);
    model.cursor.schedule_fetch_at(model.now);
    let look = model.cursor.plan(10, false, model.now).unwrap();
    assert_eq!((look.purpose, look.ranges.len()), (Purpose::Forward, 2));
    for range in &look.ranges {
        assert_eq!(range.from.scheduled_at, clock - OVERLAP, "dead rows before it are not walked again");
    }
}

#[test]
fn a_fetch_that_was_cut_short_does_not_go_by_the_clock() {
    let mut model = Model::new();
    let plan = model.cursor.plan(10, false, model.now).unwrap();
    let answer = FetchResult { rows: vec![fixtures::fetched(0, 100, "")], cut_short: true, clock: Some(50_000_000) };
    model.cursor.advance(&plan, &answer, model.now);
    assert_eq!(model.cursor.shards[&1].cursor, Position::START, "it was not read");
}

#[test]
fn shards_that_repeatedly_lose_their_cursors_do_not_starve_others() {
    let mut cursor = LaneReader::new(Duration::from_millis(100));
    let mut epochs: HashMap<i16, i64> = (0..32).map(|shard| (shard, 1)).collect();
    let mut now = BootInstant::now();
    let mut read = std::collections::HashSet::new();
    for _ in 0..64 {
        let open = |epochs: &HashMap<i16, i64>| {
            epochs.iter().map(|(shard, epoch)| (*shard, SessionId { epoch: *epoch, number: 1 })).collect()
        };
        cursor.set_open(&open(&epochs));
        let Some(plan) = cursor.plan(1_000, false, now) else { continue };
        read.extend(plan.ranges.iter().map(|range| range.shard));
        now = now.after(Duration::from_millis(1));
        cursor.advance(&plan, &FetchResult { clock: Some(1_000_000), ..FetchResult::default() }, now);
        for shard in 0..8 {
            *epochs.entry(shard).or_default() += 1;
        }
    }
    assert_eq!(read.len(), 32);
}

#[test]
fn a_few_new_shards_at_a_time_are_read_together_with_those_read_before() {
    let mut cursor = LaneReader::new(Duration::from_millis(100));
    cursor.set_open(&(0..32).map(|shard| (shard, SessionId { epoch: 1, number: 1 })).collect());
    let mut now = BootInstant::now();
    cursor.next_sweep = now.after(Duration::from_secs(60));
    let mut read = Vec::new();
    for _ in 0..32_usize.div_ceil(FRESH_TOGETHER) {
        let plan = cursor.plan(1_000, false, now).unwrap();
        let fresh: Vec<i16> = plan.ranges.iter().filter(|r| r.from == Position::START).map(|r| r.shard).collect();
        assert_eq!(fresh.len(), FRESH_TOGETHER);
        let (limit, beside) = (plan.ranges[0].limit, plan.ranges.len() - FRESH_TOGETHER);
        assert_eq!(beside, usize::from(!read.is_empty()), "of those read before, one has more");
        let rows = (1..=limit).map(|n| fixtures::fetched(fresh[0], n, "")).collect();
        now = now.after(Duration::from_millis(1));
        cursor.advance(&plan, &FetchResult { rows, clock: Some(1_000_000), ..FetchResult::default() }, now);
        read.extend(fresh);
    }
    read.sort_unstable();
    assert_eq!(read, (0..32).collect::<Vec<i16>>());
}

/// A database in which scanning the dead rows of some shards, before its clock, takes long.
struct SlowDatabase {
    shards: i16,
    heavy: i16,
    /// The time for one heavy shard from start to end.
    walk: Duration,
    began: BootInstant,
}

impl SlowDatabase {
    const CLOCK: i64 = 1 << 50;
    /// Two hours of dead rows.
    const DEAD: i64 = 2 * 3_600 * 1_000_000;
    const LIMIT: Duration = Duration::from_secs(10);

    fn clock(&self, now: BootInstant) -> i64 {
        Self::CLOCK + i64::try_from(now.since(self.began).as_micros()).unwrap()
    }

    fn walk_over(&self, range: &Range) -> Duration {
        if range.shard >= self.heavy || range.limit == 0 {
            return Duration::ZERO;
        }
        let from = range.from.scheduled_at.max(Self::CLOCK - Self::DEAD);
        let to = range.to.map_or(Self::CLOCK, |to| to.scheduled_at.min(Self::CLOCK));
        self.walk.mul_f64((to - from).max(0) as f64 / Self::DEAD as f64)
    }

    /// Runs one statement; returns when it is over, and whether it was answered.
    fn serve(&self, cursor: &mut LaneReader, now: BootInstant) -> (BootInstant, bool) {
        let Some(plan) = cursor.plan(100, false, now) else { return (now.after(Duration::from_millis(100)), true) };
        let took = Duration::from_millis(1) + plan.ranges.iter().map(|range| self.walk_over(range)).sum::<Duration>();
        if took > Self::LIMIT {
            let over = now.after(2 * Self::LIMIT);
            cursor.note_failed_fetch(&plan, true, over);
            return (over, false);
        }
        let over = now.after(took);
        let tells = plan.ranges.iter().any(|range| range.from == Position::START && range.to.is_none());
        let answer = FetchResult { clock: tells.then(|| self.clock(now)), ..FetchResult::default() };
        cursor.advance(&plan, &answer, over);
        (over, true)
    }
}

/// Every shard is read to its end, and from then on hardly a statement takes too long.
#[test]
fn all_shards_are_read_and_swept_in_time_however_many_have_dead_rows() {
    const HOUR: Duration = Duration::from_secs(3_600);
    for (shards, heavy, seconds) in [(32, 1, 12), (32, 4, 12), (3, 3, 40), (32, 4, 40), (32, 32, 12), (32, 32, 40)] {
        let (began, walk) = (BootInstant::now(), Duration::from_secs(seconds));
        let database = SlowDatabase { shards, heavy, walk, began };
        let mut cursor = LaneReader::new(Duration::from_millis(100));
        cursor.set_open(&(0..database.shards).map(|shard| (shard, SessionId { epoch: 1, number: 1 })).collect());
        let mut now = began;
        while cursor.is_behind() {
            (now, _) = database.serve(&mut cursor, now);
            assert!(now.since(began) < 4 * HOUR, "{heavy} of {shards}, {walk:?}: {cursor:?}");
        }
        let read = now;
        let mut late = Vec::new();
        while now.since(read) < 6 * HOUR {
            let (over, answered) = database.serve(&mut cursor, now);
            if !answered {
                late.push(now.since(read));
            }
            now = over;
        }
        let lost = 2 * SlowDatabase::LIMIT * late.iter().filter(|at| **at > 3 * HOUR).count() as u32;
        assert!(lost <= 3 * HOUR / 20, "{heavy} of {shards}, {walk:?}: late at {late:?}");
    }
}

/// Dead rows in one shard, under a snapshot that keeps them.
#[cfg(feature = "postgres")]
mod dead_rows {
    use std::time::Instant;

    use super::*;
    use crate::store::conformance::Fixture;
    use crate::store::postgres::fixture::PostgresFixture;
    use crate::store::postgres::{PostgresStore, Target};
    use crate::store::{DispatchStore, FetchRequest, LaneName};
    use crate::test_support::PATIENCE;

    const FILL: &str = "INSERT INTO outbox_events (id, event_type, source, partition_key, scheduled_at) \
        SELECT gen_random_uuid(), 't', 's', 'k', now() - interval '2 hours' + n * interval '72 milliseconds' \
        FROM generate_series(1, 100000) n";

    fn insert(id: Uuid, at: &str) -> String {
        format!(
            "INSERT INTO outbox_events (id, event_type, source, partition_key, scheduled_at) \
             VALUES ('{id}', 't', 's', 'k', {at})"
        )
    }

    fn request(ranges: Vec<Range>) -> FetchRequest {
        FetchRequest { max_events: 100, ..FetchRequest::of_ranges(LaneName::from(""), ranges) }
    }

    /// Reads and sweeps until the event is found.
    async fn find(cursor: &mut LaneReader, store: &PostgresStore, id: Uuid) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let Some(plan) = cursor.plan(100, false, BootInstant::now()) else {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            match store.fetch(&request(plan.ranges.clone())).await {
                Ok(answer) if answer.rows.iter().any(|row| row.id == id) => return,
                Ok(answer) => cursor.advance(&plan, &answer, BootInstant::now()),
                Err(_) => cursor.note_failed_fetch(&plan, true, BootInstant::now()),
            }
        }
        panic!("the event is never found: {cursor:?}");
    }

    #[tokio::test]
    async fn a_shard_too_slow_for_one_statement_is_read_and_swept_in_parts() {
        let fixture = PostgresFixture::fresh().await;
        fixture.execute(FILL).await;
        let reader = fixture.database.connect().await;
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM outbox_events LIMIT 1").await.unwrap();
        fixture.execute("UPDATE outbox_events SET status = 'published', published_at = now()").await;
        let shard = i16::try_from(fixture.number("SELECT outbox_shard('k', gen_random_uuid())::bigint").await).unwrap();

        let whole = request(vec![Range { shard, from: Position::START, to: None, limit: 100 }]);
        let mut walk = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            assert!(fixture.store().fetch(&whole).await.unwrap().rows.is_empty());
            walk = walk.min(began.elapsed());
        }
        let mut url = url::Url::parse(&fixture.database.url).unwrap();
        let limit = format!("-c statement_timeout={}", walk.as_millis() / 4);
        url.query_pairs_mut().append_pair("options", &limit);
        let store = PostgresStore::new(Target::from_url(url.as_str()).unwrap(), None).unwrap();
        assert!(store.fetch(&whole).await.is_err(), "all of it takes too long: {walk:?}");

        let (new, late) = (Uuid::now_v7(), Uuid::now_v7());
        fixture.execute(&insert(new, "now()")).await;
        let mut cursor = LaneReader::new(Duration::from_millis(100));
        cursor.set_open(&HashMap::from([(shard, SessionId { epoch: 1, number: 1 })]));
        find(&mut cursor, &store, new).await;
        fixture.execute(&insert(late, "now() - interval '1 hour'")).await;
        find(&mut cursor, &store, late).await;
        drop(reader);
    }
}
