//! In which order it is measured: every variant in each round, and each beside its bound.
//!
//! `bench run --netjail FILE --folder FOLDER --json FILE [--uid N] [--quick] [--rounds N] [--only WORDS] [--columns WORDS]
//! [--peer NAME=COMMAND]`
//!
//! The same machine is twice as fast in one minute as in the next, and two runs of the same program differ by a fifth of what
//! they take. So there are many short rounds and no long ones; in each of them a probe goes once through its variants,
//! bound, two of them, bound, two of them ..., so that each has a bound right before or right behind it, and its ratio is the
//! one to that. The next round goes the other way.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::figures::{Figures, Sample};
use crate::launch::Place;
use crate::machine::{Machine, Servers};
use crate::probes::{self, Run};
use crate::report;
use crate::table::{PROBES, Probe};
use crate::variants::{self, Given, Variant};

#[derive(Default)]
struct Options {
    netjail: String,
    folder: PathBuf,
    json: PathBuf,
    uid: Option<u32>,
    quick: bool,
    rounds: Option<usize>,
    /// Words of which a variant's name must contain one; none, and all are measured.
    only: Vec<String>,
    /// The same for probes and their figures.
    columns: Vec<String>,
    peers: Vec<(String, String)>,
}

fn options(arguments: &[String]) -> io::Result<Options> {
    let mut options = Options::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--quick" {
            options.quick = true;
            continue;
        }
        let bad = || io::Error::other(format!("{word}: not understood, or without its value"));
        let value = words.next().ok_or_else(bad)?.clone();
        let list = || value.split(',').map(|word| word.trim().to_owned()).collect();
        match word.as_str() {
            "--only" => options.only = list(),
            "--columns" => options.columns = list(),
            "--netjail" => options.netjail = value,
            "--folder" => options.folder = value.into(),
            "--json" => options.json = value.into(),
            "--uid" => options.uid = Some(value.parse().map_err(|_| bad())?),
            "--rounds" => options.rounds = Some(value.parse().map_err(|_| bad())?),
            "--peer" => {
                let (name, command) = value.split_once('=').ok_or_else(bad)?;
                options.peers.push((name.into(), command.into()));
            }
            _ => return Err(bad()),
        }
    }
    Ok(options)
}

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 15 })
    }

    /// How long a client measures, behind a warm-up.
    fn window(&self) -> Duration {
        Duration::from_millis(if self.quick { 250 } else { 600 })
    }

    fn takes(words: &[String], name: &str) -> bool {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    }

    fn probes(&self) -> Vec<&'static Probe> {
        let named = |probe: &Probe| {
            let mut names = probe.figures.iter().map(|figure| figure.name).chain([probe.name]);
            names.any(|name| Self::takes(&self.columns, name))
        };
        PROBES.iter().filter(|probe| (probe.quick || !self.quick) && named(probe)).collect()
    }

    /// Those that were asked for, and what they are held against.
    fn variants(&self) -> io::Result<Vec<Variant>> {
        let given = Given { netjail: &self.netjail, folder: &self.folder, peers: &self.peers };
        let mut all = variants::all(&given)?;
        let taken = |variant: &Variant| Self::takes(&self.only, &variant.name) && (variant.quick || !self.quick);
        let bounds: Vec<_> = all.iter().filter(|variant| taken(variant)).filter_map(|variant| variant.bound).collect();
        all.retain(|variant| taken(variant) || bounds.contains(&variant.name.as_str()));
        Ok(all)
    }
}

/// Every how many rounds those take part that are not judged.
const SELDOM: usize = 3;

/// Runs all of it; false if a target was missed.
pub fn run(arguments: &[String]) -> io::Result<bool> {
    let options = options(arguments)?;
    let (variants, probes) = (options.variants()?, options.probes());
    if probes.is_empty() {
        return Err(io::Error::other(format!("--columns {}: no such column", options.columns.join(","))));
    }
    let machine = Machine::prepare(options.uid)?;
    let place = Place { folder: options.folder.clone(), uid: options.uid, window: options.window() };
    let _servers = Servers::start(&options.folder)?;
    let mut figures = Figures::default();
    for round in 0..options.rounds() {
        for probe in probes.iter().filter(|probe| round < probe.rounds) {
            eprint!("\rround {} of {}: {:<20}", round + 1, options.rounds(), probe.name);
            let due = |variant: &&Variant| {
                let turn = !variant.seldom || round % SELDOM == 0;
                turn && variant.missing.is_none() && variant.groups.contains(&probe.group)
            };
            let due: Vec<&Variant> = variants.iter().filter(due).collect();
            for bound in due.iter().filter(|variant| heads(variant, &due)) {
                let held: Vec<_> = due.iter().filter(|variant| variant.bound == Some(&bound.name)).copied().collect();
                beside(&place, probe, bound, &held, round % 2 == 1, &mut figures);
            }
        }
    }
    eprintln!();
    report::print(&machine, &variants, &probes, &figures, &options.json, options.quick)
}

/// Whether a variant is measured for itself: it is held against nothing, or what it is held against is not measured now.
fn heads(variant: &Variant, due: &[&Variant]) -> bool {
    !due.iter().any(|other| variant.bound == Some(&other.name))
}

/// One turn: the bound, two variants, the bound, two more; or all of that the other way.
fn beside(place: &Place, probe: &Probe, bound: &Variant, held: &[&Variant], backwards: bool, figures: &mut Figures) {
    let mut order = vec![bound];
    for pair in held.chunks(2) {
        order.extend(pair);
        order.extend((pair.len() == 2).then_some(bound));
    }
    if backwards {
        order.reverse();
    }
    let runs: Vec<Run> = order.iter().map(|variant| probes::run(place, variant, probe.how)).collect();
    let is_bound = |at: usize| order[at].name == bound.name;
    for (at, variant) in order.iter().enumerate() {
        let neighbour = if at > 0 && is_bound(at - 1) { at - 1 } else { at + 1 };
        let neighbour = runs.get(neighbour).filter(|_| !is_bound(at));
        keep(probe, variant, &runs[at], neighbour, figures);
    }
}

/// Adds what a run gave to each of its figures.
fn keep(probe: &Probe, variant: &Variant, run: &Run, bound: Option<&Run>, figures: &mut Figures) {
    for (at, figure) in probe.figures.iter().enumerate() {
        let series = figures.entry(&variant.name, figure.name);
        match run {
            Ok(values) => {
                let bound = bound.and_then(|bound| *bound.as_ref().ok()?.get(at)?);
                series.samples.extend(values[at].map(|value| Sample { value, bound }));
            }
            Err(lack) => series.lack = series.lack.take().or_else(|| Some(lack.clone())),
        }
    }
}
