//! From figures to tables, JSON, and the verdict.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::figures::{Figures, Lack, Spread};
use crate::machine::{self, Machine};
use crate::table::{Figure, Group, PROBES, Probe, TABLES};
use crate::variants::Variant;

/// Prints the tables, writes the JSON, and says whether all targets were met.
pub fn print(
    machine: &Machine,
    variants: &[Variant],
    probes: &[&Probe],
    figures: &Figures,
    json: &Path,
    quick: bool,
) -> io::Result<bool> {
    introduce(machine, quick);
    for (heading, groups) in TABLES {
        print_table(heading, groups, variants, figures);
    }
    variants.iter().for_each(|variant| {
        variant.missing.iter().for_each(|missing| println!("missing: {}: {missing}", variant.name));
    });
    print_bounds(variants, figures);
    for (variant, figure, series) in figures.iter() {
        series.lack.iter().for_each(|lack| println!("{variant}, {figure}: {lack}"));
    }
    let (missed, judged) = verdict(variants, probes, figures);
    write_json(machine, figures, &missed, json)?;
    println!();
    missed.iter().for_each(|line| println!("SHORT {line}"));
    match (missed.is_empty(), judged) {
        (_, 0) => println!("nothing that has a target was measured"),
        (true, _) => println!("every one of {judged} targets was met"),
        (false, _) => println!("{} of {judged} targets were missed", missed.len()),
    }
    Ok(missed.is_empty())
}

fn introduce(machine: &Machine, quick: bool) {
    println!(
        "{} cores, Linux {}, load {}, {} by default, launchers as uid {}",
        machine::cores(),
        machine.kernel,
        machine.load,
        machine.congestion,
        machine.uid,
    );
    for (note, holds) in [
        ("idle cores may sleep (no /dev/cpu_dma_latency): round trips vary", !machine.is_awake()),
        (
            "memory is not measured: only root can read that of processes that are not dumpable",
            !nix::unistd::getuid().is_root(),
        ),
        ("quick: a look, not a measurement", quick),
    ] {
        if holds {
            println!("{note}");
        }
    }
    println!("Medians, and behind them the least and the most of the rounds; * is a missed target.");
}

/// The width of a variant's name, and of a figure.
const WIDTH: (usize, usize) = (24, 19);

fn print_table(heading: &str, groups: &[Group], variants: &[Variant], figures: &Figures) {
    let there = |variant: &Variant, figure: &Figure| figures.get(&variant.name, figure.name).is_some();
    let columns = || PROBES.iter().filter(|probe| groups.contains(&probe.group)).flat_map(|probe| probe.figures);
    let columns: Vec<&Figure> =
        columns().filter(|figure| variants.iter().any(|variant| there(variant, figure))).collect();
    // A bound beside which nothing was measured says nothing in ratios.
    let rows = variants.iter().filter(|variant| columns.iter().any(|figure| cell(variant, figure, figures).is_some()));
    let rows: Vec<&Variant> = rows.collect();
    if rows.is_empty() {
        return;
    }
    println!("\n{heading}\n");
    let line = |name: &str, cells: &dyn Fn(&Figure) -> String| {
        print!("{name:<0$}", WIDTH.0);
        columns.iter().for_each(|figure| print!("{:>1$}", cells(figure), WIDTH.1));
        println!();
    };
    line("", &|figure| figure.name.to_owned());
    line("must reach", &|figure| figure.target.to_string());
    for variant in rows {
        line(&variant.name, &|figure| cell(variant, figure, figures).unwrap_or_else(|| "-".into()));
    }
}

/// One figure in the table; `None` where there is nothing to say.
fn cell(variant: &Variant, figure: &Figure, figures: &Figures) -> Option<String> {
    let series = figures.get(&variant.name, figure.name)?;
    match (series.judged(figure), &series.lack) {
        (Some(spread), _) => {
            let star = if variant.judged && figure.target.missed(spread.median) { "*" } else { "" };
            let digits = digits(spread.max);
            let Spread { median, min, max, .. } = spread;
            Some(format!("{star}{median:.digits$} {min:.digits$}..{max:.digits$}"))
        }
        (None, Some(Lack::Failed(_))) => Some("failed".into()),
        (None, Some(Lack::NoRoom(_))) => Some("no room".into()),
        (None, None) => None,
    }
}

fn digits(figure: f64) -> usize {
    match figure {
        ..10.0 => 2,
        10.0..1000.0 => 1,
        _ => 0,
    }
}

/// What ratios are ratios to, as it is, and how much its rounds differ: where that is much, one round says little.
fn print_bounds(variants: &[Variant], figures: &Figures) {
    println!("\nThe bounds themselves, and how far apart their middle rounds are\n");
    let bounds = |variant: &&Variant| variants.iter().any(|other| other.bound == Some(&variant.name));
    for variant in variants.iter().filter(bounds) {
        for figure in PROBES.iter().flat_map(|probe| probe.figures).filter(|figure| figure.ratio) {
            let Some(spread) = figures.get(&variant.name, figure.name).and_then(|series| series.absolute(figure))
            else {
                continue;
            };
            let Spread { median, min, max, middle, rounds } = spread;
            let (digits, noise) = (digits(max), middle / median * 100.0);
            println!(
                "{}, {}: {median:.digits$} {} ({min:.digits$}..{max:.digits$} in {rounds}; noise {noise:.0} %)",
                variant.name, figure.name, figure.unit.name
            );
        }
    }
    println!();
}

/// The targets that were missed, each a line, and how many were looked at. What should have been measured and was not is missed
/// too, unless it is the machine that has no room for it.
fn verdict(variants: &[Variant], probes: &[&Probe], figures: &Figures) -> (Vec<String>, usize) {
    let (mut missed, mut judged) = (Vec::new(), 0);
    let all = probes.iter().flat_map(|probe| probe.figures);
    for variant in variants.iter().filter(|variant| variant.judged) {
        for figure in all.clone() {
            let target = figure.target.to_string();
            let Some(series) = figures.get(&variant.name, figure.name).filter(|_| !target.is_empty()) else { continue };
            let (name, unit) =
                (format!("{}, {}", variant.name, figure.name), if figure.ratio { "" } else { figure.unit.name });
            match (series.judged(figure), &series.lack) {
                (Some(spread), _) => {
                    judged += 1;
                    if figure.target.missed(spread.median) {
                        let error = spread.error().map_or(String::new(), |error| format!(" +- {error:.2}"));
                        missed.push(format!("{name}: {:.2}{error} {unit}, target {target}", spread.median));
                    }
                }
                (None, Some(Lack::Failed(why))) => {
                    judged += 1;
                    missed.push(format!("{name}: no figure ({why})"));
                }
                _ => {}
            }
        }
    }
    (missed, judged)
}

/// Everything that was measured, round by round, in bytes, seconds and each a second.
fn write_json(machine: &Machine, figures: &Figures, missed: &[String], path: &Path) -> io::Result<()> {
    let rows: Vec<Value> = figures
        .iter()
        .map(|(variant, figure, series)| {
            let (values, bounds): (Vec<_>, Vec<_>) =
                series.samples.iter().map(|sample| (sample.value, sample.bound)).unzip();
            let lack = series.lack.as_ref().map(Lack::to_string);
            json!({ "variant": variant, "figure": figure, "rounds": values, "bounds": bounds, "lack": lack })
        })
        .collect();
    let whole = json!({
        "v": 2, "cores": machine::cores(), "kernel": machine.kernel, "load": machine.load,
        "congestion_control": machine.congestion, "uid": machine.uid, "idle_cores_awake": machine.is_awake(),
        "figures": rows, "short": missed,
    });
    std::fs::write(path, format!("{whole:#}\n"))
}
