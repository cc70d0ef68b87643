//! The events of one call, and those of them whose ids are in use.

use uuid::Uuid;

use super::errors::unexpected;
use crate::error::{IdConflict, PublishError};
use crate::publish::prepared::{MAX_RETRIES, PARAMS, PreparedEvent};
use crate::publish::{NewEvent, ValidEvent, prepare_all};

/// The values of one parameter of [`PreparedEvent`], for several events.
pub(super) type Column<'a> = Vec<Option<&'a str>>;

/// Events of one call, which one statement writes.
pub(super) struct Batch {
    events: Vec<BatchEvent>,
    /// One statement writes all or none by itself: every id is new, or there is only one event.
    pub(super) can_stand_alone: bool,
}

pub(super) struct BatchEvent {
    pub(super) prepared: PreparedEvent,
    /// The event, if the caller chose its id, so that it may be a repetition.
    pub(super) given: Option<ValidEvent>,
}

/// Events that were not written because their ids are in use, by their places in the batch.
pub(super) struct Repeated<'a>(Vec<(usize, &'a BatchEvent)>);

impl Batch {
    pub(super) fn one(event: NewEvent) -> Result<Self, PublishError> {
        Ok(Self::from_valid(vec![event.into_valid()?]))
    }

    pub(super) fn many(events: impl IntoIterator<Item = NewEvent>) -> Result<Self, PublishError> {
        Ok(Self::from_valid(prepare_all(events)?))
    }

    fn from_valid(events: Vec<ValidEvent>) -> Self {
        let can_stand_alone = events.len() <= 1 || events.iter().all(|event| event.is_new);
        let prepare = |event: ValidEvent| {
            let given = (!event.is_new).then(|| event.clone());
            BatchEvent { prepared: PreparedEvent::new(event), given }
        };
        Self { events: events.into_iter().map(prepare).collect(), can_stand_alone }
    }

    pub(super) fn events(&self) -> &[BatchEvent] {
        &self.events
    }

    pub(super) fn ids(&self) -> Vec<Uuid> {
        self.events.iter().map(|event| event.prepared.id()).collect()
    }

    pub(super) fn only_id(&self) -> Result<Uuid, PublishError> {
        let id = self.events.first().map(|event| event.prepared.id());
        id.ok_or_else(|| unexpected("the batch has no event".to_owned()).into())
    }

    /// No event can be a repetition.
    pub(super) fn are_new(&self) -> bool {
        self.events.iter().all(|event| event.given.is_none())
    }

    /// Whether all events have the same value of a parameter.
    pub(super) fn has_in_common(&self, n: usize) -> bool {
        let mut values = self.events.iter().map(|event| &event.prepared.params()[n]);
        values.next().is_none_or(|first| values.all(|value| value == first))
    }

    pub(super) fn column(&self, n: usize) -> Column<'_> {
        self.events.iter().map(|event| event.prepared.params()[n].as_deref()).collect()
    }

    /// The events whose ids the caller chose: they are written, or were there.
    #[cfg(feature = "mysql")]
    pub(super) fn chosen(&self) -> Repeated<'_> {
        Repeated(self.events.iter().enumerate().filter(|(_, event)| event.given.is_some()).collect())
    }

    /// The events whose ids are not among those written, which are in the order given.
    pub(super) fn repeated(&self, written: &[Uuid]) -> Repeated<'_> {
        let mut written = written.iter().peekable();
        let is_repeated =
            |(_, event): &(usize, &BatchEvent)| written.next_if(|id| **id == event.prepared.id()).is_none();
        Repeated(self.events.iter().enumerate().filter(is_repeated).collect())
    }
}

impl<'a> Repeated<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A new id cannot exist already: something in the database, such as a trigger, kept the event out.
    pub(super) fn lost(&self) -> Option<Uuid> {
        self.0.iter().find(|(_, event)| event.given.is_none()).map(|(_, event)| event.prepared.id())
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.0.iter().map(|(_, event)| event.prepared.id())
    }

    /// Like [`Batch::column`], with NULL for a value that the caller left to the outbox.
    pub(super) fn column(&self, n: usize) -> Column<'a> {
        let value = |event: &'a BatchEvent| {
            let is_set = n != MAX_RETRIES || event.given.as_ref().is_some_and(|given| given.chose_max_retries);
            event.prepared.params()[n].as_deref().filter(|_| is_set)
        };
        self.0.iter().map(|(_, event)| value(event)).collect()
    }

    /// The event at this place among the repeated ones.
    pub(super) fn given(&self, place: usize) -> Option<&'a ValidEvent> {
        self.0.get(place).and_then(|(_, event)| event.given.as_ref())
    }

    /// The error for the event at this place among the repeated ones, which differs in this column.
    pub(super) fn conflict(&self, place: usize, field: &'static str) -> Option<PublishError> {
        let (index, event) = self.0.get(place)?;
        let error = IdConflict { id: event.prepared.id(), field };
        Some(PublishError::IdConflictInBatch { index: index + 1, error })
    }
}

/// The numbers of the parameters of [`PreparedEvent`].
pub(super) fn numbers() -> std::ops::Range<usize> {
    0..PARAMS
}
