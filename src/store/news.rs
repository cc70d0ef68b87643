//! Of which lanes there may be something new, and how one process tells it to another.

use std::collections::BTreeSet;

#[cfg(feature = "postgres")]
use uuid::Uuid;

use super::Lane;

/// More lanes than this are every lane: however much there is to tell, it stays small.
const MOST_LANES: usize = 16;

/// What one process hears of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    News(News),
    /// Another worker has released leases.
    LeasesReleased,
}

/// What stands behind the sender where leases were released. An older program takes it for news of every lane, and looks.
#[cfg(feature = "postgres")]
const RELEASED: &str = ":leases";

#[cfg(feature = "postgres")]
impl Heard {
    /// What a payload says to `reader`, who has no use for what it said itself.
    pub(crate) fn from_payload(payload: &str, reader: Uuid) -> Self {
        match payload.strip_suffix(RELEASED).map(str::parse::<Uuid>) {
            Some(Ok(sender)) if sender != reader => Self::LeasesReleased,
            Some(Ok(_)) => Self::News(News::default()),
            _ => Self::News(News::from_payload(payload, reader)),
        }
    }

    /// The payload that says it of the sender's leases.
    pub(crate) fn leases_released(sender: Uuid) -> String {
        format!("{sender}{RELEASED}")
    }
}

/// Lanes of which there may be something new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    Of(BTreeSet<Lane>),
    OfEveryLane,
}

impl Default for News {
    fn default() -> Self {
        Self::Of(BTreeSet::new())
    }
}

impl<T: Into<Lane>> FromIterator<T> for News {
    fn from_iter<I: IntoIterator<Item = T>>(lanes: I) -> Self {
        let mut news = Self::default();
        lanes.into_iter().for_each(|lane| news.add(Self::Of(BTreeSet::from([lane.into()]))));
        news
    }
}

impl News {
    pub(crate) fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::OfEveryLane, _) => {}
            (_, Self::OfEveryLane) => *self = Self::OfEveryLane,
            (Self::Of(lanes), Self::Of(others)) => {
                lanes.extend(others);
                if lanes.len() > MOST_LANES {
                    *self = Self::OfEveryLane;
                }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Of(lanes) if lanes.is_empty())
    }

    pub(crate) fn is_of(&self, lane: &str) -> bool {
        match self {
            Self::OfEveryLane => true,
            Self::Of(lanes) => lanes.contains(lane),
        }
    }

    /// The same without the lanes that this tells.
    #[must_use]
    pub(crate) fn without(self, is_known: impl Fn(&str) -> bool) -> Self {
        match self {
            Self::OfEveryLane => Self::OfEveryLane,
            Self::Of(lanes) => Self::Of(lanes.into_iter().filter(|lane| !is_known(lane)).collect()),
        }
    }

    /// The payloads of a notification: `SENDER/LANE` for each lane, `SENDER` for every lane. A trigger's is empty.
    #[cfg(feature = "postgres")]
    pub(crate) fn payloads(&self, sender: Uuid) -> Vec<String> {
        match self {
            Self::OfEveryLane => vec![sender.to_string()],
            Self::Of(lanes) => lanes.iter().map(|lane| format!("{sender}/{lane}")).collect(),
        }
    }

    #[cfg(feature = "postgres")]
    fn from_payload(payload: &str, reader: Uuid) -> Self {
        let (sender, lane) = payload.split_once('/').map_or((payload, None), |(sender, lane)| (sender, Some(lane)));
        match lane {
            _ if sender.parse() == Ok(reader) => Self::default(),
            Some(lane) => Self::from_iter([lane]),
            None => Self::OfEveryLane,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_many_lanes_is_news_of_every_lane() {
        let lanes = |count: usize| -> News { (0..count).map(|n| n.to_string()).collect() };
        assert!(!lanes(MOST_LANES).is_of("another"));
        assert!(lanes(MOST_LANES + 1).is_of("another"));
    }

    #[test]
    fn what_is_known_already_is_not_told() {
        let news = News::from_iter(["", "audit"]);
        assert_eq!(news.clone().without(str::is_empty), News::from_iter(["audit"]));
        assert!(news.without(|_| true).is_empty());
        assert_eq!(News::OfEveryLane.without(|_| true), News::OfEveryLane, "of lanes that nobody here knows");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_payload_says_to_others_what_was_new_and_nothing_to_its_sender() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for news in [News::from_iter([""]), News::from_iter(["a", "", "b"]), News::OfEveryLane] {
            let mut heard = News::default();
            for payload in news.payloads(one) {
                assert!(News::from_payload(&payload, one).is_empty());
                heard.add(News::from_payload(&payload, other));
            }
            assert_eq!(heard, news);
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn released_leases_are_no_news_and_of_no_use_to_their_sender() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let payload = Heard::leases_released(one);
        assert_eq!(Heard::from_payload(&payload, other), Heard::LeasesReleased);
        assert_eq!(Heard::from_payload(&payload, one), Heard::News(News::default()));
        let lane = News::from_iter([RELEASED]);
        assert_eq!(Heard::from_payload(&lane.payloads(one)[0], other), Heard::News(lane), "a lane of such a name");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_payload_that_another_program_made_is_news_of_every_lane() {
        for payload in ["", "something"] {
            assert_eq!(News::from_payload(payload, Uuid::from_u128(1)), News::OfEveryLane);
        }
    }
}
