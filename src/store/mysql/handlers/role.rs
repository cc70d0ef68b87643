//! The store's role for handlers.

use std::collections::HashMap;

use async_trait::async_trait;
use uuid::Uuid;

use super::{announcements, answers, deliveries, owed, rejections};
use crate::store::mysql::MysqlStore;
use crate::store::mysql::session::{in_transaction, on_session};
use crate::store::{
    Announcement, Care, DeliveryRequest, FetchedDelivery, HandledDelivery, HandlerStore, OwedHandler, RejectedDelivery,
    Result, Settled,
};

#[async_trait]
impl HandlerStore for MysqlStore {
    async fn announce(&self, handlers: &[Announcement]) -> Result<()> {
        in_transaction!(self.pool, "announce handlers", |session| announcements::announce(session, handlers))
    }

    async fn see_handlers(&self, names: &[String]) -> Result<()> {
        in_transaction!(self.pool, "mark handlers as seen", |session| announcements::see(session, names))
    }

    async fn drop_handler(&self, name: &str) -> Result<usize> {
        announcements::drop_handler(self, name).await
    }

    async fn fetch_deliveries(&self, request: &DeliveryRequest) -> Result<Vec<FetchedDelivery>> {
        deliveries::fetch(self, request).await
    }

    async fn settle_handled(&self, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>> {
        answers::record_handled(self, handled, care).await
    }

    async fn settle_rejected_deliveries(&self, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>> {
        rejections::record_rejected(self, owner, rejected).await
    }

    async fn has_due_deliveries(&self, handlers: &[String]) -> Result<bool> {
        on_session!(self.pool, "check for due deliveries", |session| deliveries::has_due(session, handlers))
    }

    async fn owed_before(&self, lane: &str, keys: &[String]) -> Result<HashMap<String, Vec<String>>> {
        on_session!(self.pool, "find handlers owed a key's events", |session| owed::owed_before(session, lane, keys))
    }

    async fn owed(&self) -> Result<Vec<OwedHandler>> {
        on_session!(self.pool, "count owed deliveries", |session| owed::owed(session))
    }
}
