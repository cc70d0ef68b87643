//! `outbox dead`

use std::io::{self, IsTerminal, Write};

use actix_outbox::admin::OutboxAdmin;
use actix_outbox::{DeadLetters, LetterAction, LetterFacts, LetterId, Settings};

use super::arguments::Format;
use super::{author, output};

/// Dead letters in one step of `--all`.
const PAGE: usize = 500;

/// List the events that a consumer has set aside, and retry or delete them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(ListArgs),
    Show(ShowArgs),
    Retry(RetryArgs),
    Delete(DeleteArgs),
}

/// List a consumer's dead letters, by stream, oldest first.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// The consumer's name in the settings.
    consumer: String,
    /// The most that are listed.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// A table, or JSON (one array).
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Show a dead letter with its event, in JSON.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The consumer's name in the settings.
    consumer: String,
    /// The dead letter, as `outbox dead list` shows it.
    #[arg(value_name = "ENTRY")]
    entry: LetterId,
}

/// Give dead letters to the consumer's group again, once their cause is fixed: each is delivered as if it were new, and no other
/// group receives it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox dead retry mailer '{events}:dead:mailer/1795238423123-0'
  outbox dead retry mailer --all")]
pub(super) struct RetryArgs {
    #[command(flatten)]
    selection: SelectionArgs,
}

/// Delete dead letters for good.
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    selection: SelectionArgs,
}

#[derive(Debug, clap::Args)]
struct SelectionArgs {
    /// The consumer's name in the settings.
    consumer: String,
    /// The dead letters, as `outbox dead list` shows them.
    #[arg(value_name = "ENTRY", required_unless_present = "all", conflicts_with = "all")]
    entries: Vec<LetterId>,
    /// All dead letters that there are now.
    #[arg(long)]
    all: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    /// Print the result as a sentence, or as JSON: `{"changed": 2, "skipped": [{"id": "…", "reason": "…"}]}`.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// `admin`: of the database that records changes, if there is one.
pub(super) async fn run(command: Command, settings: &Settings, admin: Option<&OutboxAdmin>) -> anyhow::Result<()> {
    match command {
        Command::List(args) => list(&args, settings).await,
        Command::Show(args) => show(&args, settings).await,
        Command::Retry(RetryArgs { selection }) => change(&selection, settings, admin, LetterAction::Retry).await,
        Command::Delete(DeleteArgs { selection }) => change(&selection, settings, admin, LetterAction::Delete).await,
    }
}

async fn list(args: &ListArgs, settings: &Settings) -> anyhow::Result<()> {
    let letters = DeadLetters::of(settings, &args.consumer)?.list(None, args.limit).await?;
    match args.format {
        Format::Json => output::json(&letters),
        Format::Table => {
            let rows = letters.iter().map(|letter| {
                let LetterFacts { id, at, event_type, event_id, deliveries, reason, .. } = letter;
                let texts = [&id.to_string(), event_type, event_id].map(|text| output::printable(text));
                let [id, event_type, event_id] = texts;
                vec![id, output::time(*at), event_type, event_id, deliveries.to_string(), output::printable(reason)]
            });
            Ok(output::table(&["ENTRY", "AT", "TYPE", "EVENT", "DELIVERIES", "REASON"], rows)?)
        }
    }
}

async fn show(args: &ShowArgs, settings: &Settings) -> anyhow::Result<()> {
    let letter = DeadLetters::of(settings, &args.consumer)?.get(&args.entry).await?;
    let Some(letter) = letter else { anyhow::bail!("{} is not there any more", args.entry) };
    let mut facts = serde_json::to_value(&letter)?;
    facts["cloud_event"] = letter.cloud_event.map(|json| serde_json::from_str(&json)).transpose()?.unwrap_or_default();
    output::json(&facts)
}

/// Changes the dead letters with the given ids, or all that there are now.
async fn change(
    selection: &SelectionArgs,
    settings: &Settings,
    admin: Option<&OutboxAdmin>,
    action: LetterAction,
) -> anyhow::Result<()> {
    let letters = DeadLetters::of(settings, &selection.consumer)?;
    let (infinitive, past) = match action {
        LetterAction::Retry => ("Retry", "retried"),
        LetterAction::Delete => ("Delete", "deleted"),
    };
    let mut ids = selection.entries.clone();
    if selection.all {
        ids = all(&letters).await?;
        if !(ids.is_empty() || selection.yes || confirmed(infinitive, ids.len())?) {
            ids.clear();
        }
    }
    let (mut changed, mut missing) = (0, Vec::new());
    for page in ids.chunks(PAGE) {
        let (by, from) = (author::actor(), author::host());
        let done = match admin {
            Some(admin) => admin.change_letters(&letters, action, page, &by, &from).await,
            None => letters.change_as(action, page, &by, &from).await,
        };
        let report = done.map_err(|error| match changed {
            0 => anyhow::Error::from(error),
            _ => anyhow::anyhow!("{past} {}, then: {error}", count(changed)),
        })?;
        changed += report.changed;
        missing.extend(report.missing);
    }
    let why = match action {
        LetterAction::Retry => "is not there any more, or has nothing to deliver",
        LetterAction::Delete => "is not there any more",
    };
    report(past, why, changed, &missing, selection.format)
}

async fn all(letters: &DeadLetters) -> anyhow::Result<Vec<LetterId>> {
    let mut ids: Vec<LetterId> = Vec::new();
    loop {
        let page = letters.list(ids.last(), PAGE).await?;
        if page.is_empty() {
            return Ok(ids);
        }
        ids.extend(page.into_iter().map(|letter| letter.id));
    }
}

/// Asks for confirmation, but only on a terminal: a script has decided already.
fn confirmed(infinitive: &str, letters: usize) -> io::Result<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(true);
    }
    write!(io::stderr(), "{infinitive} {}? [y/N] ", count(letters))?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Prints what was done; that some were skipped is a failure.
fn report(past: &str, why: &str, changed: usize, missing: &[LetterId], format: Format) -> anyhow::Result<()> {
    let reason = |id: &LetterId| format!("{id} {why}");
    match format {
        Format::Json => {
            let skipped = missing.iter().map(|id| serde_json::json!({ "id": id, "reason": reason(id) }));
            let skipped: Vec<_> = skipped.collect();
            output::json(&serde_json::json!({ "changed": changed, "skipped": skipped }))?;
        }
        Format::Table if changed > 0 || missing.is_empty() => output::line(format_args!("{past} {}", count(changed)))?,
        Format::Table => {}
    }
    if missing.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = missing.iter().map(reason).collect();
    Err(anyhow::anyhow!(reasons.join("\n")))
}

fn count(letters: usize) -> String {
    if letters == 1 { "1 dead letter".to_owned() } else { format!("{letters} dead letters") }
}
