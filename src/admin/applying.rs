//! Applies an action to batches of events.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::change::{ChangeReport, Selection};
use super::lane_access::LaneAccess;
use super::{AdminError, OutboxAdmin, Result};
use crate::event::Status;
use crate::publish::check_backend;
use crate::store::{Action, AuditNote};

/// Applies one action. It keeps the access to the last lane, because most batches are of one lane.
pub(super) struct Changer<'a> {
    admin: &'a OutboxAdmin,
    pub(super) action: &'a Action,
    /// Only events in one of these are deleted or moved.
    statuses: Vec<Status>,
    note: AuditNote,
    access: Option<LaneAccess>,
    /// Why a lane's events cannot be changed.
    refusals: BTreeMap<String, String>,
}

impl<'a> Changer<'a> {
    pub(super) fn new(admin: &'a OutboxAdmin, action: &'a Action, selection: &Selection, note: AuditNote) -> Self {
        let statuses = match selection {
            Selection::Ids(_) => Status::ALL.to_vec(),
            Selection::Matching { filter, .. } => {
                action.narrow(filter).map(|filter| filter.statuses).unwrap_or_default()
            }
        };
        Self { admin, action, statuses, note, access: None, refusals: BTreeMap::new() }
    }

    /// Changes those of the events that allow it.
    pub(super) async fn apply(&mut self, ids: &[Uuid], report: &mut ChangeReport) -> Result<()> {
        let changed = match self.action {
            Action::Retry | Action::Fail { .. } | Action::Replay => {
                self.admin.store.change(self.action, ids, &self.note).await?
            }
            Action::Delete | Action::Move { .. } => self.change_alone(ids, report).await?,
        };
        report.add(ids, changed);
        Ok(())
    }

    pub(super) async fn end(self) {
        if let Some(access) = self.access {
            access.close().await;
        }
    }

    /// Changes events lane by lane, each while no worker can send its events.
    async fn change_alone(&mut self, ids: &[Uuid], report: &mut ChangeReport) -> Result<Vec<Uuid>> {
        let mut by_lane: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
        for (id, lane) in self.admin.store.lanes_of(ids).await? {
            by_lane.entry(lane).or_default().push(id);
        }
        let mut changed = Vec::new();
        for (lane, ids) in by_lane {
            match self.change_in_lane(&lane, &ids, report).await? {
                Ok(done) => changed.extend(done),
                Err(reason) => report.reasons.extend(ids.iter().map(|id| (*id, format!("event {id}: {reason}")))),
            }
        }
        Ok(changed)
    }

    /// Changes events of one lane; or says why none of them can be changed.
    async fn change_in_lane(
        &mut self,
        lane: &str,
        ids: &[Uuid],
        report: &mut ChangeReport,
    ) -> Result<Result<Vec<Uuid>, String>> {
        if let Action::Move { to } = self.action {
            if to == lane {
                return Ok(Err("it already has that backend".to_owned()));
            }
            if let Err(error) = check_backend(to) {
                return Ok(Err(error.to_string()));
            }
        }
        let access = match self.access_to(lane).await? {
            Ok(access) => access,
            Err(reason) => return Ok(Err(reason)),
        };
        let (sent, unsent): (Vec<Uuid>, Vec<Uuid>) = ids.iter().partition(|id| access.is_unrecorded(**id));
        let claim = access.claim();
        let reason = |id: Uuid| format!("event {id} was sent, and that is not recorded yet; try again in a moment");
        report.reasons.extend(sent.into_iter().map(|id| (id, reason(id))));
        let store = &self.admin.store;
        let changed = match self.action {
            Action::Move { to } => store.transfer(&claim, to, &self.statuses, &unsent, &self.note).await?,
            _ => store.delete(&claim, &self.statuses, &unsent, &self.note).await?,
        };
        Ok(changed.ok_or_else(|| "a worker has taken its backend in the meantime; try again".to_owned()))
    }

    async fn access_to(&mut self, lane: &str) -> Result<Result<&LaneAccess, String>> {
        if let Some(reason) = self.refusals.get(lane) {
            return Ok(Err(reason.clone()));
        }
        let current = self.access.take();
        let access = match self.renewed(current, lane).await? {
            Some(access) => access,
            None => match LaneAccess::open(self.admin, lane, &format!("outbox events {}", self.action.name())).await {
                Ok(access) => access,
                Err(AdminError::Store(error)) => return Err(error),
                Err(error) => {
                    self.refusals.insert(lane.to_owned(), error.to_string());
                    return Ok(Err(error.to_string()));
                }
            },
        };
        Ok(Ok(self.access.insert(access)))
    }

    /// The current access, if it is to this lane and still holds; else it is closed.
    async fn renewed(&self, current: Option<LaneAccess>, lane: &str) -> Result<Option<LaneAccess>> {
        let Some(mut access) = current else { return Ok(None) };
        if *access.lane == *lane && access.renew().await? {
            return Ok(Some(access));
        }
        access.close().await;
        Ok(None)
    }
}
