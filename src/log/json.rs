//! A record as one line of JSON; `docs/log.md` describes the fields, and a test holds the two equal.
//!
//! A line is ASCII only: everything else is written as `\uXXXX`, so that no name can put an escape sequence, a line end or a
//! direction override into a terminal that shows the log, while every JSON reader still sees the true text. Texts are
//! clipped so that a line always fits [`MAX_LINE`].

use std::fmt::Write;

use serde::Serialize;

use super::{Kind, Protocol, Record};

/// The longest line in bytes, its end included: what a pipe takes whole or not at all (PIPE_BUF, pipe(7)).
pub const MAX_LINE: usize = 4096;

/// The version of the schema.
const VERSION: u32 = 1;

/// One flow or question; the order is that of the docs.
#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    time: &'a str,
    jail: &'a str,
    kind: &'a str,
    protocol: String,
    name: Option<&'a str>,
    #[serde(rename = "type")]
    question: Option<String>,
    address: Option<String>,
    port: Option<u16>,
    network: Option<String>,
    generation: String,
    verdict: &'a str,
    rule: &'a str,
    errno: Option<&'a str>,
    answer: Option<String>,
    origin: Option<Origin<'a>>,
    bytes_out: Option<u64>,
    bytes_in: Option<u64>,
    datagrams_out: Option<u64>,
    datagrams_in: Option<u64>,
    duration_ms: Option<u64>,
    close: Option<&'a str>,
}

#[derive(Serialize)]
struct Origin<'a> {
    pid: u32,
    exe: Option<&'a str>,
}

/// What stands in the place of records that could not be written.
#[derive(Serialize)]
struct Lost<'a> {
    v: u32,
    time: &'a str,
    jail: &'a str,
    kind: &'a str,
    count: u64,
}

/// The line of a record, with its line end.
pub fn line(record: &Record, jail: &str) -> String {
    let end = record.end.as_ref();
    finish(&Line {
        v: VERSION,
        time: &rfc3339(record.at),
        jail: clip(jail, 64),
        kind: match record.kind {
            Kind::Flow => "flow",
            Kind::Question => "question",
        },
        protocol: match record.protocol {
            Protocol::Tcp => "tcp".into(),
            Protocol::Udp => "udp".into(),
            Protocol::Icmp => "icmp".into(),
            Protocol::Other(number) => number.to_string(),
        },
        name: record.name.as_deref().map(|name| clip(name, 255)),
        question: record.question.map(type_name),
        address: record.address.map(|address| address.to_string()),
        port: record.port,
        network: record.network.as_ref().map(|id| clip(&id.to_string(), 255).to_owned()),
        generation: format!("{:016x}", record.generation),
        verdict: if record.rule.refusal().is_none() { "allow" } else { "deny" },
        rule: record.rule.name(),
        errno: record.errno_name(),
        answer: record.rcode.map(rcode_name),
        origin: record
            .origin
            .as_ref()
            .map(|origin| Origin { pid: origin.pid, exe: origin.exe.as_deref().map(|exe| clip(exe, 200)) }),
        bytes_out: end.map(|end| end.bytes_out),
        bytes_in: end.map(|end| end.bytes_in),
        datagrams_out: end.and_then(|end| end.datagrams).map(|datagrams| datagrams.sent),
        datagrams_in: end.and_then(|end| end.datagrams).map(|datagrams| datagrams.received),
        duration_ms: end.map(|end| end.duration_ms),
        close: end.map(|end| end.close.name()),
    })
}

/// The line that says how many records are missing at this place.
pub fn lost_line(count: u64, now: u64, jail: &str) -> String {
    finish(&Lost { v: VERSION, time: &rfc3339(now), jail: clip(jail, 64), kind: "lost", count })
}

fn finish(line: &impl Serialize) -> String {
    // Neither struct has a map or a number that JSON cannot say.
    let json = serde_json::to_string(line).unwrap_or_default();
    let mut ascii = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if c.is_ascii() && c != '\x7f' {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    ascii.push('\n');
    ascii
}

/// At most `limit` bytes of a text, cut between characters.
fn clip(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// UTC with milliseconds (RFC 3339 section 5.6) from µs since 1970.
fn rfc3339(micros: u64) -> String {
    let (seconds, millis) = (micros / 1_000_000, micros / 1000 % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years of the proleptic Gregorian calendar counted from 1 March of the year 0, so that the leap day is the last of its
    // year; 400 years have 146,097 days, and 719,468 of them lie before 1970.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The mnemonic of a question type, else TYPE and the number (RFC 3597 section 5).
fn type_name(number: u16) -> String {
    let name = match number {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        other => return format!("TYPE{other}"),
    };
    name.to_owned()
}

/// The mnemonic of a response code (RFC 6895 section 2.3).
fn rcode_name(number: u8) -> String {
    let name = match number {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        other => return format!("RCODE{other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
