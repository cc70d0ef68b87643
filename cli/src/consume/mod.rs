//! `outbox consume`

mod execute;
mod print;

use std::num::NonZeroUsize;
use std::time::Duration;

use actix_outbox::{
    ConsumerSettings, EventTypes, HandleEvent, OutboxConsumer, PublisherSettings, Settings, StartAt, StreamTail,
    Subscribe, SystemError,
};
use tokio::sync::mpsc;

use self::execute::Execute;
use self::print::Print;
use super::exit::UsageError;
use super::worker::{INTERRUPTED, Signals};

/// How long the output may let an event wait: a day.
const PRINT_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// The name of a consumer that is not in the settings.
const AD_HOC: &str = "command-line";

/// Print the events of a stream, or run a command or a request for each, until stopped.
///
/// With a group, an entry is acknowledged when it is printed, when the command ends with 0, or when the answer is 2xx.
/// Otherwise it stays pending, counts a delivery, and is delivered again after `retry_backoff`; after `max_deliveries` it is a
/// dead letter. Without a group, nothing is acknowledged and nothing is written: every call sees the same entries.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox consume --from 0 --limit 10
  outbox consume --stream events --type 'order.*' | jq .data
  outbox consume --stream events --group billing --exec ./bill.sh
  outbox consume mailer --post https://hooks.example.com/events")]
pub(crate) struct Args {
    /// A consumer of the settings, with its group; without one, and without --stream, the streams of the default publisher.
    #[arg(value_name = "NAME", conflicts_with_all = ["stream", "group"])]
    name: Option<String>,
    /// A stream, or a glob, on the default publisher's server.
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Read as a consumer of this group, which is created if it is missing.
    #[arg(long, value_name = "GROUP", requires = "stream")]
    group: Option<String>,
    /// Where to begin: 0 (the first entry), $ (the next one), or a time. With a group, only if it is new [default: $, and `start`
    /// with NAME or --group].
    #[arg(long, value_name = "PLACE")]
    from: Option<StartAt>,
    /// Only events of this type, or of a beginning such as 'order.*'. Others are acknowledged.
    #[arg(long = "type", value_name = "GLOB", value_parser = event_types)]
    types: Option<EventTypes>,
    /// Stop after this many events.
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Run this command for each event, with its CloudEvent on standard input and OUTBOX_EVENT_ID and OUTBOX_EVENT_TYPE in its
    /// environment.
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true, conflicts_with = "post")]
    exec: Vec<String>,
    /// Post each event's CloudEvent to this address.
    #[arg(long, value_name = "URL")]
    post: Option<String>,
}

fn event_types(text: &str) -> Result<EventTypes, String> {
    match text.find('*') {
        Some(at) if at + 1 < text.len() => Err("write a type, or its beginning and a * at the end".to_owned()),
        _ => Ok(EventTypes::from(text)),
    }
}

pub(crate) fn run(args: Args, settings: Settings) -> anyhow::Result<()> {
    let has_group = args.name.is_some() || args.group.is_some();
    if !has_group && (!args.exec.is_empty() || args.post.is_some()) {
        return Err(
            UsageError("--exec and --post acknowledge events: give NAME, or --stream and --group".to_owned()).into()
        );
    }
    let (name, settings) = args.consumer(settings)?;
    if has_group {
        return actix_rt::System::new().block_on(consume(args, settings, name));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tail(&args, &settings, &name))
}

impl Args {
    /// The consumer's name, and settings that contain it.
    fn consumer(&self, mut settings: Settings) -> anyhow::Result<(String, Settings)> {
        let Some(name) = self.name.clone() else {
            let mut consumer = ConsumerSettings::default();
            consumer.source = Some(settings.default_publisher()?.to_owned());
            consumer.streams.extend(self.stream.clone());
            consumer.group.clone_from(&self.group);
            consumer.start = self.from.unwrap_or(if self.group.is_some() { StartAt::First } else { StartAt::Next });
            // As a shell would do it: one after the other.
            consumer.concurrency = 1;
            settings.consumers.insert(AD_HOC.to_owned(), consumer);
            return Ok((AD_HOC.to_owned(), settings));
        };
        settings.consumer(&name)?;
        if let (Some(from), Some(consumer)) = (self.from, settings.consumers.get_mut(&name)) {
            consumer.start = from;
        }
        Ok((name, settings))
    }

    fn types(&self) -> EventTypes {
        self.types.clone().unwrap_or(EventTypes::All)
    }
}

async fn consume(args: Args, settings: Settings, name: String) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (report, mut failed) = mpsc::unbounded_channel();
    let recipient = handler(&args, &settings, &name, report)?;
    let mut builder = OutboxConsumer::builder(settings, &name);
    if args.exec.is_empty() && args.post.is_none() {
        builder = builder.handler_timeout(PRINT_LIMIT);
    }
    if let Some(limit) = args.limit {
        builder = builder.limit(limit.get());
    }
    let consumer = builder.subscribe(Subscribe::new(name, args.types(), recipient)).start().await?;
    let failure = tokio::select! {
        () = consumer.ended() => return Ok(()),
        Some(error) = failed.recv() => Some(error),
        _ = signals.next() => None,
    };
    tokio::select! {
        ended = consumer.shutdown() => ended?,
        name = signals.next() => {
            tracing::warn!(signal = name, "ending immediately after a second signal; others take what was being handled");
            std::process::exit(INTERRUPTED)
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn handler(
    args: &Args,
    settings: &Settings,
    name: &str,
    report: mpsc::UnboundedSender<std::io::Error>,
) -> anyhow::Result<actix::Recipient<HandleEvent>> {
    use actix::Actor;

    if !args.exec.is_empty() {
        let limit = settings.consumer(name)?.handler_timeout;
        return Ok(Execute::new(args.exec.clone(), limit, report).start().recipient());
    }
    match &args.post {
        Some(url) => post(url),
        None => Ok(Print::new(report).start().recipient()),
    }
}

/// The operator names the address, so it may be any.
#[cfg(feature = "http-backend")]
fn post(url: &str) -> anyhow::Result<actix::Recipient<HandleEvent>> {
    use actix::Actor;
    use actix_outbox::WebhookHandler;

    let mut settings = PublisherSettings::default();
    settings.backend = "http".to_owned();
    settings.url = Some(url.into());
    settings.allow_addresses = ["0.0.0.0/0", "::/0"].map(str::to_owned).to_vec();
    let webhook = WebhookHandler::new(&settings).map_err(|error| UsageError(format!("--post: {error}")))?;
    Ok(webhook.start().recipient())
}

#[cfg(not(feature = "http-backend"))]
fn post(_: &str) -> anyhow::Result<actix::Recipient<HandleEvent>> {
    let _ = PublisherSettings::default;
    Err(UsageError("--post: this program was built without the feature `http-backend`".to_owned()).into())
}

async fn tail(args: &Args, settings: &Settings, name: &str) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (mut tail, types) = (StreamTail::of(settings, name)?, args.types());
    let mut left = args.limit.map_or(usize::MAX, NonZeroUsize::get);
    let mut is_waiting = false;
    loop {
        let read = tokio::select! {
            read = tail.next() => read,
            _ = signals.next() => return Ok(()),
        };
        let events = match read {
            Ok(events) => events,
            Err(SystemError::Source(reason)) => {
                if !is_waiting {
                    tracing::warn!("streams cannot be read; retrying: {reason}");
                }
                is_waiting = true;
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => continue,
                    _ = signals.next() => return Ok(()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        is_waiting = false;
        for event in events {
            match event {
                Ok(event) if types.contains(&event.event_type) => print::line(&event)?,
                Ok(_) => continue,
                Err(reason) => {
                    tracing::warn!("an entry is left out: {reason}");
                    continue;
                }
            }
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
    }
}
