//! What the processes of a launcher cost: CPU time and memory, read from /proc.

use std::collections::HashMap;
use std::fs;

/// The name of the measuring program, which is not a part of any launcher.
const CLIENT: &str = "bench";

struct Process {
    parent: u32,
    name: String,
    ticks: u64,
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    // proc_pid_stat(5): the name is field 2, so ppid (4) is fields[1], utime (14) is fields[11], stime (15) fields[12].
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process { parent: number(1)? as u32, name, ticks: number(11)? + number(12)? })
}

/// The launcher's own processes: `root` and its descendants, without the measuring client and what it started.
fn own(root: u32) -> Vec<(u32, Process)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut all: HashMap<u32, Process> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, read(pid)?)))
        .collect();
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        next.extend(all.iter().filter(|(_, process)| process.parent == pid).map(|(pid, _)| *pid));
        if let Some(process) = all.remove(&pid)
            && process.name != CLIENT
        {
            found.push((pid, process));
        }
    }
    found
}

/// CPU time of a launcher's processes, seconds.
pub fn cpu(root: u32) -> f64 {
    // SAFETY: sysconf(3) takes a number.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    own(root).iter().map(|(_, process)| process.ticks).sum::<u64>() as f64 / ticks
}

/// Proportional memory of a launcher's processes, bytes; `None` where it can not be read (netjail's are not dumpable, so only
/// root can).
pub fn memory(root: u32) -> Option<u64> {
    let own = own(root);
    let sizes = own.iter().map(|(pid, _)| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Some(sizes.sum::<Option<u64>>()? * 1024)
}
