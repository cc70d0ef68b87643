//! The events, and the stream entries that one event may become.

use std::fmt;

/// Two events of one key, in the key's order, and one without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Event {
    Lone,
    Earlier,
    Later,
}

impl Event {
    /// In the order of `admit`: without a key first, then in the key's order.
    pub(crate) const ALL: [Self; 3] = [Self::Lone, Self::Earlier, Self::Later];

    pub(crate) fn shard(self) -> usize {
        usize::from(self == Self::Lone)
    }

    /// The event before it in its key's order.
    pub(crate) fn before(self) -> Option<Self> {
        (self == Self::Later).then_some(Self::Earlier)
    }

    pub(crate) fn after(self) -> Option<Self> {
        (self == Self::Earlier).then_some(Self::Later)
    }

    pub(crate) fn has_key(self) -> bool {
        self != Self::Lone
    }
}

/// An event under one `seq`. A replay draws a new one; its `scheduled_at`, and so its place in its key, stays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Publication {
    pub(crate) event: Event,
    pub(crate) replay: bool,
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.event, if self.replay { "'" } else { "" })
    }
}

/// A set of publications; iterated in a batch's order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Publications(u8);

impl Publications {
    fn bit(publication: Publication) -> u8 {
        1 << (publication.event as u8 * 2 + u8::from(publication.replay))
    }

    pub(crate) fn insert(&mut self, publication: Publication) {
        self.0 |= Self::bit(publication);
    }

    pub(crate) fn contains(self, publication: Publication) -> bool {
        self.0 & Self::bit(publication) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(crate) fn within(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    pub(crate) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub(crate) fn of_shard(self, shard: usize) -> Self {
        self.iter().filter(|publication| publication.event.shard() == shard).collect()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Publication> {
        Event::ALL
            .into_iter()
            .flat_map(|event| [false, true].map(|replay| Publication { event, replay }))
            .filter(move |publication| self.contains(*publication))
    }
}

impl FromIterator<Publication> for Publications {
    fn from_iter<I: IntoIterator<Item = Publication>>(publications: I) -> Self {
        let mut set = Self::default();
        publications.into_iter().for_each(|publication| set.insert(publication));
        set
    }
}

impl fmt::Debug for Publications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
