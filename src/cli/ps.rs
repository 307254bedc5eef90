//! `netjail ps`.

use std::time::{SystemTime, UNIX_EPOCH};

use super::args::PsArguments;
use super::table;
use crate::control::messages::JailStatus;
use crate::roles::client;

/// Lists the jails that run.
pub fn run(arguments: &PsArguments) -> i32 {
    let jails = client::list(&super::run_folder());
    if arguments.json {
        match serde_json::to_string_pretty(&jails) {
            Ok(text) => println!("{text}"),
            Err(_) => return 1,
        }
        return 0;
    }
    if jails.is_empty() {
        println!("no jail is running");
        return 0;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let rows: Vec<[String; 6]> = jails.iter().map(|jail| row(jail, now)).collect();
    print!("{}", table::render(["JAIL", "PID", "NETWORK", "SINCE", "RECORDS", "COMMAND"], &rows));
    0
}

fn row(jail: &JailStatus, now: u64) -> [String; 6] {
    [
        jail.name.clone(),
        jail.pid.to_string(),
        jail.network.to_string(),
        age(now.saturating_sub(jail.started)),
        jail.records.to_string(),
        jail.command.clone(),
    ]
}

/// Seconds as a person says them.
fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}
