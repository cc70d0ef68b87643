//! Every event is sent once and in order, and each part of the protocol is needed.

use super::*;
use crate::check::{broken, endless_run, run_that_breaks};

const FAULTS: Faults = Faults { takeovers: 2, deaths: 1, late: 1, locks: 1, looks: 1 };

fn assert_is_needed(off: impl Fn(&mut Rules), property: &'static str) {
    let mut rules = Rules::ALL;
    off(&mut rules);
    let run = run_that_breaks(Routing { rules, faults: FAULTS }, property);
    assert!(run.is_some(), "it holds without: {rules:?}");
}

#[test]
fn whatever_goes_wrong_an_event_is_sent_once_and_in_order() {
    let model = Routing { rules: Rules::ALL, faults: FAULTS };
    assert_eq!(broken(model), None);
    assert_eq!(endless_run(&model), None);
}

#[test]
fn a_late_statement_without_a_fence_moves_what_another_worker_has_sent() {
    assert_is_needed(|rules| rules.fenced = false, ONCE);
}

#[test]
fn without_the_journal_an_event_is_moved_that_was_sent() {
    assert_is_needed(|rules| rules.reads_the_journal = false, ONCE);
}

#[test]
fn an_event_that_does_not_block_its_key_is_overtaken() {
    assert_is_needed(|rules| rules.blocks_its_key = false, IN_ORDER);
}

#[test]
fn an_event_whose_row_is_locked_is_overtaken_by_one_in_the_same_statement() {
    assert_is_needed(|rules| rules.keeps_order = false, IN_ORDER);
}
