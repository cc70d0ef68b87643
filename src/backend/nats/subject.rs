//! Subjects: of events, by the setting `subject`, and of journals.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use uuid::Uuid;

use crate::event::OutboxEvent;
use crate::event::template::{self, PLACEHOLDERS};
use crate::store::Shard;

/// What a value may contain besides letters and digits: nothing that means anything in a subject.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'/').remove(b':');

/// The token for an empty value.
const EMPTY: &str = "_";

/// The token for the lane of events that name no backend; no backend's name contains it.
const NO_LANE: &str = "=";

/// A subject with placeholders.
#[derive(Debug, Clone)]
pub(super) struct SubjectTemplate(String);

impl SubjectTemplate {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(text: &str) -> Result<Self, &'static str> {
        if is_subject(&fill(text, |_| Cow::Borrowed("x"))) {
            Ok(Self(text.to_owned()))
        } else {
            Err("is not a valid NATS subject: tokens between dots, without white space, `*` and `>`")
        }
    }

    /// The subject of an event. A type keeps its dots, so that consumers can filter by its parts; every other value is one
    /// token.
    pub(super) fn subject(&self, event: &OutboxEvent) -> String {
        fill(&self.0, |name| match name {
            "{type}" => type_tokens(&event.event_type),
            "{source}" => token(&event.source),
            "{key}" => token(&event.partition_key),
            _ => token(&event.publisher_backend),
        })
    }

    /// The subjects that a stream for these events needs; `None` if the template does not limit them.
    pub(super) fn pattern(&self) -> Option<String> {
        let fixed = PLACEHOLDERS.into_iter().filter_map(|name| self.0.find(name)).min();
        let Some(fixed) = fixed else { return Some(self.0.clone()) };
        let (before, _) = self.0[..fixed].rsplit_once('.')?;
        Some(format!("{before}.>"))
    }
}

fn is_subject(text: &str) -> bool {
    let is_token = |token: &str| !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || "*>".contains(c));
    text.split('.').all(is_token) && !text.starts_with('$') && !text.contains(char::is_control)
}

fn fill<'v>(text: &str, value: impl Fn(&'static str) -> Cow<'v, str>) -> String {
    template::fill(text, |filled, name| filled.push_str(&value(name)))
}

fn token(value: &str) -> Cow<'_, str> {
    if value.is_empty() { Cow::Borrowed(EMPTY) } else { utf8_percent_encode(value, KEPT).into() }
}

/// Dots stay between tokens that are not empty.
fn type_tokens(value: &str) -> Cow<'_, str> {
    let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if value.split('.').all(is_plain) {
        return Cow::Borrowed(value);
    }
    let has_empty_part = value.split('.').any(str::is_empty);
    if has_empty_part {
        return token(value);
    }
    let tokens: Vec<String> = value.split('.').map(|part| utf8_percent_encode(part, KEPT).to_string()).collect();
    Cow::Owned(tokens.join("."))
}

/// Whether a stream's subject, which may have wildcards, covers a subject.
pub(super) fn covers(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// The first token of the subjects of journals.
const OF_JOURNALS: &str = "_outbox.";

/// Whether a subject, or each subject of a pattern, is that of a journal of some stream.
#[cfg(feature = "consumer")]
pub(super) fn is_of_journals(subject: &str) -> bool {
    subject.starts_with(OF_JOURNALS)
}

/// The subjects of all journals in a stream.
pub(super) fn of_journals(stream: &str) -> String {
    format!("{OF_JOURNALS}{stream}.>")
}

/// The subject of a shard's journal.
pub(super) fn of_journal(stream: &str, outbox: Uuid, shard: &Shard) -> String {
    let lane = match &*shard.lane {
        "" => Cow::Borrowed(NO_LANE),
        lane => token(lane),
    };
    format!("_outbox.{stream}.{outbox}.{lane}.{}", shard.number)
}

/// The outbox and the shard of a journal's subject.
pub(super) fn owner(subject: &str) -> Option<(Uuid, Shard)> {
    let mut tokens = subject.split('.').skip(2);
    let outbox = tokens.next()?.parse().ok()?;
    let lane = match tokens.next()? {
        NO_LANE => Cow::Borrowed(""),
        lane => percent_decode_str(lane).decode_utf8().ok()?,
    };
    Some((outbox, Shard { lane: Arc::from(&*lane), number: tokens.next()?.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn subject(template: &str, event_type: &str, key: &str) -> String {
        let event = OutboxEvent { event_type: event_type.to_owned(), ..fixtures::event(1, key) };
        SubjectTemplate::new(template).unwrap().subject(&event)
    }

    #[test]
    fn a_type_keeps_its_dots_and_every_other_value_is_one_token() {
        assert_eq!(subject("events.{type}", "order.created", ""), "events.order.created");
        assert_eq!(subject("e.{type}.{key}", "order.line-added_v2", "a.b c"), "e.order.line-added_v2.a%2Eb%20c");
        assert_eq!(subject("e.{key}.{backend}", "t", ""), "e._.orders");
        assert_eq!(subject("e", "t", "k"), "e");
    }

    #[test]
    fn no_value_makes_a_wildcard_a_reserved_or_an_invalid_subject() {
        for hostile in [".", "a..b", ".a", "a.", "*", ">", "a.>", "a.*.b", "$JS.API", "a b", "a\tb\r\n", "{key}", "ü"]
        {
            for template in ["events.{type}", "{type}", "e.{key}", "{key}"] {
                let subject = subject(template, hostile, hostile);
                assert!(is_subject(&subject), "{template} with {hostile:?}: {subject:?}");
                assert!(subject.is_ascii() && !subject.contains(['*', '>', '$', '{']), "{subject:?}");
            }
        }
    }

    #[test]
    fn a_template_says_what_is_wrong_with_it() {
        for text in ["", ".", "a.", "a..{type}", "a b", "events.>", "events.*", "$JS.{type}", "a\u{7}"] {
            assert!(SubjectTemplate::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_stream_gets_the_subjects_that_the_template_can_make() {
        let pattern = |text: &str| SubjectTemplate::new(text).unwrap().pattern();
        assert_eq!(pattern("events.{type}").as_deref(), Some("events.>"));
        assert_eq!(pattern("a.b.v{type}.{key}").as_deref(), Some("a.b.>"));
        assert_eq!(pattern("events").as_deref(), Some("events"));
        assert_eq!(pattern("{type}.x"), None);
        for (pattern, subject, is_covered) in [
            ("events.>", "events.a", true),
            ("events.>", "events.a.b", true),
            ("events.>", "events", false),
            ("events.*", "events.a", true),
            ("events.*", "events.a.b", false),
            ("*.a", "events.a", true),
            (">", "a", true),
            ("events", "events", true),
            ("events", "event", false),
            ("events.a", "events", false),
        ] {
            assert_eq!(covers(pattern, subject), is_covered, "{pattern} {subject}");
        }
    }

    #[test]
    fn a_journals_subject_names_its_owner() {
        let outbox = Uuid::now_v7();
        for lane in ["", "orders", "a.b", "_", "x-y_z"] {
            let shard = Shard { lane: Arc::from(lane), number: 31 };
            let subject = of_journal("EVENTS", outbox, &shard);
            assert!(is_subject(&subject) && covers(&of_journals("EVENTS"), &subject), "{subject}");
            assert_eq!(owner(&subject), Some((outbox, shard)));
        }
        assert_eq!(owner("_outbox.EVENTS.x.orders.1"), None);
    }
}
