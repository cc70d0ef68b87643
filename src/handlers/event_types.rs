//! The event types that a handler is for.

/// The event types that a handler subscribes to.
///
/// Made of one type, or of several: `"user.created"`, `["user.created", "order.*"]`. A `*` at the end matches any rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventTypes {
    /// Every event.
    All,
    /// Events whose CloudEvents type is one of these, or starts with one that ends in `*`.
    OneOf(Vec<String>),
}

impl EventTypes {
    /// The patterns under which a handler is registered: `*` for all, a trailing `*` for a prefix.
    pub(crate) fn patterns(&self) -> Vec<String> {
        match self {
            Self::All => vec!["*".to_owned()],
            Self::OneOf(wanted) => wanted.clone(),
        }
    }

    /// Whether an event of this type is among them.
    #[must_use]
    pub fn contains(&self, event_type: &str) -> bool {
        let matches = |wanted: &String| match wanted.strip_suffix('*') {
            Some(prefix) => event_type.starts_with(prefix),
            None => wanted == event_type,
        };
        match self {
            Self::All => true,
            Self::OneOf(wanted) => wanted.iter().any(matches),
        }
    }
}

impl From<&str> for EventTypes {
    fn from(event_type: &str) -> Self {
        Self::OneOf(vec![event_type.to_owned()])
    }
}

impl From<String> for EventTypes {
    fn from(event_type: String) -> Self {
        Self::OneOf(vec![event_type])
    }
}

impl<T: Into<String>, const N: usize> From<[T; N]> for EventTypes {
    fn from(event_types: [T; N]) -> Self {
        event_types.into_iter().collect()
    }
}

impl<T: Into<String>> From<Vec<T>> for EventTypes {
    fn from(event_types: Vec<T>) -> Self {
        event_types.into_iter().collect()
    }
}

impl<T: Into<String>> FromIterator<T> for EventTypes {
    fn from_iter<I: IntoIterator<Item = T>>(event_types: I) -> Self {
        Self::OneOf(event_types.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_types_and_prefixes_are_wanted() {
        let wanted = EventTypes::from(["user.created", "order.*"]);
        for event_type in ["user.created", "order.paid", "order."] {
            assert!(wanted.contains(event_type), "{event_type}");
        }
        for event_type in ["user.deleted", "user.created.twice", "order", "orders.paid", "*"] {
            assert!(!wanted.contains(event_type), "{event_type}");
        }
        assert!(EventTypes::from("*").contains("anything") && EventTypes::All.contains("anything"));
        assert!(!EventTypes::from(Vec::<String>::new()).contains("anything"));
    }
}
