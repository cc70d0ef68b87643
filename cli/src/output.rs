//! Results on stdout, as tables or JSON.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints a line. A closed pipe is an error, not a panic.
pub(super) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Prints several lines.
pub(super) fn lines<T: std::fmt::Display>(texts: impl IntoIterator<Item = T>) -> io::Result<()> {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    for text in texts {
        writeln!(stdout, "{text}")?;
    }
    stdout.flush()
}

pub(super) fn bytes(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(harmless_json(&serde_json::to_string_pretty(value)?))?)
}

pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    // Cells are never wrapped, so that ids can be copied.
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    line(table.trim_fmt())
}

/// Whether a terminal would execute the character, show other characters in another order, or show nothing.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// One line of text that shows what it is made of.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if is_deceptive(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// JSON text in one line, in which such characters are escaped.
#[cfg(feature = "consumer")]
pub(super) fn one_line_json(text: &str) -> String {
    // Outside of texts, JSON may have line ends only between its parts.
    harmless_json(&text.replace(['\n', '\r'], " "))
}

/// JSON text in which such characters are escaped; outside of texts JSON has none but line ends.
fn harmless_json(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' => c.to_string(),
        c if is_deceptive(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// RFC 3339 in UTC with microseconds.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The first line, shortened to `longest` characters.
pub(super) fn shortened(text: &str, longest: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= longest && first.len() == text.trim_end().len() {
        return printable(first);
    }
    let kept: String = first.chars().take(longest.saturating_sub(1)).collect();
    format!("{}…", printable(&kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_given_orders() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\nd"), "a\\u{1b}[2Jb\\tc\\nd");
        assert_eq!(printable("ab\u{202e}dc\u{200b}é\u{9b}"), "ab\\u{202e}dc\\u{200b}é\\u{9b}");
        let text = "a\u{9b}\u{202e}é";
        let json = harmless_json(&serde_json::to_string_pretty(&[text]).unwrap());
        assert!(json.contains("a\\u009b\\u202eé") && serde_json::from_str::<Vec<String>>(&json).unwrap() == [text]);
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(shortened("short", 10), "short");
        assert_eq!(shortened("exactly 10", 10), "exactly 10");
        assert_eq!(shortened("äöüäöüäöüäöü", 10), "äöüäöüäöü…");
        assert_eq!(shortened("one\ntwo", 10), "one…");
    }
}
