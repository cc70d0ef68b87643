//! `outbox man`

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::{Cli, output};

/// Print the manual page, or write one for each command into a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox man | man -l -
  outbox man --folder /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Write the pages of all commands into this existing folder.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let command = Cli::command().name(super::program());
    if let Some(folder) = &args.folder {
        return clap_mangen::generate_to(command, folder)
            .with_context(|| format!("cannot write the pages into {}", folder.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(output::bytes(&page)?)
}
