//! `outbox publish --batch`: CloudEvents, one JSON object a line.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use actix_outbox::admin::OutboxAdmin;
use actix_outbox::{InvalidEvent, NewEvent, PublishError};
use anyhow::Context;

use super::progress::Progress;
use super::{output, text_input};

pub(super) async fn run(path: &Path, admin: &OutboxAdmin) -> anyhow::Result<()> {
    let progress = Progress::spinner();
    let events =
        read(open(path)?, |event| admin.prepare(event), |count| progress.message(format!("{count} events read")))?;
    progress.message(format!("writing {} events", events.len()));
    let (lines, events): (Vec<usize>, Vec<NewEvent>) = events.into_iter().unzip();
    let stored = admin.publish_many(events).await.map_err(|error| by_line(error, &lines))?;
    drop(progress);
    Ok(output::lines(stored.iter().map(|event| event.id))?)
}

/// Names the line instead of the event's number, because the author of a file knows its lines.
fn by_line(error: PublishError, lines: &[usize]) -> anyhow::Error {
    match error {
        PublishError::InvalidInBatch { index, error } => at_line(lines, index, &error),
        PublishError::IdConflictInBatch { index, error } => at_line(lines, index, &error),
        other => other.into(),
    }
}

/// As text: a bad line of a file is a failure, not bad usage of the command.
fn at_line(lines: &[usize], index: usize, error: &impl Display) -> anyhow::Error {
    anyhow::anyhow!("line {}: {error}", lines.get(index - 1).unwrap_or(&index))
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Reads all events with the numbers of their lines, or names the first invalid line; blank lines are skipped.
fn read(
    input: impl BufRead,
    prepare: impl Fn(NewEvent) -> Result<NewEvent, InvalidEvent>,
    progress: impl Fn(usize),
) -> anyhow::Result<Vec<(usize, NewEvent)>> {
    let mut events = Vec::new();
    for (at, bytes) in input.split(b'\n').enumerate() {
        let line = || format!("line {}", at + 1);
        let bytes = bytes.with_context(line)?;
        let bytes = if at == 0 { text_input::without_mark(&bytes).with_context(line)? } else { &bytes };
        let text = str::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{}: is not UTF-8", line()))?.trim();
        if text.is_empty() {
            continue;
        }
        let prepared = NewEvent::from_cloud_event_json(text).and_then(&prepare);
        // As text: a bad line of a file is a failure, not bad usage of the command.
        events.push((at + 1, prepared.map_err(|error| anyhow::anyhow!("{}: {error}", line()))?));
        progress(events.len());
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"specversion":"1.0","id":"a","type":"t","source":"s","data":{}}"#;

    fn read_text(text: &[u8]) -> anyhow::Result<Vec<(usize, NewEvent)>> {
        read(text, Ok, |_| ())
    }

    #[test]
    fn blank_lines_are_skipped_and_the_last_line_needs_no_end() {
        let text = format!("{GOOD}\r\n\n  \n{GOOD}");
        let lines: Vec<usize> = read_text(text.as_bytes()).unwrap().into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 4]);
        assert!(read_text(b"").unwrap().is_empty());
    }

    #[test]
    fn a_byte_order_mark_before_the_first_line_is_skipped_and_utf_16_is_named() {
        let marked = ["\u{feff}".as_bytes(), GOOD.as_bytes()].concat();
        assert_eq!(read_text(&marked).unwrap().len(), 1);
        let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(GOOD.bytes().flat_map(|byte| [byte, 0])).collect();
        assert!(format!("{:#}", read_text(&wide).unwrap_err()).contains("line 1: is UTF-16"));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        for bad in [&b"{oops"[..], b"[]", b"{}", b"\xff\xfe"] {
            let text = [GOOD.as_bytes(), b"\n\n", bad, b"\n", GOOD.as_bytes()].concat();
            let error = read_text(&text).unwrap_err().to_string();
            assert!(error.starts_with("line 3: "), "{error}");
        }
    }
}
