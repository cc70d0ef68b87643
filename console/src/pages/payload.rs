//! An event's data: folded if it is long, indented, to be copied and downloaded.

use actix_outbox::OutboxEvent;
use actix_outbox::admin::DataPart;
use maud::{Markup, html};

use super::format::number;
use super::layout::PageLayout;

/// Data with more lines is folded.
const MOST_LINES: usize = 40;

/// Data that is nested deeper is shown as it is stored, since its indentation would be longer than the data.
const DEEPEST: usize = 32;

/// The data, or the beginning of it if it is large.
pub(super) fn show(layout: &PageLayout, event: &OutboxEvent, total: u64, beginning: Option<&DataPart>) -> Markup {
    let file = layout.link(&format!("/events/{}/data", event.id));
    html! {
        h2 { "Data" }
        @if let Some(json) = &event.data {
            @let text = indented(json.as_str()).unwrap_or_else(|| json.as_str().to_owned());
            details class="payload" open[text.lines().count() <= MOST_LINES] {
                summary { (number(total)) " bytes of JSON" }
                pre id="data" tabindex="0" data-copy { (text) }
            }
            p { a href=(file) { "Download" } }
        } @else if let Some(part) = beginning {
            details class="payload" {
                summary { "The first " (number(part.bytes.len())) " bytes" }
                pre tabindex="0" { (text_of(&part.bytes)) }
            }
            p { a href=(file) { "All " (number(total)) " bytes" } }
        } @else if total > 0 {
            p { a href=(file) { (number(total)) " bytes of binary data" } }
        } @else {
            p class="soft" { "none" }
        }
    }
}

/// The text of the beginning of a JSON text, which may end within a character.
fn text_of(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// A JSON text with a line for each value, which changes no value: numbers and strings stay as they are written. None if it
/// is nested too deeply.
fn indented(json: &str) -> Option<String> {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    let new_line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            text.push(c);
            in_string = c != '"' || is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                text.push(c);
            }
            '{' | '[' => {
                text.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                match chars.next_if(|c| "}]".contains(*c)) {
                    Some(end) => text.push(end),
                    None => {
                        depth += 1;
                        new_line(&mut text, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => text.push(c),
        }
        if depth > DEEPEST {
            return None;
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_no_value_changes() {
        let json = r#"{"a":1.10, "b": [ ], "c": {}, "long": 123456789012345678901234567890, "text": "a, {\"b\": [1]}\\", "l": [1,{"x":null}]}"#;
        let expected = r#"{
  "a": 1.10,
  "b": [],
  "c": {},
  "long": 123456789012345678901234567890,
  "text": "a, {\"b\": [1]}\\",
  "l": [
    1,
    {
      "x": null
    }
  ]
}"#;
        assert_eq!(indented(json).as_deref(), Some(expected));
        assert_eq!(indented("\"just a text, with a comma\"").as_deref(), Some("\"just a text, with a comma\""));
        assert_eq!(indented(&"[".repeat(100_000)), None);
    }
}
