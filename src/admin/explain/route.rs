//! The route that decides about an event's backend.

use std::fmt;

use crate::event::{OutboxEvent, Status};
use crate::settings::Settings;

/// What a route has to do with an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RouteNote {
    /// From 1, in the order of the settings.
    pub(super) number: usize,
    publisher: String,
    effect: Effect,
}

#[derive(Debug, PartialEq, Eq)]
enum Effect {
    /// A worker moves it.
    WillMove,
    /// It is where the route leads.
    IsThere,
}

impl RouteNote {
    pub(super) fn of(settings: &Settings, event: &OutboxEvent) -> Option<Self> {
        let (number, route) = settings.route_like(event)?;
        let publisher = route.publisher.clone();
        let is_unsent = event.published_at.is_none() && matches!(event.status, Status::Pending | Status::Retry);
        let effect = match settings.destination(event) {
            Some(_) if is_unsent => Effect::WillMove,
            // It was sent, or ended, before the route was there.
            Some(_) => return None,
            None if settings.lanes_of(&publisher).contains(&event.publisher_backend.as_str()) => Effect::IsThere,
            // Its own choice.
            None => return None,
        };
        Some(Self { number, publisher, effect })
    }
}

impl fmt::Display for RouteNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, publisher, effect } = self;
        match effect {
            Effect::WillMove => {
                write!(
                    f,
                    "Route {number} leads it to publisher {publisher:?}; the worker that reads it moves it there."
                )
            }
            Effect::IsThere => write!(f, "Route {number} leads such events to publisher {publisher:?}."),
        }
    }
}
