//! `netjail doctor`.

use super::args::DoctorArguments;
use super::table;
use crate::check::probes::PROBES;
use crate::check::{Row, State, apparmor};
use crate::roles::say;

/// Prints the table of what a jail needs here; the status is 1 if something that it requires is missing.
pub fn run(arguments: &DoctorArguments) -> i32 {
    let rows: Vec<Row> = PROBES.iter().map(|probe| probe.run()).collect();
    let fatal = rows.iter().any(Row::is_fatal);
    if arguments.json {
        match serde_json::to_string_pretty(&rows) {
            Ok(text) => println!("{text}"),
            Err(_) => return 1,
        }
    } else {
        print(&rows);
    }
    if arguments.fix && !fix(&rows) {
        return 1;
    }
    i32::from(fatal)
}

fn print(rows: &[Row]) {
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            let need = if row.required { "required" } else { "layer" };
            [row.state.word().into(), row.name.into(), need.into(), row.found.clone()]
        })
        .collect();
    print!("{}", table::render(["STATE", "PROBE", "NEED", "FOUND"], &cells));
    for row in rows.iter().filter(|row| row.state != State::Ok) {
        println!("\n{} ({}): {}", row.name, row.state.word(), row.found);
        println!("  costs:  {}", row.cost);
        if let Some(remedy) = &row.remedy {
            println!("  repair: {remedy}");
        }
        if let Some(flag) = row.accept {
            println!("  accept: netjail run {flag}");
        }
    }
    let missing = rows.iter().filter(|row| row.is_fatal()).count();
    match missing {
        0 => println!("\njails can be built here"),
        1 => println!("\n1 thing is missing that a jail requires"),
        n => println!("\n{n} things are missing that a jail requires"),
    }
}

/// Writes the AppArmor profile where its lack is what is wrong; whether that went well.
fn fix(rows: &[Row]) -> bool {
    let restricted = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
        .is_ok_and(|text| text.trim() == "1");
    let lifted = rows.iter().any(|row| row.name == "apparmor-userns" && row.state == State::Ok);
    // To root nothing is restricted, so that root can not see whether a profile lifts it for others.
    if !restricted || (lifted && !nix::unistd::Uid::effective().is_root()) {
        say("--fix has nothing to repair: AppArmor does not restrict user namespaces for this program");
        return true;
    }
    let program = match std::env::current_exe().and_then(|path| path.canonicalize()) {
        Ok(program) => program,
        Err(e) => {
            say(&format!("--fix: the path of this program can not be found: {e}; start it by its full path"));
            return false;
        }
    };
    match apparmor::write(&program) {
        Ok(path) => {
            let path = path.display();
            say(&format!("wrote {path} for {}; load it with: apparmor_parser -r {path}", program.display()));
            true
        }
        Err(e) => {
            say(&format!("--fix: {e}"));
            false
        }
    }
}
