//! `local`: accepts everything, for applications that want only the handlers.

use async_trait::async_trait;

use super::{BackendError, PublisherBackend};
use crate::event::OutboxEvent;

pub(crate) struct Local;

#[async_trait]
impl PublisherBackend for Local {
    async fn publish(&self, _event: &OutboxEvent) -> Result<(), BackendError> {
        Ok(())
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        Ok(())
    }
}
