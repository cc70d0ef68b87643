//! The readers of values that are not one number, text or time.

use std::collections::BTreeMap;

use super::check::expected;
use super::node::{Node, Result};
use super::{
    ConsumerSettings, ContentMode, DatabaseSettings, OnFailed, PublisherSettings, RateLimit, RetentionSettings,
    RetryBackoff, Route, Secret, Settings, WaitReplicas, WebSettings, WorkerSettings,
};

const ROOT: &[&str] = &["database", "publishers", "routes", "consumers", "worker", "retention", "web"];

/// The path of a key that was given in the wrong table.
pub(super) fn known_elsewhere(name: &str) -> Option<String> {
    let tables = [
        ("database", DatabaseSettings::KEYS),
        ("worker", WorkerSettings::KEYS),
        ("worker.retry_backoff", RetryBackoff::KEYS),
        ("retention", RetentionSettings::KEYS),
        ("web", WebSettings::KEYS),
        ("publishers.default", PublisherSettings::KEYS),
        ("consumers.NAME", ConsumerSettings::KEYS),
    ];
    tables.iter().find(|(_, keys)| keys.contains(&name)).map(|(table, _)| format!("{table}.{name}"))
}

pub(super) fn settings(root: Node<'_>) -> Result<Settings> {
    let table = root.table(ROOT)?;
    let mut settings = Settings::default();
    if let Some(node) = table.get("publishers") {
        for (name, node) in node.children()? {
            settings.publishers.insert(name, PublisherSettings::read(node)?);
        }
    }
    if let Some(node) = table.get("consumers") {
        for (name, node) in node.children()? {
            settings.consumers.insert(name, ConsumerSettings::read(node)?);
        }
    }
    let example = "{ type = \"order.*\", publisher = \"orders\" }";
    table.read("routes", &mut settings.routes, |node| node.list(example, route))?;
    table.read("database", &mut settings.database, |node| DatabaseSettings::read(node.clone()))?;
    table.read("worker", &mut settings.worker, |node| WorkerSettings::read(node.clone()))?;
    table.read("retention", &mut settings.retention, |node| RetentionSettings::read(node.clone()))?;
    table.read("web", &mut settings.web, |node| WebSettings::read(node.clone()))?;
    Ok(settings)
}

fn route(node: Node<'_>) -> Result<Route> {
    let table = node.table(&["type", "source", "extensions", "publisher"])?;
    let mut route = Route::default();
    table.read("type", &mut route.event_type, |node| node.string().map(Some))?;
    table.read("source", &mut route.source, |node| node.string().map(Some))?;
    table.read("extensions", &mut route.extensions, |node| {
        node.children()?.into_iter().map(|(name, node)| Ok((name, node.string()?))).collect()
    })?;
    table.read("publisher", &mut route.publisher, Node::string)?;
    Ok(route)
}

pub(super) fn string_as_list(node: &Node<'_>) -> Result<Vec<String>> {
    node.string().map(|text| vec![text])
}

pub(super) fn options(node: &Node<'_>) -> Result<serde_json::Map<String, serde_json::Value>> {
    node.children()?.into_iter().map(|(name, node)| Ok((name, node.json()?))).collect()
}

pub(super) fn wait_replicas(node: &Node<'_>) -> Result<WaitReplicas> {
    let table = node.clone().table(&["count", "timeout"])?;
    let Some(count) = table.get("count") else {
        return Err(table.node().invalid("needs `count`, as in { count = 1, timeout = \"1s\" }"));
    };
    let mut wait = WaitReplicas::new(count.integer(expected::FROM_ONE)?);
    table.read("timeout", &mut wait.timeout, Node::duration)?;
    Ok(wait)
}

pub(super) fn on_failed(node: &Node<'_>) -> Result<OnFailed> {
    match node.string()?.as_str() {
        "continue" => Ok(OnFailed::Continue),
        "hold" => Ok(OnFailed::Hold),
        _ => Err(node.expected("\"continue\" or \"hold\"")),
    }
}

pub(super) fn content_mode(node: &Node<'_>) -> Result<ContentMode> {
    match node.string()?.as_str() {
        "structured" => Ok(ContentMode::Structured),
        "binary" => Ok(ContentMode::Binary),
        "batch" => Ok(ContentMode::Batch),
        _ => Err(node.expected("\"structured\", \"binary\" or \"batch\"")),
    }
}

/// Reads a table of header names and values, which may be secrets.
pub(super) fn headers(node: &Node<'_>) -> Result<BTreeMap<String, Secret>> {
    node.children()?.into_iter().map(|(name, value)| Ok((name, value.secret()?))).collect()
}

/// Reads a rate limit; `burst` defaults to `per_second`.
pub(super) fn rate_limit(node: &Node<'_>) -> Result<RateLimit> {
    let table = node.clone().table(&["per_second", "burst"])?;
    let Some(per_second) = table.get("per_second") else {
        return Err(table.node().invalid("needs `per_second`, as in { per_second = 5000, burst = 10000 }"));
    };
    let per_second = per_second.integer(expected::FROM_ONE)?;
    let mut limit = RateLimit { per_second, burst: per_second };
    table.read("burst", &mut limit.burst, |node| node.integer(expected::FROM_ONE))?;
    Ok(limit)
}

/// Reads a backoff. `true`: the defaults; `false`: always `base`; or a table.
pub(super) fn retry_backoff(node: &Node<'_>) -> Result<RetryBackoff> {
    let backoff = RetryBackoff::default();
    match node.as_bool() {
        Some(true) => Ok(backoff),
        Some(false) => Ok(RetryBackoff { factor: 1.0, jitter: 0.0, ..backoff }),
        None if node.dict().is_err() => Err(node.expected("true, false, or a table as in { base = \"1m\" }")),
        None => RetryBackoff::read(node.clone()),
    }
}
