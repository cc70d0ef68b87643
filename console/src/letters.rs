//! Dead letters of consumers: what pages and API ask for.

use std::time::Duration;

use actix_outbox::{ConsumerStatus, DeadLetters, LetterId, LettersChanged, OutboxAdmin, Settings, SystemError};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::request_info::Author;

/// Dead letters on a page.
pub(crate) const PAGE: usize = 50;

/// Dead letters in one request, at most.
pub(crate) const MOST: usize = 1_000;

/// A consumer of the settings, or why its server does not answer.
pub(crate) type Consumer = (String, Result<ConsumerStatus, SystemError>);

/// What happens to dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = LetterAction)]
pub(crate) enum LetterAction {
    /// Gives them to the consumer's group again, and to no other group.
    Retry,
    /// Deletes them for good.
    Delete,
}

/// Those that are meant.
pub(crate) enum Letters {
    These(Vec<LetterId>),
    /// All that there are now, up to [`MOST`].
    All,
}

/// The consumers of the settings. Each server has this time to answer, and none waits for another.
pub(crate) async fn consumers(settings: &Settings, limit: Duration) -> Vec<Consumer> {
    let asked = settings.consumers.keys().map(async |name| {
        let status = timeout(limit, ConsumerStatus::of(settings, name)).await;
        (name.clone(), status.unwrap_or_else(|_| Err(SystemError::Source(format!("no answer within {limit:?}")))))
    });
    futures_util::future::join_all(asked).await
}

/// Changes dead letters, and records who did it.
pub(crate) async fn change(
    settings: &Settings,
    admin: &OutboxAdmin,
    consumer: &str,
    action: LetterAction,
    letters: Letters,
    author: &Author,
) -> Result<LettersChanged, SystemError> {
    let dead = DeadLetters::of(settings, consumer)?;
    let ids = match letters {
        Letters::These(ids) => ids,
        Letters::All => dead.list(None, MOST).await?.into_iter().map(|letter| letter.id).collect(),
    };
    let action = match action {
        LetterAction::Retry => actix_outbox::LetterAction::Retry,
        LetterAction::Delete => actix_outbox::LetterAction::Delete,
    };
    admin.change_letters(&dead, action, &ids, &author.actor, &author.from).await
}
