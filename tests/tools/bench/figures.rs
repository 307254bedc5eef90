//! Figures: one for each round, what stood beside it, and what the rounds say together.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use crate::table::Figure;

/// Why there is no figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Something went wrong: what the launcher or the client said.
    Failed(String),
    /// The machine has no room for it, which nobody is blamed for.
    NoRoom(String),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::NoRoom(why) => write!(f, "not measured: {why}"),
        }
    }
}

impl From<io::Error> for Lack {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A variant's figure of one round.
pub struct Sample {
    pub value: f64,
    /// The bound's, measured right before or right after.
    pub bound: Option<f64>,
}

/// What a variant's rounds gave for one figure.
#[derive(Default)]
pub struct Series {
    pub samples: Vec<Sample>,
    /// The first reason why one of them is missing.
    pub lack: Option<Lack>,
}

impl Series {
    /// As the figure is judged, in its unit: over the bound's where it is a ratio.
    pub fn judged(&self, figure: &Figure) -> Option<Spread> {
        if !figure.ratio {
            return self.absolute(figure);
        }
        Spread::of(self.samples.iter().filter_map(|sample| Some(sample.value / sample.bound?)))
    }

    /// The figure itself, in its unit.
    pub fn absolute(&self, figure: &Figure) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|sample| sample.value * figure.unit.scale))
    }
}

/// All of them, by variant and figure.
#[derive(Default)]
pub struct Figures(BTreeMap<(String, &'static str), Series>);

impl Figures {
    pub fn entry(&mut self, variant: &str, figure: &'static str) -> &mut Series {
        self.0.entry((variant.to_owned(), figure)).or_default()
    }

    pub fn get(&self, variant: &str, figure: &'static str) -> Option<&Series> {
        self.0.get(&(variant.to_owned(), figure))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'static str, &Series)> {
        self.0.iter().map(|((variant, figure), series)| (variant.as_str(), *figure, series))
    }
}

/// What several rounds say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// The distance between the quartiles.
    pub middle: f64,
    pub rounds: usize,
}

impl Spread {
    /// `None` of no figures.
    pub fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = quantile(&sorted, 0.5);
        let middle = quantile(&sorted, 0.75) - quantile(&sorted, 0.25);
        Some(Self { median, min, max, middle, rounds: sorted.len() })
    }

    /// How far from the truth the median may well be: its standard error, were the rounds normally distributed (1.25 times
    /// the deviation over the root of their number; the quartiles lie 1.35 deviations apart). `None` of too few rounds.
    pub fn error(&self) -> Option<f64> {
        (self.rounds >= 4).then(|| 1.25 * self.middle / 1.35 / (self.rounds as f64).sqrt())
    }
}

/// `sorted` is not empty; between two figures it is interpolated.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}
