//! The line for who forgets the word `run`.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ErrorKind};

use super::args::{Arguments, Run, Subcommand};

/// `netjail --network app:tor curl …` is not a command line of netjail's, but it would be one with `run`: says which.
pub fn run_forgotten(error: &clap::Error, words: &[OsString]) -> Option<String> {
    let strange = matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
    let known = |word: &OsString| Arguments::command().find_subcommand(word).is_some();
    if !strange || error.get(ContextKind::SuggestedSubcommand).is_some() || words.get(1).is_none_or(known) {
        return None;
    }
    let mut with_run = words.to_vec();
    with_run.insert(1.min(words.len()), "run".into());
    let options = match Arguments::of(&with_run).ok()?.subcommand {
        Subcommand::Run(Run::Run(options)) => options,
        _ => return None,
    };
    let command_at = with_run.len() - options.command.len();
    let mut line: Vec<String> = vec!["netjail".into()];
    line.extend(with_run[1..command_at].iter().filter(|word| *word != "--").map(quoted));
    line.push("--".into());
    line.extend(options.command.iter().map(quoted));
    Some(format!("to run a command in a jail: {}", line.join(" ")))
}

/// A word as a shell would have it written.
fn quoted(word: &OsString) -> String {
    let text = crate::registry::escape(&word.to_string_lossy());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &[&str]) -> Option<String> {
        let words: Vec<OsString> = line.iter().map(OsString::from).collect();
        run_forgotten(&Arguments::of(&words).unwrap_err(), &words)
    }

    #[test]
    fn who_forgets_run_gets_the_line_with_it() {
        assert_eq!(
            said(&["netjail", "--network", "app:tor", "curl", "-s", "a b"]).as_deref(),
            Some("to run a command in a jail: netjail run --network app:tor -- curl -s 'a b'")
        );
        assert_eq!(said(&["netjail", "curl"]).as_deref(), Some("to run a command in a jail: netjail run -- curl"));
    }

    #[test]
    fn a_misspelt_subcommand_or_flag_gets_no_such_line() {
        assert_eq!(said(&["netjail", "chekc"]), None);
        assert_eq!(said(&["netjail", "--no-such-flag", "curl"]), None);
        assert_eq!(said(&["netjail", "run", "--no-such-flag", "curl"]), None);
    }
}
