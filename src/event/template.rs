//! Placeholders in settings: `{type}`, `{source}`, `{key}` and `{backend}`, filled from an event.

use super::OutboxEvent;

pub(crate) const PLACEHOLDERS: [&str; 4] = ["{type}", "{source}", "{key}", "{backend}"];

/// The value of a placeholder.
pub(crate) fn value<'e>(placeholder: &str, event: &'e OutboxEvent) -> &'e str {
    match placeholder {
        "{type}" => &event.event_type,
        "{source}" => &event.source,
        "{key}" => &event.partition_key,
        _ => &event.publisher_backend,
    }
}

/// Replaces each placeholder by what `push` appends for it. `{{type}}` becomes the text `{type}`; other braces stay.
pub(crate) fn fill(text: &str, mut push: impl FnMut(&mut String, &'static str)) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = PLACEHOLDERS.into_iter().find_map(|name| literal(rest, name)) {
            filled.push_str(&rest[1..rest.len() - after.len() - 1]);
            rest = after;
        } else if let Some(name) = PLACEHOLDERS.into_iter().find(|name| rest.starts_with(name)) {
            push(&mut filled, name);
            rest = &rest[name.len()..];
        } else {
            filled.push('{');
            rest = &rest[1..];
        }
    }
    filled + rest
}

/// What follows a placeholder in double braces.
fn literal<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.strip_prefix('{')?.strip_prefix(name)?.strip_prefix('}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let event = OutboxEvent { event_type: "{key}".to_owned(), ..fixtures::event(1, "k") };
        for (text, expected) in [
            ("", ""),
            ("{type}", "{key}"),
            ("a.{source}.{key}.{backend}", "a.s.k.orders"),
            ("{{type}}.{key}", "{type}.k"),
            ("{{{key}}}", "{{key}}"),
            ("{ {type", "{ {type"),
            ("{other}{", "{other}{"),
        ] {
            assert_eq!(event.fill(text), expected, "{text}");
        }
    }
}
