//! The link from an event to its trace.

use actix_outbox::OutboxEvent;
use maud::{Markup, html};

/// The address of a trace in the viewer of traces, with `{trace_id}` in it; none: there is no viewer.
#[derive(Debug, Clone, Default)]
pub(crate) struct TraceUrl(pub(crate) Option<String>);

impl TraceUrl {
    /// The event's trace as an entry of a list; nothing if it has none.
    pub(super) fn entry(&self, event: &OutboxEvent) -> Markup {
        let extensions: Option<serde_json::Value> = serde_json::from_str(event.extensions.as_str()).ok();
        let parent = extensions.as_ref().and_then(|extensions| extensions["traceparent"].as_str());
        html! {
            @if let Some(id) = parent.and_then(trace_id) {
                dt { "Trace" }
                dd {
                    code data-copy { (id) }
                    @if let Some(url) = &self.0 {
                        " " a class="trace" href=(url.replace("{trace_id}", id)) rel="noreferrer" { "Open the trace" }
                    }
                }
            }
        }
    }
}

/// The trace's id in a W3C `traceparent`: `00-TRACE-SPAN-FLAGS`.
fn trace_id(parent: &str) -> Option<&str> {
    let id = parent.split('-').nth(1)?;
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    (id.len() == 32 && id.chars().all(is_hex) && id.chars().any(|c| c != '0')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_trace_is_hexadecimal_and_not_zero() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(trace_id(&format!("00-{id}-b7ad6b7169203331-01")), Some(id));
        for wrong in [
            "",
            "00",
            "00-1-2-3",
            &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            "00-javascript:alert(1)/1234567890ab-1-1",
        ] {
            assert_eq!(trace_id(wrong), None, "{wrong}");
        }
    }
}
