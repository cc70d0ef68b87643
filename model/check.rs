//! How a model is checked: what holds in every state, what is found in some, and whether it comes to rest.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

/// An `always` property that does not hold, or a `sometimes` property without an example.
pub(crate) fn broken<M>(model: M) -> Option<&'static str>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Hash + Clone + Send + Sync + PartialEq + 'static,
    M::Action: Clone + PartialEq,
{
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{} states; the longest run has {} steps", checker.unique_state_count(), checker.max_depth());
    let found = |name: &'static str| checker.discovery(name).is_some();
    let properties = checker.model().properties();
    // A violation comes before a missing example: a check that found a violation has stopped.
    let failed = properties.iter().find(|property| match property.expectation {
        Expectation::Always => found(property.name),
        Expectation::Sometimes => !found(property.name),
        Expectation::Eventually => false,
    });
    failed.map(|property| property.name)
}

/// The shortest run that breaks a property.
pub(crate) fn run_that_breaks<M>(model: M, property: &'static str) -> Option<Vec<M::Action>>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Hash + Clone + std::fmt::Debug + Send + Sync + PartialEq + 'static,
    M::Action: Clone + PartialEq + std::fmt::Debug,
{
    let checker = model.checker().finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property]))).spawn_bfs().join();
    let steps = checker.discovery(property).map(Path::into_actions);
    println!("{property}, but {:#?}", steps.as_deref().unwrap_or_default());
    steps
}

/// A run that is a cycle. Each fault happens a limited number of times, so a cycle consists of ordinary steps.
pub(crate) fn endless_run<M>(model: &M) -> Option<Vec<M::Action>>
where
    M: Model,
    M::State: Hash,
    M::Action: Clone + std::fmt::Debug,
{
    let mut search = Search { model, is_on_the_way: HashMap::new(), way: Vec::new() };
    let circle = model.init_states().into_iter().find_map(|state| search.from(state));
    println!("{} states; a circle of: {circle:#?}", search.is_on_the_way.len());
    circle
}

/// A depth-first search without recursion: runs are too long for the stack.
struct Search<'a, M: Model> {
    model: &'a M,
    /// Every visited state by its hash, and whether it is on the current path.
    is_on_the_way: HashMap<u64, bool>,
    /// The path from the initial state to the current one.
    way: Vec<Visit<M>>,
}

struct Visit<M: Model> {
    hash: u64,
    by: Option<M::Action>,
    next: Vec<(M::Action, M::State)>,
}

impl<M> Search<'_, M>
where
    M: Model,
    M::State: Hash,
    M::Action: Clone,
{
    fn from(&mut self, state: M::State) -> Option<Vec<M::Action>> {
        let mut circle = self.enter(None, &state);
        while circle.is_none()
            && let Some(visit) = self.way.last_mut()
        {
            match visit.next.pop() {
                Some((action, state)) => circle = self.enter(Some(action), &state),
                None => self.leave(),
            }
        }
        circle
    }

    /// Returns the cycle that ends here.
    fn enter(&mut self, by: Option<M::Action>, state: &M::State) -> Option<Vec<M::Action>> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(state);
        match self.is_on_the_way.get(&hash) {
            Some(false) => None,
            Some(true) => {
                let circle = self.way.iter().skip_while(|visit| visit.hash != hash).skip(1);
                Some(circle.filter_map(|visit| visit.by.clone()).chain(by).collect())
            }
            None => {
                self.is_on_the_way.insert(hash, true);
                self.way.push(Visit { hash, by, next: self.model.next_steps(state) });
                None
            }
        }
    }

    fn leave(&mut self) {
        if let Some(visit) = self.way.pop() {
            self.is_on_the_way.insert(visit.hash, false);
        }
    }
}
