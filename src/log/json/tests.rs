use super::*;
use crate::flow::Refusal;
use crate::log::{Close, End};
use crate::overlay::DialError;
use crate::policy::Rule;
use proptest::prelude::*;

fn full() -> Record {
    let mut record = Record::new(Kind::Flow, Protocol::Tcp, Rule::Default, 0xabc);
    record.at = 1_709_210_096_789_000;
    record.name = Some("example.com".into());
    record.address = Some("198.18.7.9".parse().unwrap());
    record.port = Some(443);
    record.network = Some("app:tor".parse().unwrap());
    record.refusal = Some(Refusal::Refused);
    record.end = Some(End {
        bytes_out: 1,
        bytes_in: 2,
        datagrams: None,
        duration_ms: 3,
        close: Close::Dial(DialError::Reply(5)),
    });
    record
}

fn parse(record: &Record) -> serde_json::Value {
    serde_json::from_str(&line(record, "curl-1a2b")).unwrap()
}

#[test]
fn the_docs_and_the_schema_are_equal() {
    let text = line(&full(), "curl-1a2b");
    let mut fields: Vec<&str> = parse(&full()).as_object().unwrap().keys().map(String::as_str).map(leak).collect();
    fields.sort_by_key(|field| text.find(&format!("\"{field}\":")).unwrap());
    let docs = include_str!("../../../docs/log.md");
    let rows = docs.lines().filter_map(|row| row.strip_prefix("| `")).filter_map(|row| row.split('`').next());
    assert_eq!(rows.collect::<Vec<_>>(), fields);
}

fn leak(text: &str) -> &'static str {
    text.to_owned().leak()
}

#[test]
fn the_example_of_the_docs_is_what_is_written() {
    assert!(include_str!("../../../docs/log.md").contains(&line(&full(), "curl-1a2b")));
}

#[test]
fn every_field_is_always_there() {
    let empty = parse(&Record::new(Kind::Question, Protocol::Udp, Rule::MalformedName, 0));
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&empty), keys(&parse(&full())));
    assert_eq!(empty["verdict"], "deny");
    assert_eq!(empty["bytes_in"], serde_json::Value::Null);
}

#[test]
fn times_are_utc_with_milliseconds() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399, "2000-02-28T23:59:59.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (1_709_210_096, "2024-02-29T12:34:56.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000Z"),
    ] {
        assert_eq!(rfc3339(seconds * 1_000_000), text);
    }
    assert!(rfc3339(1_999).ends_with(".001Z"));
    rfc3339(u64::MAX);
}

proptest! {
    #[test]
    fn a_hostile_name_is_one_short_plain_line_and_reads_back(name in prop_oneof![".{0,80}", "[\u{0}-\u{ff}]{0,600}", "\u{0}{600}", "\u{10ffff}{100}"]) {
        let mut record = full();
        record.name = Some(name.clone());
        record.origin = Some(crate::log::Origin { pid: u32::MAX, exe: Some(name.clone()) });
        let text = line(&record, &name);
        prop_assert!(text.len() <= MAX_LINE);
        prop_assert!(text.strip_suffix('\n').unwrap().bytes().all(|b| (0x20..0x7f).contains(&b)));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert!(name.starts_with(read["name"].as_str().unwrap()));
        if name.len() <= 255 {
            prop_assert_eq!(read["name"].as_str().unwrap(), name);
        }
    }
}
