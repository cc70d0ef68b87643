//! Every way to publish from Rust, in one binary: each driver must write the rows that diesel writes, by the same rules.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

/// The code of the book's page, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/drivers.md")]
mod book {}
#[cfg(doctest)]
#[doc = include_str!("../../../docs/inbox.md")]
mod inbox_book {}

#[cfg(test)]
mod conformance;
pub mod database;
#[cfg(test)]
mod doors;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod inbox;
#[cfg(test)]
use actix_outbox::NewEvent;
#[cfg(test)]
#[allow(dead_code, reason = "the library's own tests use the rest")]
#[path = "../../../src/publish/random_events.rs"]
mod random_events;
#[cfg(test)]
mod same_row;
#[path = "../../support/mod.rs"]
mod support;
#[cfg(test)]
mod trace_context;
