//! Changes of consumers' dead letters, with their record.

use super::OutboxAdmin;
use crate::consumer::{DeadLetters, LetterAction, LetterId, LettersChanged};
use crate::error::{StoreError, SystemError};
use crate::store::AuditNote;

impl OutboxAdmin {
    /// Retries or deletes dead letters, and records that. `by` and `from` say who asks and from where, for the log and the table
    /// of changes.
    ///
    /// Redis has no transaction with the database, so the record follows the change. Nothing is changed while the database does not
    /// answer. A database without the table of changes, such as one for an inbox alone, gets no record.
    ///
    /// # Errors
    /// Those of [`DeadLetters::retry`]; what was changed before is recorded. [`SystemError::Store`]: errors of the database, after
    /// which the log has what was changed.
    pub async fn change_letters(
        &self,
        letters: &DeadLetters,
        action: LetterAction,
        ids: &[LetterId],
        by: &str,
        from: &str,
    ) -> Result<LettersChanged, SystemError> {
        let is_recorded = match self.store.audit(None, 1).await {
            Ok(_) => true,
            Err(StoreError::NotMigrated { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        let mut changed = LettersChanged::default();
        let outcome = letters.change_and_log(action, ids, by, from, &mut changed).await;
        if is_recorded && changed.changed > 0 {
            let note = AuditNote::new(by, from, Some(format!("consumer={}", letters.consumer)));
            let names: Vec<String> = ids
                .iter()
                .filter(|id| !changed.missing.contains(id))
                .take(changed.changed)
                .map(ToString::to_string)
                .collect();
            self.store.record(note.letters_row(action.name(), changed.changed, &names.join(" "))).await?;
        }
        outcome.map(|()| changed)
    }
}
