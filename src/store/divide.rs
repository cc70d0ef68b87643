//! Divides a batch that the server refuses, until the refused rows are found.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;

use crate::error::StoreError;
use crate::store::{Result, Settled};

/// The most statements for one batch. Two refused rows among 2,000 need 44.
pub(crate) const MAX_STATEMENTS: usize = 64;

/// Writes a batch; on a refusal, in parts. After an error nothing is known: a batch in doubt is never divided, and if every
/// part is refused, no row is to blame.
pub(crate) async fn divide<E, S, F>(events: &[E], write: impl Fn(Vec<E>) -> F) -> Result<Vec<S>>
where
    E: Clone,
    S: From<Settled>,
    F: Future<Output = Result<Vec<S>>>,
{
    let refusal = match write(events.to_vec()).await {
        Err(error) if error.is_refusal() => error,
        answer => return answer,
    };
    if events.len() == 1 {
        return Ok(vec![Settled::Refused(refusal.to_string()).into()]);
    }
    let mut search = Search::new(events.len());
    while let Some(part) = search.next() {
        let batch = part.iter().map(|&index| events[index].clone()).collect();
        search.note(part, write(batch).await)?;
    }
    search.outcomes().ok_or(refusal)
}

/// A depth-first search over halves of a shuffled batch: rows that are refused for the same reason are often adjacent, and
/// the search must reach others too.
struct Search<S> {
    parts: Vec<Vec<usize>>,
    statements: usize,
    passed: bool,
    found: BTreeMap<usize, S>,
    events: usize,
}

impl<S: From<Settled>> Search<S> {
    fn new(events: usize) -> Self {
        let mut all: Vec<usize> = (0..events).collect();
        all.shuffle(&mut rand::rng());
        Self { parts: halves(all), statements: 1, passed: false, found: BTreeMap::new(), events }
    }

    fn next(&mut self) -> Option<Vec<usize>> {
        if self.statements == MAX_STATEMENTS {
            return None;
        }
        self.statements += 1;
        self.parts.pop()
    }

    fn note(&mut self, part: Vec<usize>, answer: Result<Vec<S>>) -> Result<(), StoreError> {
        match answer {
            Ok(settled) => {
                self.passed = true;
                self.found.extend(part.into_iter().zip(settled));
            }
            Err(error) if !error.is_refusal() => return Err(error),
            Err(error) => match part.as_slice() {
                [row] => drop(self.found.insert(*row, Settled::Refused(error.to_string()).into())),
                _ => self.parts.extend(halves(part)),
            },
        }
        Ok(())
    }

    /// `None`: every part was refused.
    fn outcomes(mut self) -> Option<Vec<S>> {
        let outcome = |index| self.found.remove(&index).unwrap_or_else(|| Settled::Untried.into());
        self.passed.then(|| (0..self.events).map(outcome).collect())
    }
}

fn halves(mut part: Vec<usize>) -> Vec<Vec<usize>> {
    let second = part.split_off(part.len() / 2);
    vec![second, part]
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn error(sqlstate: &str) -> StoreError {
        let (operation, sqlstate, reason) = ("test", sqlstate.to_owned(), "no".to_owned());
        StoreError::Refused { operation, sqlstate, reason }
    }

    /// Writes numbers; those that match `refused` are refused with the SQLSTATE.
    async fn write(
        count: usize,
        statements: &Cell<usize>,
        sqlstate: &str,
        refused: impl Fn(usize) -> bool,
    ) -> Result<Vec<Settled>> {
        let events: Vec<usize> = (0..count).collect();
        divide(&events, |batch| {
            statements.set(statements.get() + 1);
            let answer = if batch.iter().any(|&event| refused(event)) {
                Err(error(sqlstate))
            } else {
                Ok(vec![Settled::Recorded; batch.len()])
            };
            std::future::ready(answer)
        })
        .await
    }

    #[tokio::test]
    async fn two_refused_rows_of_two_thousand_are_found_and_the_others_recorded() {
        let statements = Cell::new(0);
        let outcomes = write(2_000, &statements, "P0001", |event| [3, 1_500].contains(&event)).await.unwrap();
        for (event, outcome) in outcomes.iter().enumerate() {
            let expected_refusal = [3, 1_500].contains(&event);
            assert_eq!(matches!(outcome, Settled::Refused(_)), expected_refusal, "{event}: {outcome:?}");
            assert!(expected_refusal || *outcome == Settled::Recorded, "{event}: {outcome:?}");
        }
        assert!(statements.get() <= MAX_STATEMENTS);
    }

    #[tokio::test]
    async fn where_everything_is_refused_no_row_is_to_blame() {
        let statements = Cell::new(0);
        let error = write(2_000, &statements, "42501", |_| true).await.unwrap_err();
        assert!(error.is_refusal());
        assert!(statements.get() <= MAX_STATEMENTS);
    }

    #[tokio::test]
    async fn if_a_tenth_of_the_rows_is_refused_in_sequence_others_are_recorded() {
        let outcomes = write(1_000, &Cell::new(0), "23514", |event| event < 100).await.unwrap();
        assert!(outcomes.contains(&Settled::Recorded), "some are recorded, the others come again");
        assert!(!outcomes[100..].iter().any(|outcome| matches!(outcome, Settled::Refused(_))));
    }

    #[tokio::test]
    async fn a_doubt_is_not_divided() {
        let (statements, events) = (Cell::new(0), [1, 2, 3]);
        let lost = || StoreError::Timeout { operation: "test", limit: std::time::Duration::ZERO };
        let answer = divide(&events, |_| {
            statements.set(statements.get() + 1);
            std::future::ready(Err::<Vec<Settled>, _>(lost()))
        });
        answer.await.unwrap_err();
        assert_eq!(statements.get(), 1);
    }
}
