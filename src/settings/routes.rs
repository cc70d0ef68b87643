//! `[[routes]]`: which publisher sends the events that name none.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Settings;
use crate::event::OutboxEvent;
use crate::publish::NewEvent;

/// One of `[[routes]]`. It fits an event if all patterns that it has fit; `*` matches any run of characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The pattern of the event's type; none: any.
    pub event_type: Option<String>,
    /// The pattern of its source; none: any.
    pub source: Option<String>,
    /// Patterns of extensions, by name; the event must have each of them. A number or a truth value is matched as JSON
    /// writes it.
    pub extensions: BTreeMap<String, String>,
    /// The publisher that sends the event.
    pub publisher: String,
}

impl Route {
    /// A route to this publisher that fits every event.
    pub fn to(publisher: impl Into<String>) -> Self {
        Self { publisher: publisher.into(), ..Self::default() }
    }

    /// The pattern of the event's type, such as `order.*`.
    #[must_use]
    pub fn event_type(mut self, pattern: impl Into<String>) -> Self {
        self.event_type = Some(pattern.into());
        self
    }

    /// The pattern of the event's source.
    #[must_use]
    pub fn source(mut self, pattern: impl Into<String>) -> Self {
        self.source = Some(pattern.into());
        self
    }

    /// The pattern of an extension.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, pattern: impl Into<String>) -> Self {
        self.extensions.insert(name.into(), pattern.into());
        self
    }

    fn fits(&self, event_type: &str, source: &str, extension: &dyn Fn(&str) -> Option<String>) -> bool {
        let fits = |pattern: &Option<String>, text: &str| pattern.as_ref().is_none_or(|pattern| matches(pattern, text));
        fits(&self.event_type, event_type)
            && fits(&self.source, source)
            && self.extensions.iter().all(|(name, pattern)| extension(name).is_some_and(|text| matches(pattern, &text)))
    }
}

impl Settings {
    /// The number of the first route that fits an event, from 1, and the route, whatever backend the event names.
    pub(crate) fn route_like(&self, event: &OutboxEvent) -> Option<(usize, &Route)> {
        let has_patterns = self.routes.iter().any(|route| !route.extensions.is_empty());
        let extensions: Option<serde_json::Map<String, Value>> =
            has_patterns.then(|| serde_json::from_str(event.extensions.as_str()).ok()).flatten();
        let extension = |name: &str| text(extensions.as_ref()?.get(name)?);
        self.first_that_fits(&event.event_type, &event.source, &extension)
    }

    /// The publisher to which a worker moves an event that names none; `None`: it stays with the default one.
    pub(crate) fn destination(&self, event: &OutboxEvent) -> Option<&str> {
        if !event.publisher_backend.is_empty() {
            return None;
        }
        let (_, route) = self.route_like(event)?;
        (!self.is_default(&route.publisher)).then_some(&route.publisher)
    }

    /// Gives an event that names no backend the one of its route. With the default publisher it keeps the empty name, so that
    /// its key's events stay in one lane, whichever way they were written.
    pub(crate) fn routed(&self, event: NewEvent) -> NewEvent {
        if self.routes.is_empty() || event.names_backend() {
            return event;
        }
        let extension = |name: &str| text(event.extension_value(name)?);
        let found = self.first_that_fits(&event.event_type, &event.source, &extension);
        match found.map(|(_, route)| route.publisher.clone()).filter(|publisher| !self.is_default(publisher)) {
            Some(publisher) => event.routed_to(publisher),
            None => event,
        }
    }

    fn first_that_fits(
        &self,
        event_type: &str,
        source: &str,
        extension: &dyn Fn(&str) -> Option<String>,
    ) -> Option<(usize, &Route)> {
        (1..).zip(&self.routes).find(|(_, route)| route.fits(event_type, source, extension))
    }

    fn is_default(&self, publisher: &str) -> bool {
        self.default_publisher().is_ok_and(|default| default == publisher)
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// Whether a text fits a pattern in which `*` is any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let (middle, last) = rest.rsplit_once('*').map_or(("", rest), |(middle, last)| (middle, last));
    let Some(mut text) = text.strip_prefix(first).and_then(|text| text.strip_suffix(last)) else { return false };
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::JsonText;
    use crate::fixtures;

    #[test]
    fn a_star_is_any_run_of_characters() {
        for (pattern, fits, differs) in [
            ("order.*", &["order.", "order.paid", "order.*"][..], &["order", "orders.paid", ""][..]),
            ("*.paid", &[".paid", "order.paid", "a.paid.paid"], &["order.paid.", "paid"]),
            ("a*b*c", &["abc", "a1b2c", "abbc", "abcbc"], &["ab", "acb", "abcd"]),
            ("aa*aa", &["aaaa", "aaxaa"], &["aaa", "aa"]),
            ("*", &["", "ü"], &[]),
            ("**", &["", "a"], &[]),
            ("", &[""], &["a"]),
            ("a.b", &["a.b"], &["axb", "a.B"]),
        ] {
            fits.iter().for_each(|text| assert!(matches(pattern, text), "{pattern} {text}"));
            differs.iter().for_each(|text| assert!(!matches(pattern, text), "{pattern} {text}"));
        }
    }

    /// As a pattern is defined, in the time that this takes.
    fn plainly(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|skipped| plainly(rest, &text[skipped..])),
            [c, rest @ ..] => text.first() == Some(c) && plainly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_its_definition_says(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &text), plainly(&chars(&pattern), &chars(&text)));
        }
    }

    fn settings() -> Settings {
        Settings::from_toml(
            "publishers.default.backend = 'local'
             publishers.orders.backend = 'local'
             publishers.audit.backend = 'local'
             [[routes]]
             type = 'order.audited'
             publisher = 'default'
             [[routes]]
             type = 'order.*'
             source = '/shop/*'
             publisher = 'orders'
             [[routes]]
             extensions = { tenant = 'acme-*', level = '5' }
             publisher = 'audit'",
        )
        .unwrap()
    }

    #[test]
    fn the_first_route_that_fits_wins_and_an_events_own_choice_wins_over_all() {
        let settings = settings();
        for (event_type, source, extensions, expected) in [
            ("order.paid", "/shop/1", "{}", Some("orders")),
            ("order.audited", "/shop/1", r#"{"tenant": "acme-1", "level": 5}"#, None),
            ("order.paid", "/bank", r#"{"tenant": "acme-1", "level": 5}"#, Some("audit")),
            ("user.made", "/shop/1", r#"{"tenant": "acme-1", "level": "5"}"#, Some("audit")),
            ("user.made", "/shop/1", r#"{"tenant": "acme-1"}"#, None),
            ("user.made", "/shop/1", r#"{"tenant": ["acme-1"], "level": 5}"#, None),
        ] {
            let event = OutboxEvent {
                event_type: event_type.to_owned(),
                source: source.to_owned(),
                extensions: JsonText::new(extensions.to_owned()),
                publisher_backend: String::new(),
                ..fixtures::event(1, "k")
            };
            assert_eq!(settings.destination(&event), expected, "{event_type} {source} {extensions}");
            let map: serde_json::Map<String, Value> = serde_json::from_str(extensions).unwrap();
            let new = map.into_iter().fold(NewEvent::new(event_type, source), |event, (name, value)| {
                if value.is_array() { event } else { event.extension(name, value) }
            });
            let written = settings.routed(new.clone()).into_valid().unwrap();
            assert_eq!(written.publisher_backend, expected.unwrap_or_default());
            let chosen = settings.routed(new.backend("audit")).into_valid().unwrap();
            assert_eq!(chosen.publisher_backend, "audit");
            let chosen = OutboxEvent { publisher_backend: "default".to_owned(), ..event };
            assert_eq!(settings.destination(&chosen), None);
        }
    }
}
