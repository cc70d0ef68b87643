//! A model of how actix-outbox hands events over.

mod database;
mod events;
mod flight;
mod heart;
mod message;
mod poller;
mod properties;
mod publisher;
mod redis;
mod rules;
mod settling;
mod state;
mod steps;
mod worker;

use stateright::{Checker, Model, Property};

use crate::rules::{Faults, Outbox, Rules};
use crate::state::State;
use crate::steps::Step;

impl Model for Outbox {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new([0, 0], self.faults), State::new([0, 1], self.faults)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let happening = state.steps(self);
        state.misfortunes(self, &happening, steps);
        steps.extend(happening);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        next.take(step, self);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

fn get(name: &str) -> u8 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[test]
fn explore() {
    let mut rules = Rules::ALL;
    for off in std::env::var("OFF").unwrap_or_default().split(',') {
        match off {
            "fencing" => rules.fencing = false,
            "journal" => rules.journal = false,
            "r1" => rules.r1 = false,
            "r2" => rules.r2 = false,
            "r3" => rules.r3 = false,
            "settle" => rules.fenced_settle = false,
            "leases" => rules.fenced_leases = false,
            _ => {}
        }
    }
    let faults = Faults {
        any: get("ANY").max(1),
        crashes: get("CRASHES"),
        lost: get("LOST"),
        expiries: get("EXPIRIES"),
        refusals: get("REFUSALS"),
        stops: get("STOPS"),
        moves: get("MOVES"),
        looks: get("LOOKS"),
        replays: get("REPLAYS"),
        orders: get("ORDERS"),
        restores: get("RESTORES"),
    };
    let outbox = Outbox { rules, faults, max_retries: get("MAX").max(1) };
    let start = std::time::Instant::now();
    let b = outbox.checker().finish_when(stateright::HasDiscoveries::AnyFailures).target_state_count(200_000_000);
    let mut found = Vec::new();
    let (unique, depth);
    if std::env::var("BFS").is_ok() {
        let c = b.spawn_bfs().join();
        (unique, depth) = (c.unique_state_count(), c.max_depth());
        found.extend(c.discoveries());
    } else {
        let c = b.spawn_dfs().join();
        (unique, depth) = (c.unique_state_count(), c.max_depth());
        found.extend(c.discoveries());
    }
    println!("{faults:?}: {unique} states, depth {depth}, {:?}", start.elapsed());
    for (name, path) in found {
        println!("FOUND {name}");
        for (_, step) in path.clone().into_vec() {
            println!("   {step:?}");
        }
        if get("STATE") > 0 {
            println!("{:#?}", path.last_state());
        }
    }
}
