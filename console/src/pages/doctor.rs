//! What endangers the outbox, and what to do.

use std::time::Duration;

use actix_outbox::OutboxAdmin;
use actix_outbox::admin::{Finding, Severity};
use actix_web::web;
use maud::{Markup, html};

use super::error::PageResult;
use super::format::{advice, prose, shortened, time};
use super::hints;
use super::layout::PageLayout;
use crate::queries::DoctorCache;
use crate::responses::Diagnosis;

/// How long a page waits for the diagnosis.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn show(
    layout: PageLayout,
    admin: web::Data<OutboxAdmin>,
    cache: web::Data<DoctorCache>,
) -> PageResult {
    let diagnosis = cache.get(&admin, PATIENCE).await;
    let content = html! {
        h1 { "Doctor" }
        p class="soft" {
            "What endangers the outbox, as this console finds the database, the backends and the workers with its settings and rights. It looks when the page is opened, at most once in ten seconds."
        }
        @match &diagnosis {
            None => p class="notice" role="status" { "The diagnosis takes longer than 20 s; reload the page in a moment." },
            Some(Diagnosis { findings, .. }) if findings.is_empty() => p class="notice" role="status" { "Nothing was found. There is nothing to do." },
            Some(diagnosis) => (table(&layout, &diagnosis.findings)),
        }
        @if let Some(diagnosis) = &diagnosis {
            p class="soft" { "Diagnosed at " (time(diagnosis.diagnosed_at)) }
        }
    };
    Ok(layout.page("Doctor", "/doctor", &content))
}

fn table(layout: &PageLayout, findings: &[Finding]) -> Markup {
    html! {
        div class="wide" {
            table class="stack" {
                thead { tr {
                    th scope="col" { "Severity" }
                    th scope="col" { "Part" }
                    th scope="col" { "Problem" }
                    th scope="col" { "What to do" }
                } }
                tbody {
                    @for finding in findings {
                        tr {
                            td { (severity(finding.severity)) }
                            td { (shortened(&finding.part)) }
                            td class="rest" { (prose(&finding.problem)) }
                            td class="rest" data-label="What to do" { (advice(&finding.advice)) (hints::of_advice(layout, &finding.advice)) }
                        }
                    }
                }
            }
        }
    }
}

fn severity(severity: Severity) -> Markup {
    match severity {
        Severity::Danger => html! { span class="status bad" { "danger" } },
        _ => html! { span class="status" { "advice" } },
    }
}
