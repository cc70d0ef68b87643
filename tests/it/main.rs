//! Systems started inside the tests and the examples of the library, against real servers. `cli/tests` holds the tests that
//! run the program `outbox`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "the tests of the program use the rest")]
mod actors;
mod examples;
mod harness;
mod sqlite;
mod testing;
mod testing_page;
mod web;
