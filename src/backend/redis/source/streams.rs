//! The streams of a consumer, with a group in each of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::Cmd;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::glob::is_glob;
use super::letters_template::LettersTemplate;
use super::link::{Link, LinkError};
use super::{RedisSource, Result};
use crate::backend::event_source::SourceUnavailable;
use crate::settings::name_template::NameTemplate;
use crate::settings::partitions::{partition_name, partition_of};
use crate::settings::{ConsumerSettings, PublisherSettings, StartAt};

const RETRY_SUFFIX: &str = ":retry";

/// How often new streams are looked up, if there are globs.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(5);

/// How many keys Redis looks at in one step of a look-up.
const SCAN_COUNT: usize = 1_000;

/// Which partition a stream is, or has the retried dead letters of.
pub(super) struct Partition {
    /// The partitions' names, without the dot and the number.
    pub(super) base: String,
    pub(super) n: u32,
}

/// One stream. Its number is its place in the list, which only grows.
pub(super) struct SourceStream {
    pub(super) name: String,
    /// The stream that its entries were in at first.
    pub(super) origin: String,
    /// Where its dead letters go.
    pub(super) dead: String,
    /// It contains dead letters that an operator has retried, for this group alone.
    pub(super) is_retry: bool,
    /// It is leased.
    pub(super) partition: Option<Partition>,
    /// Its first entry is new to the group: it contains retried letters, or was found later than the others.
    pub(super) begins_at_first: bool,
    has_group: AtomicBool,
    /// The group was there once, so it begins again at the first entry.
    had_group: AtomicBool,
}

pub(super) struct SourceStreams {
    names: Vec<String>,
    globs: Vec<String>,
    group: String,
    letters: LettersTemplate,
    start: StartAt,
    may_create: bool,
    list: RwLock<Vec<Arc<SourceStream>>>,
    looked_up: Mutex<Option<Instant>>,
}

impl SourceStreams {
    pub(super) fn new(server: &PublisherSettings, consumer: &ConsumerSettings, group: &str) -> Self {
        let named = if consumer.streams.is_empty() { streams_of(server) } else { consumer.streams.clone() };
        let (globs, names): (Vec<_>, Vec<_>) = named.into_iter().partition(|name| is_glob(name));
        let streams = Self {
            names,
            globs,
            group: group.to_owned(),
            letters: LettersTemplate::new(&consumer.dead_letters),
            start: consumer.start,
            may_create: consumer.create_group,
            list: RwLock::default(),
            looked_up: Mutex::default(),
        };
        streams.names.iter().for_each(|name| streams.add(name, false));
        streams
    }

    pub(super) fn may_create(&self) -> bool {
        self.may_create
    }

    /// A name that has the slot of all streams, in a Redis Cluster.
    pub(super) fn any_name(&self) -> String {
        self.names.first().or(self.globs.first()).cloned().unwrap_or_default()
    }

    pub(super) fn get(&self, number: usize) -> Arc<SourceStream> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner)[number])
    }

    pub(super) fn all(&self) -> Vec<(usize, Arc<SourceStream>)> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().cloned().enumerate().collect()
    }

    /// Those that several consumers read at a time.
    pub(super) fn shared(&self) -> Vec<(usize, Arc<SourceStream>)> {
        self.all().into_iter().filter(|(_, stream)| stream.partition.is_none()).collect()
    }

    /// Groups are created again before the next read.
    pub(super) fn forget_groups(&self) {
        for (_, stream) in self.all() {
            stream.has_group.store(false, Ordering::Relaxed);
        }
    }

    /// Adds streams that a glob matches, without those of dead letters, of whichever stream and group.
    fn add_found(&self, names: &[String], are_new: bool) {
        let is_new = |name: &&String| !self.all().iter().any(|(_, stream)| stream.name == **name);
        let are_letters = |name: &str| self.letters.matches(name.strip_suffix(RETRY_SUFFIX).unwrap_or(name));
        names.iter().filter(is_new).filter(|name| !are_letters(name)).for_each(|name| self.add(name, are_new));
    }

    /// Adds a stream, and then the one for its retried dead letters.
    fn add(&self, name: &str, is_new: bool) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let dead = self.letters.name(name, &self.group);
        let is_known = list.iter().any(|stream| stream.name == name || stream.dead == name);
        if is_known {
            return;
        }
        let retry = retry_stream_of(&dead);
        for (stream, is_retry) in [(name, false), (&retry, true)] {
            list.push(Arc::new(SourceStream {
                name: stream.to_owned(),
                origin: name.to_owned(),
                dead: dead.clone(),
                is_retry,
                begins_at_first: is_retry || is_new,
                partition: partition(name),
                has_group: AtomicBool::new(false),
                had_group: AtomicBool::new(false),
            }));
        }
    }
}

impl RedisSource {
    /// Looks up the streams, and creates the group where it is missing.
    pub(super) async fn prepare(&self, link: &Link) -> Result<()> {
        self.look_up(link).await?;
        for (number, stream) in self.streams.all() {
            // Only consumers of the group know of its retried letters.
            let may_create = self.streams.may_create || stream.is_retry;
            if may_create && !stream.has_group.load(Ordering::Relaxed) && !self.resting.is_resting(number) {
                self.create_group(link, number, &stream).await?;
            }
        }
        Ok(())
    }

    /// Looks up the streams, without creating anything.
    pub(super) async fn find_streams(&self) -> Result<()> {
        self.look_up(&self.control).await
    }

    async fn create_group(&self, link: &Link, number: usize, stream: &SourceStream) -> Result<()> {
        let had_group = stream.had_group.load(Ordering::Relaxed);
        let start = if had_group || stream.begins_at_first { StartAt::First } else { self.streams.start };
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(&stream.name).arg(&self.group).arg(start_id(start)).arg("MKSTREAM");
        match link.query::<()>(&create).await {
            Ok(()) if had_group => tracing::warn!(
                stream = stream.name,
                group = self.group,
                "the group was missing and was created again, at the first entry: entries that are still in the stream may be \
                 handled again"
            ),
            Ok(()) => tracing::info!(stream = stream.name, group = self.group, "group created"),
            Err(error) if error.is_existing_group() => {}
            // A full server refuses it without a look at the group. A read shows whether there is one.
            Err(error) if error.is_out_of_memory() => {
                stream.has_group.store(true, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => return self.refusal(number, &error).map(drop),
        }
        stream.has_group.store(true, Ordering::Relaxed);
        stream.had_group.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn look_up(&self, link: &Link) -> Result<()> {
        if self.streams.globs.is_empty() {
            return Ok(());
        }
        let mut looked_up = self.streams.looked_up.lock().await;
        if looked_up.is_some_and(|at| at.elapsed() < LOOK_UP_INTERVAL) {
            return Ok(());
        }
        for glob in &self.streams.globs {
            let names = scan(link, glob).await.map_err(|error| SourceUnavailable(error.reason()))?;
            self.streams.add_found(&names, looked_up.is_some());
        }
        *looked_up = Some(Instant::now());
        Ok(())
    }
}

/// The streams whose names match, in alphabetical order.
async fn scan(link: &Link, glob: &str) -> Result<Vec<String>, LinkError> {
    let (mut cursor, mut names) = (0_u64, Vec::new());
    loop {
        let mut scan: Cmd = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(glob).arg("COUNT").arg(SCAN_COUNT).arg("TYPE").arg("stream");
        let (next, page): (u64, Vec<Vec<u8>>) = link.query(&scan).await?;
        // A publisher writes to none with another name.
        names.extend(page.into_iter().filter_map(|name| String::from_utf8(name).ok()));
        if next == 0 {
            names.sort_unstable();
            names.dedup();
            return Ok(names);
        }
        cursor = next;
    }
}

/// The streams that a publisher writes to; by template those that match.
fn streams_of(server: &PublisherSettings) -> Vec<String> {
    let template = NameTemplate::new(&server.stream_name);
    if server.partitions > 1 {
        return (0..server.partitions).map(|n| partition_name(&template.pattern(), n)).collect();
    }
    if template.is_fixed() { vec![template.pattern()] } else { vec![template.glob()] }
}

fn partition(name: &str) -> Option<Partition> {
    let (_, n) = partition_of(name)?;
    let (base, _) = name.rsplit_once('.')?;
    Some(Partition { base: base.to_owned(), n })
}

/// Where retried dead letters go.
pub(crate) fn retry_stream_of(dead: &str) -> String {
    format!("{dead}{RETRY_SUFFIX}")
}

pub(super) fn start_id(start: StartAt) -> String {
    match start {
        StartAt::First => "0".to_owned(),
        StartAt::Next => "$".to_owned(),
        // The last id before this time.
        StartAt::Time(time) => {
            let before = u64::try_from(time.timestamp_millis()).unwrap_or(0).saturating_sub(1);
            format!("{before}-{}", u64::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_begins_where_it_is_told() {
        let time: StartAt = "1970-01-01T00:00:10Z".parse().unwrap();
        let ids = [StartAt::First, StartAt::Next, time].map(start_id);
        assert_eq!(ids, ["0", "$", "9999-18446744073709551615"]);
    }
}
