//! `ringcast completions` and `ringcast man`: files that a package has beside the program.

use std::io::Write;
use std::path::PathBuf;

use clap::{Command, CommandFactory};

use super::{Cli, Result};

/// Which shell to print completions for.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Where to write the manual pages.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The folder; it is made if it does not exist.
    folder: PathBuf,
}

/// Prints the completions of a shell.
pub(super) fn completions(args: &CompletionsArgs) -> Result {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ringcast", &mut text);
    Ok(std::io::stdout().write_all(&text)?)
}

/// Writes a manual page for the program and one for each of its commands.
pub(super) fn man(args: &ManArgs) -> Result {
    std::fs::create_dir_all(&args.folder)?;
    let mut command = Cli::command();
    command.build();
    page(&args.folder, &command, "ringcast")?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        page(&args.folder, sub, &format!("ringcast-{}", sub.get_name()))?;
    }
    Ok(())
}

fn page(folder: &std::path::Path, command: &Command, name: &str) -> Result {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    Ok(std::fs::write(folder.join(format!("{name}.1")), text)?)
}
