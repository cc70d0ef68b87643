//! The `outbox` program, and systems started inside the tests, against real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

#[path = "../../../tests/support/mod.rs"]
mod support;

use support::python;

mod across;
#[path = "../../../tests/it/actors.rs"]
mod actors;
mod adoption;
mod api;
mod backends;
mod bounds;
mod browser;
mod cli;
mod clocks;
mod cluster;
mod connections;
mod consume;
mod consumers;
mod databases;
mod deleting;
mod doctor;
mod embedded;
mod entries;
mod examples;
mod explain;
mod explain_groups;
mod failover;
mod first_hour;
mod half_broken;
mod handlers;
mod http;
mod inbox;
mod intake;
mod journal;
mod languages;
mod moving;
mod mysql;
mod mysql_rights;
mod nats;
mod nginx;
mod operating;
mod order;
mod orders;
mod outage;
mod own_outbox;
mod panics;
mod partitions;
mod pending;
mod pgbouncer;
mod publishing;
mod rabbitmq;
mod redis_messages;
mod redis_rights;
mod redis_streams;
mod replicas;
mod retention;
mod rights;
mod routing;
mod schemas;
mod secrets;
mod sentinel;
mod shutdown;
mod sql;
mod standby;
mod starting;
mod supervision;
mod takeover;
mod test_outbox;
mod tls;
mod traces;
mod unrecorded;
mod upgrading;
mod waking;
mod web;
mod web_limits;
mod web_operating;
mod web_origins;
mod web_pages;
mod web_users;
mod webhooks;
mod writes;
