//! What is measured and what must be reached: the tables. A new measure is a row here and, if no [`How`] fits, one more of those.

/// One run of the client, or of the launcher alone.
pub struct Probe {
    pub name: &'static str,
    pub group: Group,
    pub how: How,
    /// In how many rounds, for what takes long.
    pub rounds: usize,
    /// Whether `--quick` has the time for it.
    pub quick: bool,
    /// What a run of it gives, in the order of its [`How`].
    pub figures: &'static [Figure],
}

/// Which variants take part in a probe, and which figures stand in one table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Bulk,
    Trips,
    Connects,
    Udp,
    Dns,
    Lives,
    Workers,
    Idle,
    Held,
}

/// How a probe is run, and what it gives.
#[derive(Clone, Copy)]
pub enum How {
    /// A mode of the client, for a while: its result.
    Timed { mode: &'static str, streams: usize },
    /// The same with bytes: bytes a second; the launcher's CPU seconds for a byte; bytes a second with the server left out.
    Bulk { mode: &'static str, streams: usize },
    /// Whole lives round `true`: the median of some, in seconds.
    Lives,
    /// Many lives without a pause: how many a second; the time of the last twenty over that of the first.
    InARow,
    /// Flows that wait: bytes of memory for each; seconds for an echo on all; a round trip beside them over that without.
    Idle { flows: usize },
    /// Flows in which nothing can move: bytes of memory for each; CPU seconds of all in ten seconds.
    Stall { mode: &'static str },
    /// Bulk and flows that come and go: memory afterwards over that before.
    Burst,
}

/// One figure of a probe; kept in bytes, seconds and each a second.
pub struct Figure {
    pub name: &'static str,
    pub unit: Unit,
    /// Held against the bound's figure of the same moment, and not as it is.
    pub ratio: bool,
    pub target: Target,
}

/// How a figure is printed.
#[derive(Clone, Copy)]
pub struct Unit {
    pub name: &'static str,
    pub scale: f64,
}

/// What must be reached.
#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// For information.
    None,
}
use Target::{AtLeast, AtMost};

impl Target {
    /// Whether `figure`, as it is printed, misses it.
    pub fn missed(self, figure: f64) -> bool {
        match self {
            AtLeast(least) => figure < least,
            AtMost(most) => figure > most,
            Self::None => false,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AtLeast(least) => write!(f, ">= {least}"),
            AtMost(most) => write!(f, "<= {most}"),
            Self::None => Ok(()),
        }
    }
}

const GBIT: Unit = Unit { name: "Gbit/s", scale: 8e-9 };
const SECONDS_A_GIGABYTE: Unit = Unit { name: "s/GB", scale: 1e9 };
const MICROSECONDS: Unit = Unit { name: "us", scale: 1e6 };
const MILLISECONDS: Unit = Unit { name: "ms", scale: 1e3 };
const KIB: Unit = Unit { name: "KiB", scale: 1.0 / 1024.0 };
const A_SECOND: Unit = Unit { name: "/s", scale: 1.0 };
const TIMES: Unit = Unit { name: "", scale: 1.0 };

/// Over the bound's.
const fn ratio(name: &'static str, unit: Unit, target: Target) -> Figure {
    Figure { name, unit, ratio: true, target }
}

/// As it is.
const fn plain(name: &'static str, unit: Unit, target: Target) -> Figure {
    Figure { name, unit, ratio: false, target }
}

const fn probe(name: &'static str, group: Group, how: How, figures: &'static [Figure]) -> Probe {
    Probe { name, group, how, rounds: usize::MAX, quick: true, figures }
}

/// One that takes long, and that `--quick` may leave out.
const fn long(mut probe: Probe, rounds: usize, quick: bool) -> Probe {
    (probe.rounds, probe.quick) = (rounds, quick);
    probe
}

/// So many idle flows, in how many rounds, and whether `--quick` has them. A macro, because names are joined at compile time.
macro_rules! idle {
    ($many:literal, $flows:expr, $echo:expr, $rounds:expr, $quick:expr) => {
        long(
            probe(
                concat!("idle ", $many),
                Group::Idle,
                How::Idle { flows: $flows },
                &[
                    plain(concat!("KiB, ", $many), KIB, AtMost(3.0)),
                    plain(concat!("echo, ", $many), MILLISECONDS, $echo),
                    plain(concat!("trip, ", $many), TIMES, AtMost(1.2)),
                ],
            ),
            $rounds,
            $quick,
        )
    };
}

/// A ring of a flow's one direction, and what else a flow has.
const RING_KIB: f64 = 256.0 + 16.0;
/// What one may hold that was never read: a quarter of its ring, and behind it as much as the program's kernel has taken of it (its
/// receive buffer is 128 KiB where nobody has said otherwise, tcp(7)), since what was taken is not used again before the end of the ring.
const UNREAD_KIB: f64 = 256.0 + 128.0;

/// Less than a tick of CPU time, in milliseconds.
const TICK_MS: f64 = 10.0;

const fn bulk(mode: &'static str, streams: usize) -> How {
    How::Bulk { mode, streams }
}

const fn timed(mode: &'static str, streams: usize) -> How {
    How::Timed { mode, streams }
}

/// Everything that is measured.
pub const PROBES: &[Probe] = &[
    probe(
        "up 1",
        Group::Bulk,
        bulk("up", 1),
        &[ratio("up 1", GBIT, AtLeast(0.70)), plain("s/GB up 1", SECONDS_A_GIGABYTE, AtMost(0.30))],
    ),
    probe(
        "down 1",
        Group::Bulk,
        bulk("down", 1),
        &[ratio("down 1", GBIT, AtLeast(0.80)), plain("s/GB down 1", SECONDS_A_GIGABYTE, AtMost(0.40))],
    ),
    probe(
        "up 8",
        Group::Bulk,
        bulk("up", 8),
        &[ratio("up 8", GBIT, AtLeast(0.65)), plain("s/GB up 8", SECONDS_A_GIGABYTE, Target::None)],
    ),
    probe(
        "down 8",
        Group::Bulk,
        bulk("down", 8),
        &[ratio("down 8", GBIT, AtLeast(0.65)), plain("s/GB down 8", SECONDS_A_GIGABYTE, Target::None)],
    ),
    probe("round trip", Group::Trips, timed("rtt", 1), &[ratio("round trip", MICROSECONDS, AtMost(1.5))]),
    probe("connect", Group::Connects, timed("connect", 1), &[ratio("connect", MICROSECONDS, AtMost(1.6))]),
    probe("connects/s", Group::Connects, timed("storm", 32), &[ratio("connects/s", A_SECOND, AtLeast(0.65))]),
    probe("udp echo", Group::Udp, timed("udp", 1), &[ratio("udp echo", A_SECOND, AtLeast(0.75))]),
    probe("dns/s", Group::Dns, timed("dns", 1), &[plain("dns/s", A_SECOND, AtLeast(50_000.0))]),
    probe("true", Group::Lives, How::Lives, &[plain("true", MILLISECONDS, AtMost(8.0))]),
    long(
        probe(
            "in a row",
            Group::Held,
            How::InARow,
            &[plain("jails/s", A_SECOND, AtLeast(60.0)), plain("last/first", TIMES, AtMost(1.3))],
        ),
        1,
        true,
    ),
    probe(
        "workers up",
        Group::Workers,
        bulk("up", 8),
        &[
            ratio("up", GBIT, Target::None),
            plain("s/GB up", SECONDS_A_GIGABYTE, Target::None),
            ratio("up, no server", GBIT, AtLeast(1.3)),
        ],
    ),
    probe(
        "workers down",
        Group::Workers,
        bulk("down", 8),
        &[
            ratio("down", GBIT, Target::None),
            plain("s/GB down", SECONDS_A_GIGABYTE, Target::None),
            ratio("down, no server", GBIT, AtLeast(1.3)),
        ],
    ),
    idle!("1k", 1_000, Target::None, 2, true),
    idle!("5k", 5_000, Target::None, 2, false),
    idle!("10k", 10_000, AtMost(400.0), 3, false),
    idle!("50k", MOST_FLOWS, Target::None, 1, false),
    long(
        probe(
            "stalled readers",
            Group::Held,
            How::Stall { mode: "unread" },
            &[plain("KiB, unread", KIB, AtMost(UNREAD_KIB)), plain("CPU, unread", MILLISECONDS, AtMost(TICK_MS))],
        ),
        1,
        true,
    ),
    long(
        probe(
            "stalled writers",
            Group::Held,
            How::Stall { mode: "untaken" },
            &[plain("KiB, untaken", KIB, AtMost(RING_KIB)), plain("CPU, untaken", MILLISECONDS, AtMost(TICK_MS))],
        ),
        1,
        true,
    ),
    long(probe("burst", Group::Held, How::Burst, &[plain("after burst", TIMES, AtMost(1.2))]), 1, true),
];

/// The most idle flows that are tried, where the machine has room.
pub const MOST_FLOWS: usize = 50_000;

/// The tables of the report: a heading, and the groups whose figures stand in it.
pub const TABLES: &[(&str, &[Group])] = &[
    ("Bulk: bytes a second over the bound's, and the launcher's own CPU seconds for a gigabyte", &[Group::Bulk]),
    (
        "Round trips, connections (connect + 64 bytes + close) and datagrams over the bound's; DNS answers",
        &[Group::Trips, Group::Connects, Group::Udp, Group::Dns],
    ),
    ("Whole lives of the launcher round `true`, ms", &[Group::Lives]),
    ("Idle flows: KiB for each, ms for an echo on all, a round trip beside them over that without", &[Group::Idle]),
    (
        "Stalled flows: KiB for each, ms of CPU in ten seconds; memory after a burst over that before; lives without a pause",
        &[Group::Held],
    ),
    ("Two workers over one, direct: as measured, and with the server's CPU left out", &[Group::Workers]),
];
