//! `outbox completions`

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// Print a script with which a shell completes this program's commands.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox completions bash > /etc/bash_completion.d/outbox
  outbox completions zsh > \"${fpath[1]}/_outbox\"
  outbox completions fish > ~/.config/fish/completions/outbox.fish")]
pub(super) struct Args {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), super::program(), &mut script);
    Ok(super::output::bytes(&script)?)
}
