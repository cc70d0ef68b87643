//! Names that are filled in for each event, such as `events.{type}`.

use std::fmt::Write;

use crate::event::OutboxEvent;

const PLACEHOLDERS: [(&str, Placeholder); 4] = [
    ("{type}", Placeholder::Type),
    ("{source}", Placeholder::Source),
    ("{key}", Placeholder::Key),
    ("{backend}", Placeholder::Backend),
];

/// A name with placeholders. In doubled braces, as in `{{type}}`, a placeholder's name is a plain hash tag, and so is any other
/// text in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Type,
    Source,
    Key,
    Backend,
}

impl NameTemplate {
    pub(crate) fn new(text: &str) -> Self {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(next) = rest.chars().next() {
            let doubled = rest.strip_prefix('{').and_then(placeholder).filter(|(_, rest)| rest.starts_with('}'));
            if let Some((_, after)) = doubled {
                plain.push_str(&rest[1..rest.len() - after.len()]);
                rest = &after[1..];
            } else if let Some((found, after)) = placeholder(rest) {
                parts.extend([Part::Text(std::mem::take(&mut plain)), Part::Value(found)]);
                rest = after;
            } else {
                plain.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        parts.push(Part::Text(plain));
        parts.retain(|part| *part != Part::Text(String::new()));
        Self(parts)
    }

    /// Whether all events have the same name.
    pub(crate) fn is_fixed(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The name with `<type>` for `{type}`: braces are in it only where all names have them.
    pub(crate) fn pattern(&self) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Value(value) => value.shown().to_owned(),
        };
        self.0.iter().map(text).collect()
    }

    /// A glob of Redis that all names match.
    #[cfg(feature = "consumer")]
    pub(crate) fn glob(&self) -> String {
        let mut glob = String::new();
        for part in &self.0 {
            match part {
                Part::Value(_) => glob.push('*'),
                Part::Text(text) => text.chars().for_each(|c| {
                    if "*?[]\\".contains(c) {
                        glob.push('\\');
                    }
                    glob.push(c);
                }),
            }
        }
        glob
    }

    /// Whether all names have one hash tag, and with it one slot of a Redis Cluster.
    pub(crate) fn has_constant_tag(&self) -> bool {
        let mut marked = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => marked.push_str(text),
                Part::Value(_) => marked.push('\0'),
            }
        }
        let tag = marked.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        tag.is_some_and(|(tag, _)| !tag.is_empty() && !tag.contains('\0'))
    }

    /// Whether different values always have different names: between two of them is a character that no value has.
    pub(crate) fn is_unambiguous(&self) -> bool {
        let values = self.0.iter().enumerate().filter(|(_, part)| matches!(part, Part::Value(_)));
        let places: Vec<usize> = values.map(|(place, _)| place).collect();
        places.windows(2).all(|pair| match &self.0[pair[0] + 1..pair[1]] {
            [Part::Text(between)] => between.chars().any(|c| c != '%' && !is_kept(c)),
            _ => false,
        })
    }

    /// An event's name; `None` if it is empty.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only backends on Redis have such names"))]
    pub(crate) fn name(&self, event: &OutboxEvent) -> Option<String> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Value(value) => push_escaped(&mut name, value.of(event)),
            }
        }
        (!name.is_empty()).then_some(name)
    }
}

impl Placeholder {
    fn of(self, event: &OutboxEvent) -> &str {
        match self {
            Self::Type => &event.event_type,
            Self::Source => &event.source,
            Self::Key => &event.partition_key,
            Self::Backend => &event.publisher_backend,
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Type => "<type>",
            Self::Source => "<source>",
            Self::Key => "<key>",
            Self::Backend => "<backend>",
        }
    }
}

/// The placeholder at the beginning of a text, and what follows it.
fn placeholder(text: &str) -> Option<(Placeholder, &str)> {
    PLACEHOLDERS.into_iter().find_map(|(name, value)| Some((value, text.strip_prefix(name)?)))
}

/// What a value keeps; all else is escaped as in an address, so that no value changes a hash tag or looks like another.
fn is_kept(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~".contains(c)
}

fn push_escaped(name: &mut String, value: &str) {
    for byte in value.bytes() {
        if is_kept(char::from(byte)) {
            name.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures;

    fn event(event_type: &str, key: &str) -> OutboxEvent {
        OutboxEvent { event_type: event_type.to_owned(), ..fixtures::event(1, key) }
    }

    fn name(template: &str, event_type: &str, key: &str) -> Option<String> {
        NameTemplate::new(template).name(&event(event_type, key))
    }

    #[test]
    fn only_the_four_placeholders_are_filled_in() {
        for (template, expected) in [
            ("events", "events"),
            ("events.{type}", "events.order.paid"),
            ("{source}:{type}:{key}:{backend}", "s:order.paid:k%7B1%7D:orders"),
            ("{shop}.{type}", "{shop}.order.paid"),
            ("{{type}}.{type}", "{type}.order.paid"),
            ("{{shop}}.{ type }{type", "{{shop}}.{ type }{type"),
            ("{{type}", "{order.paid"),
            ("{type}}", "order.paid}"),
            ("ü{key}", "ük%7B1%7D"),
        ] {
            assert_eq!(name(template, "order.paid", "k{1}").as_deref(), Some(expected), "{template}");
        }
        assert_eq!(name("{key}", "t", ""), None);
        assert!(NameTemplate::new("{{type}}.{shop}").is_fixed() && !NameTemplate::new("a{key}").is_fixed());
    }

    #[test]
    fn a_hash_tag_is_constant_if_no_value_is_in_it() {
        for (template, constant) in [
            ("{shop}.{type}", true),
            ("{type}.{shop}", true),
            ("{{type}}.{key}", true),
            ("events.{type}", false),
            ("{shop-{type}}", false),
            ("{}.{shop}.{type}", false),
        ] {
            assert_eq!(NameTemplate::new(template).has_constant_tag(), constant, "{template}");
        }
        assert_eq!(NameTemplate::new("{shop}.{type}").pattern(), "{shop}.<type>");
    }

    proptest! {
        #[test]
        fn different_values_have_different_names(
            separator in "[a.:%/-]{0,2}", values in "[a:./%{}é]{0,3}", other_values in "[a:./%{}é]{0,3}",
            keys in "[a:./%{}é]{0,3}", other_keys in "[a:./%{}é]{0,3}",
        ) {
            let template = NameTemplate::new(&format!("e.{{type}}{separator}{{key}}"));
            if template.is_unambiguous() && (&values, &keys) != (&other_values, &other_keys) {
                let names = [event(&values, &keys), event(&other_values, &other_keys)].map(|event| template.name(&event));
                prop_assert_ne!(&names[0], &names[1]);
            }
        }
    }
}
