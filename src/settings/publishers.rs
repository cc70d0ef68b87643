//! The configured publishers and their lanes.

use std::sync::Arc;

use super::{OnFailed, PublisherSettings, Settings};
use crate::error::SettingsError;

impl Settings {
    /// The name of the default publisher: the one named `default`, or the only one.
    ///
    /// # Errors
    /// If there is none, or there are several and none is named `default`.
    pub fn default_publisher(&self) -> Result<&str, SettingsError> {
        let mut names = self.publishers.keys().map(String::as_str);
        let missing = |remedy| SettingsError::Missing { key: "publishers.default".to_owned(), remedy };
        match (names.next(), names.next()) {
            (None, _) => Err(missing("no publisher is configured, add [publishers.default]".to_owned())),
            (Some(only), None) => Ok(only),
            _ if self.publishers.contains_key("default") => Ok("default"),
            _ => Err(missing(format!("there {}, name the default one `default`", self.publisher_names()))),
        }
    }

    /// Whether a failed event of a lane holds its key.
    pub(crate) fn holds_on_failure(&self, lane: &str) -> bool {
        let name = if lane.is_empty() { self.default_publisher().unwrap_or_default() } else { lane };
        self.publishers.get(name).is_some_and(|publisher| publisher.on_failed == OnFailed::Hold)
    }

    /// Whether an event of a lane that is done is deleted in place of being published.
    pub(crate) fn deletes_published(&self, lane: &str) -> bool {
        let name = if lane.is_empty() { self.default_publisher().unwrap_or_default() } else { lane };
        let of_publisher = self.publishers.get(name).and_then(|publisher| publisher.published_retention_days);
        of_publisher.unwrap_or(self.retention.published_retention_days) == 0
    }

    /// The publishers that this worker serves.
    pub(crate) fn served_publishers(&self) -> impl Iterator<Item = (&String, &PublisherSettings)> {
        let chosen = self.worker.backends.as_ref();
        self.publishers.iter().filter(move |(name, _)| chosen.is_none_or(|chosen| chosen.contains(name)))
    }

    /// The lanes of a publisher: the values of `publisher_backend` in its events. Events that name no backend are a lane
    /// of their own, so that workers with different defaults agree on it.
    pub(crate) fn lanes_of<'a>(&self, publisher: &'a str) -> Vec<&'a str> {
        if self.default_publisher().is_ok_and(|default| default == publisher) {
            vec!["", publisher]
        } else {
            vec![publisher]
        }
    }

    /// The lanes in which a failed event holds its key.
    pub(crate) fn holding_lanes(&self) -> Vec<Arc<str>> {
        let lanes = self.publishers.keys().flat_map(|name| self.lanes_of(name));
        lanes.filter(|lane| self.holds_on_failure(lane)).map(Arc::from).collect()
    }

    pub(super) fn publisher_names(&self) -> String {
        let names: Vec<_> = self.publishers.keys().map(|name| format!("`{name}`")).collect();
        match names.len() {
            0 => "is none".to_owned(),
            1 => format!("is {}", names[0]),
            _ => format!("are {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_publisher_has_the_lane_of_events_that_name_none_as_well() {
        let settings = Settings::from_toml(
            "publishers.default.backend = 'local'\n[publishers.audit]\nbackend = 'local'\non_failed = 'hold'",
        )
        .unwrap();
        assert_eq!(settings.lanes_of("default"), ["", "default"]);
        assert_eq!(settings.lanes_of("audit"), ["audit"]);
        assert_eq!(settings.holding_lanes(), [Arc::from("audit")]);
    }

    #[test]
    fn events_are_deleted_where_the_publisher_or_retention_keeps_them_for_no_day() {
        let deleting = |text: &str| {
            let settings = Settings::from_toml(text).unwrap();
            ["", "default", "audit", "unknown"].map(|lane| settings.deletes_published(lane))
        };
        let publishers = "publishers.default.backend = 'local'\npublishers.audit.backend = 'local'\n";
        assert_eq!(deleting(publishers), [false; 4]);
        let audit = format!("{publishers}publishers.audit.published_retention_days = 0");
        assert_eq!(deleting(&audit), [false, false, true, false]);
        assert_eq!(deleting(&format!("{publishers}retention.published_retention_days = 0")), [true; 4]);
    }
}
