//! Every handler receives every event, and each part of the protocol is needed.

use super::*;
use crate::check::{broken, endless_run, run_that_breaks};

const FAULTS: Faults = Faults { late: 1, deaths: 1, drops: 1 };

fn assert_is_needed(off: impl Fn(&mut Rules), property: &'static str) {
    let mut rules = Rules::ALL;
    off(&mut rules);
    let run = run_that_breaks(Handlers { rules, faults: FAULTS }, property);
    assert!(run.is_some(), "it holds without: {rules:?}");
}

#[test]
fn whatever_goes_wrong_every_handler_is_met() {
    let model = Handlers { rules: Rules::ALL, faults: FAULTS };
    assert_eq!(broken(model), None);
    assert_eq!(endless_run(&model), None);
}

#[test]
fn by_a_heartbeats_view_a_handler_that_has_just_begun_is_not_met() {
    assert_is_needed(|rules| rules.reads_announcements = false, MET);
}

#[test]
fn handlers_miss_events_if_announcements_end_with_their_process() {
    assert_is_needed(|rules| rules.announcements_outlive = false, MET);
}

#[test]
fn a_late_settle_that_adds_names_has_a_handler_met_twice() {
    assert_is_needed(|rules| rules.first_fixes = false, ONCE);
}

#[test]
fn an_answer_that_writes_what_it_remembers_has_a_handler_met_twice() {
    assert_is_needed(|rules| rules.removes_its_own_name = false, ONCE);
}

#[test]
fn two_last_answers_decided_in_old_snapshots_leave_an_event_unfinished() {
    assert_is_needed(|rules| rules.decides_under_the_lock = false, FINISHED);
}

#[test]
fn a_delivery_written_after_its_handler_was_dropped_blocks_its_event() {
    assert_is_needed(|rules| rules.drops_late_deliveries = false, DONE);
}

#[test]
fn without_generations_a_name_inherits_what_was_dropped() {
    assert_is_needed(|rules| rules.generations = false, DROPPED);
}

#[test]
fn a_taker_that_does_not_wait_meets_a_key_out_of_order() {
    assert_is_needed(|rules| rules.taker_waits = false, IN_ORDER);
}

#[test]
fn a_deliverer_that_does_not_wait_meets_a_key_out_of_order() {
    assert_is_needed(|rules| rules.deliverer_waits = false, IN_ORDER);
}
