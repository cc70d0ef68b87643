//! An event's data as a file: read from the database and sent a part at a time, so that no answer is held in memory.

use std::ops::Range;

use actix_outbox::OutboxAdmin;
use actix_outbox::StoreError;
use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream::{Stream, unfold};
use uuid::Uuid;

/// Data with at most this many bytes is part of the answers about an event; of larger data, pages show the beginning.
pub(crate) const MOST_INLINE: u64 = 256 * 1024;

/// Bytes that are read at a time.
const PART: u64 = 256 * 1024;

/// The data, or the range of it that the request names. `None`: the event has none.
pub(crate) async fn file(
    admin: &OutboxAdmin,
    id: Uuid,
    request: &HttpRequest,
) -> Result<Option<HttpResponse>, StoreError> {
    let first = admin.data(id, 0..0).await?;
    let total = first.total;
    if total == 0 {
        return Ok(None);
    }
    let (kind, ending) =
        if first.is_binary { ("application/octet-stream", "bin") } else { ("application/json", "json") };
    let mut response = HttpResponse::Ok();
    let range = match asked_range(request, total) {
        Asked::Whole => 0..total,
        Asked::Part(range) => {
            let shown = format!("bytes {}-{}/{total}", range.start, range.end - 1);
            response.status(StatusCode::PARTIAL_CONTENT).insert_header((CONTENT_RANGE, shown));
            range
        }
        Asked::Nothing => {
            let shown = format!("bytes */{total}");
            return Ok(Some(HttpResponse::RangeNotSatisfiable().insert_header((CONTENT_RANGE, shown)).finish()));
        }
    };
    response
        .insert_header((CONTENT_TYPE, kind))
        .insert_header((ACCEPT_RANGES, "bytes"))
        // Never shown as a page of this site.
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.{ending}\"")));
    let length = range.end - range.start;
    Ok(Some(response.body(SizedStream::new(length, parts(admin.clone(), id, range)))))
}

/// The next part is read when the client has taken the one before.
fn parts(admin: OutboxAdmin, id: Uuid, range: Range<u64>) -> impl Stream<Item = Result<Bytes, StoreError>> {
    unfold(range, move |range| {
        let admin = admin.clone();
        async move {
            if range.is_empty() {
                return None;
            }
            let end = range.end.min(range.start + PART);
            // A shorter part ends the connection: the event was deleted or changed meanwhile.
            match admin.data(id, range.start..end).await {
                Ok(part) if part.bytes.is_empty() => None,
                Ok(part) => Some((Ok(Bytes::from(part.bytes)), end..range.end)),
                Err(error) => Some((Err(error), range.end..range.end)),
            }
        }
    })
}

/// What a request wants of the data.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    /// A range beyond the end.
    Nothing,
}

fn asked_range(request: &HttpRequest, total: u64) -> Asked {
    let header = request.headers().get(RANGE).and_then(|range| range.to_str().ok());
    header.map_or(Asked::Whole, |header| parse_range(header, total))
}

/// Reads `bytes=0-99`, `bytes=100-` or `bytes=-100`. Other forms count as none, as RFC 9110 allows.
fn parse_range(header: &str, total: u64) -> Asked {
    let Some((from, to)) = header.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Whole;
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let range = match (from.is_empty(), to.is_empty()) {
        (true, false) => number(to).map(|last| total.saturating_sub(last)..total),
        (false, true) => number(from).map(|from| from..total),
        (false, false) => number(from).zip(number(to)).filter(|(from, to)| from <= to).map(|(from, to)| {
            let end = to.saturating_add(1).min(total);
            from..end
        }),
        (true, true) => None,
    };
    match range {
        None => Asked::Whole,
        Some(range) if range.start >= range.end => Asked::Nothing,
        Some(range) => Asked::Part(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_browsers_and_curl_send() {
        for (header, asked) in [
            ("bytes=0-99", Asked::Part(0..100)),
            ("bytes=100-", Asked::Part(100..1_000)),
            ("bytes=-100", Asked::Part(900..1_000)),
            ("bytes=-5000", Asked::Part(0..1_000)),
            ("bytes=990-5000", Asked::Part(990..1_000)),
            ("bytes=0-18446744073709551615", Asked::Part(0..1_000)),
            ("bytes=1000-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-4", Asked::Whole),
            ("bytes=0-1,5-6", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=x-", Asked::Whole),
            ("lines=0-1", Asked::Whole),
        ] {
            assert_eq!(parse_range(header, 1_000), asked, "{header}");
        }
    }
}
