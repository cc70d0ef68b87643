//! Records answers one by one, after the server has refused a statement for all of them.

use crate::store::Settled;
use crate::store::mysql::error::Failure;

/// The most rows of a call that are found to be refused. The others come again.
const MOST_REFUSED: usize = 20;

/// The outcomes so far.
pub(super) struct Recording {
    count: usize,
    outcomes: Vec<Settled>,
    refused: usize,
    refusal: Option<Failure>,
}

impl Recording {
    pub(super) fn new(count: usize) -> Self {
        Self { count, outcomes: Vec::with_capacity(count), refused: 0, refusal: None }
    }

    pub(super) fn is_over(&self) -> bool {
        self.refused >= MOST_REFUSED
    }

    pub(super) fn note(&mut self, written: Result<Settled, Failure>) -> Result<(), Failure> {
        match written {
            Ok(outcome) => self.outcomes.push(outcome),
            Err(failure) if failure.is_refusal() => {
                self.outcomes.push(Settled::Refused(failure.reason.clone()));
                self.refused += 1;
                self.refusal = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// If all of several are refused, no row is to blame.
    pub(super) fn outcomes(mut self) -> Result<Vec<Settled>, Failure> {
        match self.refusal {
            Some(failure) if self.refused == self.outcomes.len() && self.count > 1 => Err(failure),
            _ => {
                self.outcomes.resize(self.count, Settled::Untried);
                Ok(self.outcomes)
            }
        }
    }
}

/// Writes items one after the other in one transaction. What is written of a refused one is undone. `$write` is a future of a
/// `Result<Settled, Failure>`.
macro_rules! record_each {
    ($session:ident, $items:expr, |$item:ident| $write:expr) => {{
        let mut recording = $crate::store::mysql::handlers::recording::Recording::new($items.len());
        for $item in $items {
            if recording.is_over() {
                break;
            }
            $session.run("SAVEPOINT before_one").await?;
            let written: Result<Settled, Failure> = $write.await;
            if written.as_ref().is_err_and(Failure::is_refusal) {
                $session.run("ROLLBACK TO SAVEPOINT before_one").await?;
            }
            recording.note(written)?;
        }
        recording.outcomes()
    }};
}
pub(super) use record_each;
