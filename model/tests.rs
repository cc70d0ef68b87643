//! The protocol holds, and each of its parts is needed.

use std::num::NonZeroUsize;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::check::{self, run_that_breaks};
use crate::events::Event;
use crate::properties::{IN_ORDER, LEASED, ONCE, REPLAYED, SETTLED, TAKEN_OVER, TRIED};
use crate::rules::{Faults, Outbox, Rules};

const KEYED: &[Event] = &[Event::Earlier, Event::Later];
const LONE: &[Event] = &[Event::Lone];

/// This many faults of any kind, in all three of the tests below; one more takes many times as long.
fn faults_of_any_kind(default: u8) -> u8 {
    let wanted = std::env::var("OUTBOX_MODEL_FAULTS").ok();
    wanted.map_or(default, |wanted| wanted.parse().expect("OUTBOX_MODEL_FAULTS is a small number"))
}

fn assert_everything_holds(any: u8, events: &'static [Event], deletes: bool) {
    let any = faults_of_any_kind(any);
    let faults = Faults {
        any,
        crashes: any,
        lost: any,
        expiries: any,
        refusals: any,
        stops: any,
        moves: any,
        looks: any,
        drops: any,
        operator_actions: any,
        doubts: any,
        failovers: any,
        defects: any,
        replays: 1,
        restores: 0,
    };
    let outbox = Outbox { rules: Rules::ALL, faults, events, max_retries: 2, deletes };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let checker = outbox.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    println!("{} states; the longest run has {} steps", checker.unique_state_count(), checker.max_depth());
    // Smaller models do not contain every example.
    let broken = outbox.properties().into_iter().filter(|property| property.expectation == Expectation::Always);
    broken.for_each(|property| checker.assert_no_discovery(property.name));
}

#[test]
fn whatever_goes_wrong_every_event_is_published_once_and_in_order() {
    assert_everything_holds(1, &Event::ALL, false);
}

#[test]
fn whatever_goes_wrong_a_keys_events_are_published_once_and_in_order() {
    assert_everything_holds(2, KEYED, false);
}

#[test]
fn whatever_goes_wrong_an_event_is_published_once() {
    assert_everything_holds(2, LONE, false);
}

#[test]
fn whatever_goes_wrong_events_that_are_deleted_once_done_are_published_once_and_in_order() {
    assert_everything_holds(1, &Event::ALL, true);
    assert_everything_holds(2, LONE, true);
}

#[test]
fn leases_that_were_restored_from_a_backup_do_no_harm() {
    let faults = Faults { any: 1, restores: 1, ..Faults::default() };
    assert_eq!(broken(outbox(Rules::ALL, faults, &Event::ALL)), None);
}

#[test]
fn without_fencing_a_late_batch_is_sent_twice() {
    let faults = Faults { any: 1, lost: 1, ..Faults::default() };
    assert_is_needed(Rules { fencing: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn without_the_journal_a_lost_answer_sends_twice() {
    let faults = Faults { any: 1, lost: 1, ..Faults::default() };
    assert_is_needed(Rules { journal: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn without_r1_a_shard_that_comes_back_is_sent_twice() {
    let faults = Faults { any: 2, moves: 2, ..Faults::default() };
    assert_is_needed(Rules { r1: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn without_r2_a_stale_answer_sends_twice() {
    let faults = Faults { any: 1, looks: 1, ..Faults::default() };
    assert_is_needed(Rules { r2: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn without_r3_a_key_goes_on_before_its_refused_event() {
    let faults = Faults { any: 1, refusals: 1, ..Faults::default() };
    assert_is_needed(Rules { r3: false, ..Rules::ALL }, outbox(Rules::ALL, faults, KEYED), IN_ORDER);
}

/// A worker accepts an event and loses its shard before it has recorded that; another records it; an operator replays it;
/// the other sends the replay and dies; the shard comes back.
#[test]
fn without_waiting_for_what_it_replays_a_replay_is_sent_twice() {
    let faults = Faults { any: 3, crashes: 1, expiries: 1, replays: 1, ..Faults::default() };
    assert_is_needed(Rules { replays_wait: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

/// A dead worker's record of an event fails it after an operator has restarted it: it is lost without an attempt.
#[test]
fn without_the_fenced_settle_an_event_is_failed_untried() {
    let faults = Faults { any: 4, crashes: 1, refusals: 2, operator_actions: 1, ..Faults::default() };
    let outbox = Outbox { max_retries: 1, ..outbox(Rules::ALL, faults, LONE) };
    assert_is_needed(Rules { fenced_settle: false, ..Rules::ALL }, outbox, TRIED);
}

/// A worker loses its shard before it has recorded a rejection; another sends the event and dies; the shard comes back, and
/// its journal names an event that is still in flight as rejected. The rejection is then not recorded, and the event would
/// be reread.
#[test]
fn without_closing_shards_of_unrecorded_rejections_events_are_sent_twice() {
    let faults = Faults { any: 3, crashes: 1, expiries: 1, refusals: 1, ..Faults::default() };
    assert_is_needed(Rules { refused_closes: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

/// As above, and the rejection was recorded in time, but is still kept in memory because of an old fetch.
#[test]
fn without_waiting_for_settles_kept_in_memory_events_are_sent_twice() {
    let faults = Faults { any: 4, crashes: 1, expiries: 1, refusals: 1, looks: 1, ..Faults::default() };
    assert_is_needed(Rules { settled_waits: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

/// It costs a lease, and no more: the worker that holds it then fences the other's session.
#[test]
fn without_fenced_leases_a_late_release_frees_what_was_taken_since() {
    let faults = Faults { any: 2, lost: 1, moves: 1, ..Faults::default() };
    assert_is_needed(Rules { fenced_leases: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), LEASED);
}

/// The statement that records a rejection is repeated after an operator has restarted the event, and finds the lease and the
/// count that it names.
#[test]
fn without_the_time_of_change_a_repeated_rejection_undoes_a_manual_retry() {
    let faults = Faults { any: 3, lost: 1, refusals: 1, operator_actions: 1, ..Faults::default() };
    let outbox = Outbox { max_retries: 1, ..outbox(Rules::ALL, faults, LONE) };
    assert_is_needed(Rules { settled_as_read: false, ..Rules::ALL }, outbox, TRIED);
}

// A standby that takes over.

/// The settle is visible and its wait was cancelled; the repetition changes no row; the journal's entry is removed; the
/// standby takes over without the settle.
#[test]
fn without_a_wait_a_repetition_believes_what_no_standby_has() {
    let faults = Faults { any: 2, doubts: 1, failovers: 1, ..Faults::default() };
    assert_is_needed(Rules { repetition_waits: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

/// As above, and the entry is removed by the next open, which finds the row published.
#[test]
fn without_a_wait_recovery_believes_what_no_standby_has() {
    let faults = Faults { any: 3, doubts: 1, drops: 1, failovers: 1, ..Faults::default() };
    assert_is_needed(Rules { recovery_waits: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

/// The standby takes over between the two, so the wait is for the data of the new server.
#[test]
fn a_wait_on_another_connection_says_nothing_of_what_was_read() {
    let faults = Faults { any: 3, doubts: 1, drops: 1, failovers: 1, ..Faults::default() };
    assert_is_needed(Rules { waits_where_it_read: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

/// A deleted row is found gone where a published one is found published.
#[test]
fn without_a_wait_a_deletion_is_believed_that_no_standby_has() {
    let faults = Faults { any: 3, doubts: 1, drops: 1, failovers: 1, ..Faults::default() };
    for without in [Rules { repetition_waits: false, ..Rules::ALL }, Rules { recovery_waits: false, ..Rules::ALL }] {
        let outbox = Outbox { deletes: true, ..outbox(Rules::ALL, faults, LONE) };
        assert_is_needed(without, outbox, ONCE);
    }
}

/// A fetch reads an event that is then deleted, and the answer comes after its id was published again.
#[test]
fn without_r2_a_stale_answer_sends_a_deleted_event_again() {
    let faults = Faults { any: 1, looks: 1, ..Faults::default() };
    let outbox = Outbox { deletes: true, ..outbox(Rules::ALL, faults, LONE) };
    assert_is_needed(Rules { r2: false, ..Rules::ALL }, outbox, ONCE);
}

// Rows that a settle does not record.

/// The first execution of a settle holds the lock; its repetition skips the row; the first is rolled back.
#[test]
fn a_skipped_row_that_is_taken_for_recorded_is_sent_twice() {
    let faults = Faults { any: 1, lost: 1, ..Faults::default() };
    assert_is_needed(Rules { skipped_is_repeated: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn undivided_one_row_keeps_others_from_being_recorded() {
    let faults = Faults { any: 1, defects: 1, ..Faults::default() };
    assert_is_needed(Rules { divides: false, ..Rules::ALL }, outbox(Rules::ALL, faults, &Event::ALL), SETTLED);
}

#[test]
fn what_cannot_be_recorded_and_is_forgotten_is_sent_twice() {
    let faults = Faults { any: 1, defects: 1, ..Faults::default() };
    assert_is_needed(Rules { keeps_unrecorded: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn what_cannot_be_recorded_and_counts_as_busy_keeps_its_shard_from_all() {
    let faults = Faults { any: 2, defects: 1, moves: 1, ..Faults::default() };
    assert_is_needed(Rules { unrecorded_is_idle: false, ..Rules::ALL }, outbox(Rules::ALL, faults, KEYED), SETTLED);
}

/// Asserts that with all rules every property holds, and that without this one the property does not.
fn assert_is_needed(without: Rules, outbox: Outbox, property: &'static str) {
    assert_eq!(broken(outbox), None);
    let run = run_that_breaks(Outbox { rules: without, ..outbox }, property);
    assert!(run.is_some(), "it holds without {without:?}");
}

/// A property that does not hold.
fn broken(outbox: Outbox) -> Option<&'static str> {
    check::broken(outbox).filter(|name| ![TAKEN_OVER, REPLAYED].contains(name))
}

fn outbox(rules: Rules, faults: Faults, events: &'static [Event]) -> Outbox {
    Outbox { rules, faults, events, max_retries: 2, deletes: false }
}
