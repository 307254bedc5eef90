//! What the processes of a launcher cost: CPU time and memory, read from /proc.

use std::collections::HashMap;
use std::fs;

/// The name of the measuring program, which is not a part of any launcher.
const CLIENT: &str = "bench";

struct Process {
    parent: u32,
    client: bool,
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name is field 2 and may hold anything; the parent is field 4.
    let (head, tail) = stat.rsplit_once(')')?;
    let client = head.split_once('(')?.1 == CLIENT;
    Some(Process { parent: tail.split_whitespace().nth(1)?.parse().ok()?, client })
}

/// `root` and its descendants.
fn family(root: u32) -> Vec<(u32, Process)> {
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
        if let Some(process) = all.remove(&pid) {
            found.push((pid, process));
        }
    }
    found
}

/// CPU time of a launcher and of the client in it up to some moment, thread by thread.
pub struct Clock {
    root: u32,
    /// Seconds, and whether it is the client's; by thread.
    threads: HashMap<u32, (f64, bool)>,
}

/// CPU time between two moments, seconds.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    /// Of the launcher's own processes.
    pub launcher: f64,
    /// Of the measuring client.
    pub client: f64,
    /// Of the one thread, of either, that took the most.
    pub busiest: f64,
}

impl Clock {
    /// Now.
    pub fn read(root: u32) -> Self {
        let mut threads = HashMap::new();
        for (pid, process) in family(root) {
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                // Documentation/scheduler/sched-stats.rst: the first is the time on a processor, in nanoseconds.
                let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
                let Some(spent) = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()) else {
                    continue;
                };
                let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                threads.insert(thread, (spent as f64 * 1e-9, process.client));
            }
        }
        Self { root, threads }
    }

    /// From then to now; a thread that ended in between is not counted.
    pub fn spent(&self) -> Spent {
        let mut sum = Spent::default();
        for (thread, (now, client)) in Self::read(self.root).threads {
            let spent = now - self.threads.get(&thread).map_or(0.0, |before| before.0);
            *(if client { &mut sum.client } else { &mut sum.launcher }) += spent;
            sum.busiest = sum.busiest.max(spent);
        }
        sum
    }
}

/// Proportional memory of a launcher's processes, bytes; `None` where it can not be read (netjail's are not dumpable, so only
/// root can).
pub fn memory(root: u32) -> Option<u64> {
    let family = family(root);
    let own = family.iter().filter(|(_, process)| !process.client);
    let sizes = own.map(|(pid, _)| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Some(sizes.sum::<Option<u64>>()? * 1024)
}
