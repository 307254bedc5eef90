//! `netjail man`: the manual pages, from the same definitions as the help.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use super::args::{Arguments, ManArguments};
use super::{FINDING, print};
use crate::roles::say;

/// Writes one page to standard output, or all of them into a folder.
pub fn run(arguments: &ManArguments) -> i32 {
    let mut command = Arguments::command();
    command.build();
    match &arguments.folder {
        None => match page(command) {
            Ok(page) => print(&page, 0),
            Err(e) => failed(&e.to_string()),
        },
        Some(folder) => match write_all(command, folder) {
            Ok(()) => 0,
            Err(e) => failed(&format!("{}: {e}; name a folder that can be written", folder.display())),
        },
    }
}

fn failed(why: &str) -> i32 {
    say(why);
    FINDING
}

fn page(command: clap::Command) -> io::Result<String> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn write_all(command: clap::Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("netjail-{}", sub.get_name());
        let named = sub.clone().name(name.clone()).bin_name(format!("netjail {}", sub.get_name()));
        fs::write(folder.join(format!("{name}.1")), page(named)?)?;
    }
    fs::write(folder.join("netjail.1"), page(command)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_that_is_shown_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Arguments::command();
        command.build();
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set()).count();
        write_all(command, folder.path()).unwrap();
        let pages: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(pages.len(), shown + 1);
        assert!(pages.iter().all(|page| fs::read_to_string(page).unwrap().contains(".TH netjail")));
    }
}
