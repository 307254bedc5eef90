//! How the demo speaks: acts, commands, what was seen, and what that means.

use std::fmt::Display;
use std::io::{self, Write};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[1;31m";
const PLAIN: &str = "\x1b[0m";

/// Prints, and counts what was not as it should be.
#[derive(Debug)]
pub struct Teller {
    colour: bool,
    acts: u32,
    wrong: u32,
}

impl Teller {
    /// Speaks to standard output.
    pub fn new(colour: bool) -> Self {
        Self { colour, acts: 0, wrong: 0 }
    }

    fn paint(&self, style: &str, text: impl Display) -> String {
        if self.colour { format!("{style}{text}{PLAIN}") } else { text.to_string() }
    }

    /// A reader that has gone (`| head`) is no reason to stop: the status still counts.
    fn line(&self, text: impl Display) {
        let _ = writeln!(io::stdout(), "{text}");
    }

    /// The first lines.
    pub fn title(&self, title: &str, below: &str) {
        self.line(self.paint(BOLD, title));
        self.line(below);
    }

    /// A new act.
    pub fn act(&mut self, title: &str) {
        self.acts += 1;
        self.line("");
        self.line(self.paint(BOLD, format!("{}. {title}", self.acts)));
    }

    /// A command that is run, as it could be typed.
    pub fn command(&self, command: &str) {
        self.line(format!("   {} {command}", self.paint(DIM, "$")));
    }

    /// A text shown as it is.
    pub fn quote(&self, text: &str) {
        text.lines().for_each(|line| self.line(self.paint(DIM, format!("   | {line}"))));
    }

    /// What was seen, and whether it is as it should be.
    pub fn check(&mut self, good: bool, saw: impl Display) {
        let mark = if good { self.paint(GREEN, "ok ") } else { self.paint(RED, "BAD") };
        self.wrong += u32::from(!good);
        self.line(format!("   {mark} {saw}"));
    }

    /// Something beside it that has no right or wrong.
    pub fn aside(&self, text: &str) {
        self.line(format!("       {text}"));
    }

    /// What happened here is …
    pub fn meaning(&self, text: &str) {
        text.lines().for_each(|line| self.line(format!("       {line}")));
    }

    /// The last line; how many things were wrong.
    pub fn end(self) -> u32 {
        self.line("");
        match self.wrong {
            0 => self.line(self.paint(GREEN, "everything was as it should be")),
            1 => self.line(self.paint(RED, "one thing was NOT as it should be")),
            wrong => self.line(self.paint(RED, format!("{wrong} things were NOT as they should be"))),
        }
        self.wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_counted() {
        let mut teller = Teller::new(false);
        teller.check(true, "this");
        teller.check(false, "that");
        assert_eq!(teller.end(), 1);
    }
}
