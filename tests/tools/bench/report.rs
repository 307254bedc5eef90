//! From figures to a table, JSON, and the verdict.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::plan::{BULK, Figures, Variant};

/// What ratios are ratios to: the same client, the same proxy, no jail.
pub const BOUND: &str = "socks5";
pub const DIRECT_1: &str = "netjail direct";
pub const DIRECT_2: &str = "netjail direct workers 2";

/// A column of the table. `target` is for ratios, or for the figure itself where `ratio` is false.
struct Column {
    title: &'static str,
    measure: &'static str,
    ratio: bool,
    target: f64,
    /// Whether more is better.
    more: bool,
    scale: f64,
}

const fn column(
    title: &'static str,
    measure: &'static str,
    ratio: bool,
    target: f64,
    more: bool,
    scale: f64,
) -> Column {
    Column { title, measure, ratio, target, more, scale }
}

const COLUMNS: &[Column] = &[
    column("up 1", "up 1", true, 0.70, true, 1.0),
    column("down 1", "down 1", true, 0.80, true, 1.0),
    column("up 8", "up 8", true, 0.65, true, 1.0),
    column("down 8", "down 8", true, 0.65, true, 1.0),
    column("s/GB up", "cpu up 1", false, 0.30, false, 1.0),
    column("s/GB dn", "cpu down 1", false, 0.40, false, 1.0),
    column("rtt", "round trip", true, 1.5, false, 1.0),
    column("conn", "connect", true, 1.6, false, 1.0),
    column("conn/s 32", "connects/s", true, 0.65, true, 1.0),
    column("udp", "udp echo", true, 0.75, true, 1.0),
    column("true ms", "true", false, 8.0, false, 1e3),
];

/// Measures that only some variants have: measure, unit, scale, target, more is better.
const OTHERS: &[(&str, &str, f64, Option<f64>, bool)] = &[
    ("dns/s", "answers/s", 1.0, Some(50_000.0), true),
    ("echo on all of 1000", "ms", 1e3, None, false),
    ("echo on all of 5000", "ms", 1e3, None, false),
    ("echo on all of 10000", "ms", 1e3, Some(400.0), false),
    ("echo on all of 50000", "ms", 1e3, None, false),
    ("memory of a stalled flow", "KiB", 1.0 / 1024.0, Some(RING_KIB), false),
    ("ticks of stalled flows", "ticks of 10 ms", 1.0, Some(0.0), false),
    ("jails/s in a row", "", 1.0, Some(60.0), true),
    ("last jails over first", "", 1.0, Some(1.3), false),
];

/// A ring of a stalled flow's one direction, and what else a flow has.
const RING_KIB: f64 = 256.0 + 16.0;

/// Where the figures come from.
pub struct Machine {
    cores: usize,
    kernel: String,
    load: String,
    congestion: String,
    awake: bool,
    uid: u32,
}

impl Machine {
    pub fn here(awake: bool, uid: Option<u32>) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            load: read("/proc/loadavg"),
            congestion: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            awake,
            uid: uid.unwrap_or_else(|| nix::unistd::getuid().as_raw()),
        }
    }
}

/// Median, least and most.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

fn spread(mut figures: Vec<f64>) -> Option<Spread> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = *figures.get(middle)?;
    let median = if figures.len().is_multiple_of(2) { (figures[middle - 1] + upper) / 2.0 } else { upper };
    Some(Spread { median, min: *figures.first()?, max: *figures.last()? })
}

fn absolute(figures: &Figures, variant: &str, measure: &str) -> Option<Spread> {
    let rounds = figures.get(&(variant.to_owned(), measure.to_owned()))?;
    spread(rounds.iter().filter_map(|figure| figure.as_ref().ok().copied()).collect())
}

/// A variant's figure over the bound's of the same round.
fn ratio(figures: &Figures, variant: &str, bound: &str, measure: &str) -> Option<Spread> {
    let own = figures.get(&(variant.to_owned(), measure.to_owned()))?;
    let bound = figures.get(&(bound.to_owned(), measure.to_owned()))?;
    spread(own.iter().zip(bound).filter_map(|pair| Some(pair.0.as_ref().ok()? / pair.1.as_ref().ok()?)).collect())
}

fn short(figure: f64, target: f64, more: bool) -> bool {
    if more { figure < target } else { figure > target }
}

/// What idle flows cost: KiB for each, and the round trip beside them over the one beside none.
fn idle(figures: &Figures, variant: &str, flows: &str) -> (Option<f64>, Option<f64>) {
    let memory = |flows: &str| absolute(figures, variant, &format!("memory with {flows}")).map(|size| size.median);
    let each = || Some((memory(flows)? - memory("1")?) / 1024.0 / flows.parse::<f64>().ok()?);
    let trip = |flows: &str| absolute(figures, variant, &format!("round trip beside {flows}")).map(|time| time.median);
    let beside = || Some(trip(flows)? / trip("1")?);
    (each(), beside())
}

/// Prints the table, writes the JSON, and says whether all targets were met.
pub fn print(machine: &Machine, variants: &[Variant], figures: &Figures, json: &Path, quick: bool) -> io::Result<bool> {
    let mut missed = Vec::new();
    println!(
        "{} cores, Linux {}, load {}, {} by default, launchers as uid {}{}{}",
        machine.cores,
        machine.kernel,
        machine.load,
        machine.congestion,
        machine.uid,
        if machine.awake { "" } else { ", idle cores may sleep (no /dev/cpu_dma_latency): round trips vary" },
        if quick { ", quick: a look, not a measurement" } else { "" },
    );
    println!(
        "Medians of ratios to {BOUND:?} (the same client and proxy, no jail), least..most of the rounds behind them;"
    );
    println!("s/GB is the launcher's own CPU time; * is a missed target.\n");
    print!("{:<26}", "");
    COLUMNS.iter().for_each(|column| print!("{:>16}", column.title));
    print!("\n{:<26}", "must reach");
    for column in COLUMNS {
        print!("{:>16}", format!("{} {}", if column.more { ">=" } else { "<=" }, column.target));
    }
    println!();
    for variant in variants {
        print!("{:<26}", variant.name);
        if let Some(missing) = &variant.missing {
            println!("  missing: {missing}");
            continue;
        }
        for column in COLUMNS {
            let figure = if column.ratio {
                ratio(figures, &variant.name, BOUND, column.measure)
            } else {
                absolute(figures, &variant.name, column.measure)
            };
            let Some(Spread { median, min, max }) = figure else {
                let failed = figures.contains_key(&(variant.name.clone(), column.measure.to_owned()));
                if failed && variant.judged {
                    missed.push(format!("{}, {}: no figure", variant.name, column.title));
                }
                print!("{:>16}", if failed { "failed" } else { "-" });
                continue;
            };
            let (median, min, max) = (median * column.scale, min * column.scale, max * column.scale);
            let star = variant.judged && short(median, column.target, column.more);
            if star {
                missed.push(format!("{}, {}: {median:.2}, target {}", variant.name, column.title, column.target));
            }
            let digits = if median < 10.0 { 2 } else { 1 };
            let star = if star { "*" } else { "" };
            print!("{:>16}", format!("{star}{median:.digits$} {min:.digits$}..{max:.digits$}"));
        }
        println!();
    }
    println!();
    for (measure, unit, scale) in BULK.iter().map(|(name, _, _)| (*name, "Gbit/s", 8e-9)).chain([
        ("round trip", "us", 1e6),
        ("connect", "us", 1e6),
        ("connects/s", "", 1.0),
    ]) {
        if let Some(Spread { median, min, max }) = absolute(figures, BOUND, measure) {
            let noise = (max - min) / median * 100.0;
            let (median, min, max) = (median * scale, min * scale, max * scale);
            println!("{BOUND}, {measure}: {median:.1} {unit} ({min:.1}..{max:.1}; noise {noise:.0} %)");
        }
    }
    println!();
    for variant in variants {
        for (measure, unit, scale, target, more) in OTHERS {
            let Some(figure) = absolute(figures, &variant.name, measure) else { continue };
            let value = figure.median * scale;
            println!("{}, {measure}: {value:.1} {unit}", variant.name);
            if let Some(target) = target
                && variant.judged
                && short(value, *target, *more)
            {
                missed.push(format!("{}, {measure}: {value:.1} {unit}, target {target}", variant.name));
            }
        }
        for flows in ["1000", "5000", "10000", "50000"] {
            let (each, beside) = idle(figures, &variant.name, flows);
            if let Some(each) = each.filter(|_| !variant.launcher.is_empty()) {
                println!("{}, {flows} idle flows: {each:.2} KiB each", variant.name);
                if variant.judged && each > 3.0 {
                    missed.push(format!("{}, KiB for each of {flows} idle flows: {each:.2}, target 3", variant.name));
                }
            }
            if let Some(beside) = beside {
                println!("{}, round trip beside {flows} idle flows: {beside:.2} of that beside none", variant.name);
                if variant.judged && beside > 1.2 {
                    missed.push(format!("{}, round trip beside {flows}: {beside:.2}, target 1.2", variant.name));
                }
            }
        }
    }
    for measure in ["up 8", "down 8"] {
        if let Some(more) = ratio(figures, DIRECT_2, DIRECT_1, measure) {
            println!("two workers over one, direct, {measure}: {:.2} (target 1.3)", more.median);
            if more.median < 1.3 {
                missed.push(format!("two workers over one, {measure}: {:.2}, target 1.3", more.median));
            }
        }
    }
    let mut said = std::collections::BTreeSet::new();
    for ((variant, measure), rounds) in figures {
        for error in rounds.iter().filter_map(|figure| figure.as_ref().err()) {
            if said.insert((variant, measure)) {
                println!("failed: {variant}, {measure}: {error}");
            }
        }
    }
    write_json(machine, figures, &missed, json)?;
    println!();
    for line in &missed {
        println!("SHORT {line}");
    }
    if missed.is_empty() && variants.iter().any(|variant| variant.judged) {
        println!("every target was met");
    }
    Ok(missed.is_empty())
}

/// Everything that was measured, round by round, in bytes, seconds and bytes a second.
fn write_json(machine: &Machine, figures: &Figures, missed: &[String], path: &Path) -> io::Result<()> {
    let rows: Vec<Value> = figures
        .iter()
        .map(|((variant, measure), rounds)| {
            let rounds: Vec<Value> = rounds
                .iter()
                .map(|figure| match figure {
                    Ok(figure) => json!(figure),
                    Err(error) => json!({ "error": error }),
                })
                .collect();
            json!({ "variant": variant, "measure": measure, "rounds": rounds })
        })
        .collect();
    let whole = json!({
        "v": 1, "cores": machine.cores, "kernel": machine.kernel, "load": machine.load, "congestion_control": machine.congestion, "uid": machine.uid,
        "idle_cores_awake": machine.awake, "figures": rows, "short": missed,
    });
    std::fs::write(path, format!("{whole:#}\n"))
}
