//! Wake-ups: the lanes in which something may have been committed, and how processes notify each other of them.

use std::collections::BTreeSet;

#[cfg(feature = "postgres")]
use uuid::Uuid;

use super::LaneName;

/// More lanes than this are reported as every lane, so that the payload stays small.
const MOST_LANES: usize = 16;

/// A notification from another process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "SQLite has no notifications"))]
pub(crate) enum Notification {
    Wakeup(Wakeup),
    /// Another worker has released leases.
    LeasesReleased,
}

/// Follows the sender in the payload if leases were released. An older program takes it for a wake-up of every lane.
#[cfg(feature = "postgres")]
const RELEASED: &str = ":leases";

#[cfg(feature = "postgres")]
impl Notification {
    /// Decodes a payload for `reader`, which ignores its own notifications.
    pub(crate) fn from_payload(payload: &str, reader: Uuid) -> Self {
        match payload.strip_suffix(RELEASED).map(str::parse::<Uuid>) {
            Some(Ok(sender)) if sender != reader => Self::LeasesReleased,
            Some(Ok(_)) => Self::Wakeup(Wakeup::default()),
            _ => Self::Wakeup(Wakeup::from_payload(payload, reader)),
        }
    }

    /// The payload for leases that the sender released.
    pub(crate) fn leases_released(sender: Uuid) -> String {
        format!("{sender}{RELEASED}")
    }
}

/// Lanes in which something may have been committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wakeup {
    Lanes(BTreeSet<LaneName>),
    EveryLane,
}

impl Default for Wakeup {
    fn default() -> Self {
        Self::Lanes(BTreeSet::new())
    }
}

impl<T: Into<LaneName>> FromIterator<T> for Wakeup {
    fn from_iter<I: IntoIterator<Item = T>>(lanes: I) -> Self {
        let mut wakeup = Self::default();
        lanes.into_iter().for_each(|lane| wakeup.add(Self::Lanes(BTreeSet::from([lane.into()]))));
        wakeup
    }
}

impl Wakeup {
    pub(crate) fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::EveryLane, _) => {}
            (_, Self::EveryLane) => *self = Self::EveryLane,
            (Self::Lanes(lanes), Self::Lanes(others)) => {
                lanes.extend(others);
                if lanes.len() > MOST_LANES {
                    *self = Self::EveryLane;
                }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Lanes(lanes) if lanes.is_empty())
    }

    pub(crate) fn is_of(&self, lane: &str) -> bool {
        match self {
            Self::EveryLane => true,
            Self::Lanes(lanes) => lanes.contains(lane),
        }
    }

    /// Removes the lanes for which `is_known` returns true.
    #[must_use]
    pub(crate) fn without(self, is_known: impl Fn(&str) -> bool) -> Self {
        match self {
            Self::EveryLane => Self::EveryLane,
            Self::Lanes(lanes) => Self::Lanes(lanes.into_iter().filter(|lane| !is_known(lane)).collect()),
        }
    }

    /// The payloads of a notification: `SENDER/LANE` for each lane, `SENDER` for every lane. A trigger's is empty.
    #[cfg(feature = "postgres")]
    pub(crate) fn payloads(&self, sender: Uuid) -> Vec<String> {
        match self {
            Self::EveryLane => vec![sender.to_string()],
            Self::Lanes(lanes) => lanes.iter().map(|lane| format!("{sender}/{lane}")).collect(),
        }
    }

    #[cfg(feature = "postgres")]
    fn from_payload(payload: &str, reader: Uuid) -> Self {
        let (sender, lane) = payload.split_once('/').map_or((payload, None), |(sender, lane)| (sender, Some(lane)));
        match lane {
            _ if sender.parse() == Ok(reader) => Self::default(),
            Some(lane) => Self::from_iter([lane]),
            None => Self::EveryLane,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_many_lanes_is_news_of_every_lane() {
        let lanes = |count: usize| -> Wakeup { (0..count).map(|n| n.to_string()).collect() };
        assert!(!lanes(MOST_LANES).is_of("another"));
        assert!(lanes(MOST_LANES + 1).is_of("another"));
    }

    #[test]
    fn what_is_known_already_is_not_told() {
        let wakeup = Wakeup::from_iter(["", "audit"]);
        assert_eq!(wakeup.clone().without(str::is_empty), Wakeup::from_iter(["audit"]));
        assert!(wakeup.without(|_| true).is_empty());
        assert_eq!(
            Wakeup::EveryLane.without(|_| true),
            Wakeup::EveryLane,
            "it may be about lanes that are unknown here"
        );
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_payload_says_to_others_what_was_new_and_nothing_to_its_sender() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for wakeup in [Wakeup::from_iter([""]), Wakeup::from_iter(["a", "", "b"]), Wakeup::EveryLane] {
            let mut heard = Wakeup::default();
            for payload in wakeup.payloads(one) {
                assert!(Wakeup::from_payload(&payload, one).is_empty());
                heard.add(Wakeup::from_payload(&payload, other));
            }
            assert_eq!(heard, wakeup);
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn released_leases_are_no_news_and_of_no_use_to_their_sender() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let payload = Notification::leases_released(one);
        assert_eq!(Notification::from_payload(&payload, other), Notification::LeasesReleased);
        assert_eq!(Notification::from_payload(&payload, one), Notification::Wakeup(Wakeup::default()));
        let lane = Wakeup::from_iter([RELEASED]);
        assert_eq!(
            Notification::from_payload(&lane.payloads(one)[0], other),
            Notification::Wakeup(lane),
            "a lane of such a name"
        );
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_payload_that_another_program_made_is_news_of_every_lane() {
        for payload in ["", "something"] {
            assert_eq!(Wakeup::from_payload(payload, Uuid::from_u128(1)), Wakeup::EveryLane);
        }
    }
}
