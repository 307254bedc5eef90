//! Runs one probe on one variant.

use std::time::{Duration, Instant};

use crate::figures::{Lack, Spread};
use crate::launch::{Place, Running};
use crate::machine;
use crate::table::How;
use crate::variants::Variant;

/// The figures of a run, in the order that the table has; `None` is one that this variant or this user does not have.
pub type Run = Result<Vec<Option<f64>>, Lack>;

/// How long it takes until nothing moves any more behind flows that were just opened.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs `how` on `variant`.
pub fn run(place: &Place, variant: &Variant, how: How) -> Run {
    match how {
        How::Timed { mode, streams } => timed(place, variant, mode, streams),
        How::Bulk { mode, streams } => bulk(place, variant, mode, streams),
        How::Lives => lives(place, variant),
        How::InARow => in_a_row(place, variant),
        How::Idle { flows } => idle(place, variant, flows),
        How::Stall { mode } => stall(place, variant, mode),
        How::Burst => burst(place, variant),
    }
}

fn timed(place: &Place, variant: &Variant, mode: &str, streams: usize) -> Run {
    let mut running = Running::start(place, variant, mode, streams)?;
    let figure = running.number("result")?;
    running.end()?;
    Ok(vec![Some(figure)])
}

/// What the server takes is left out so: launcher and client would need as long as the one of their threads that is busiest, or
/// as both of them keep all cores busy, whichever is longer.
fn bulk(place: &Place, variant: &Variant, mode: &str, streams: usize) -> Run {
    let mut running = Running::start(place, variant, mode, streams)?;
    running.expect("begin")?;
    let (clock, start) = (running.clock(), Instant::now());
    let bytes = running.number("bytes")?;
    let (spent, took) = (clock.spent(), start.elapsed().as_secs_f64());
    running.go_on()?;
    let rate = running.number("result")?;
    running.end()?;
    let needed = spent.busiest.max((spent.launcher + spent.client) / machine::cores() as f64);
    let own = (!variant.launcher.is_empty()).then_some(spent.launcher / bytes);
    Ok(vec![Some(rate), own, Some(rate * took / needed)])
}

/// How many lives make one figure of `true`.
const LIVES: usize = 9;

fn lives(place: &Place, variant: &Variant) -> Run {
    let lives = place.lives(variant, LIVES)?;
    Ok(vec![Spread::of(lives.iter().map(Duration::as_secs_f64)).map(|spread| spread.median)])
}

/// How many lives there are in a row, and how many of them are the first and the last.
const ROW: (usize, usize) = (180, 20);

fn in_a_row(place: &Place, variant: &Variant) -> Run {
    let lives = place.lives(variant, ROW.0)?;
    let sum = |lives: &[Duration]| lives.iter().sum::<Duration>().as_secs_f64();
    let (first, last) = (sum(&lives[..ROW.1]), sum(&lives[ROW.0 - ROW.1..]));
    Ok(vec![Some(ROW.0 as f64 / sum(&lives)), Some(last / first)])
}

fn idle(place: &Place, variant: &Variant, flows: usize) -> Run {
    machine::room_for(flows)?;
    let mut running = Running::start(place, variant, "idle", flows)?;
    let alone = running.number("alone")?;
    let before = running.memory();
    running.go_on()?;
    running.expect("held")?;
    std::thread::sleep(SETTLE);
    let after = running.memory();
    running.go_on()?;
    let echo = running.number("echo")?;
    let beside = running.number("beside")?;
    running.end()?;
    let each = before.zip(after).map(|(before, after)| (after - before) / flows as f64);
    Ok(vec![each.filter(|_| !variant.launcher.is_empty()), Some(echo), Some(beside / alone)])
}

/// How many flows there are without a movement, and for how long they are watched.
const STALLED: (usize, Duration) = (40, Duration::from_secs(10));

fn stall(place: &Place, variant: &Variant, mode: &str) -> Run {
    let mut running = Running::start(place, variant, mode, STALLED.0)?;
    running.expect("one")?;
    std::thread::sleep(SETTLE);
    let before = running.memory();
    running.go_on()?;
    running.expect("held")?;
    std::thread::sleep(SETTLE);
    let clock = running.clock();
    std::thread::sleep(STALLED.1);
    let spent = clock.spent();
    let after = running.memory();
    running.end()?;
    let each = before.zip(after).map(|(before, after)| (after - before) / STALLED.0 as f64);
    Ok(vec![each, Some(spent.launcher)])
}

/// How many flows come and go in a burst, beside the bulk.
const BURST: usize = 2_000;

/// How soon memory must be back.
const BACK: Duration = Duration::from_secs(5);

fn burst(place: &Place, variant: &Variant) -> Run {
    let mut running = Running::start(place, variant, "burst", BURST)?;
    running.expect("one")?;
    std::thread::sleep(SETTLE);
    let before = running.memory();
    running.go_on()?;
    running.expect("over")?;
    let over = Instant::now();
    let mut least = f64::INFINITY;
    while over.elapsed() < BACK {
        std::thread::sleep(BACK / 10);
        least = running.memory().unwrap_or(f64::NAN).min(least);
    }
    running.end()?;
    Ok(vec![before.map(|before| least / before)])
}
