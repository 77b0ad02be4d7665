//! What work costs: time on the wall, and CPU seconds of the processes that did it.

use std::fs;
use std::time::Instant;

/// `USER_HZ`, in which `/proc` counts: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one run cost, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub wall: f64,
    /// CPU seconds of the processes that were watched, in steps of 10 ms: only the sum of several
    /// runs says something.
    pub cpu: f64,
}

/// Runs `work` and says what it cost on the wall, and in the processes `pids` and their
/// descendants. `settle` runs before the CPU seconds are read, for what the processes still have
/// to do when the work is over for their client.
pub fn measure(pids: &[u32], work: impl FnOnce(), settle: impl FnOnce()) -> Cost {
    let cpu = || pids.iter().map(|pid| of_tree(*pid)).sum::<f64>();
    let (before, start) = (cpu(), Instant::now());
    work();
    let wall = start.elapsed().as_secs_f64();
    settle();
    Cost { wall, cpu: cpu() - before }
}

/// CPU seconds of a process and its living descendants so far.
///
/// # Panics
/// If there is no such process.
pub fn of_tree(pid: u32) -> f64 {
    let [user, system, ..] = ticks(&format!("/proc/{pid}/stat"));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let children = threads.filter_map(|thread| {
        let children = thread.ok()?.path().join("children");
        fs::read_to_string(children).ok()
    });
    let children: String = children.collect();
    let pids = children.split_ascii_whitespace().map(|pid| pid.parse().expect("a pid"));
    (user + system) / TICKS_PER_SECOND + pids.map(of_tree).sum::<f64>()
}

/// CPU seconds of the children of this process that have ended and were waited for.
pub fn of_ended_children() -> f64 {
    let [.., user, system] = ticks("/proc/self/stat");
    (user + system) / TICKS_PER_SECOND
}

/// CPU seconds of the whole machine so far: what all processes and the kernel itself took.
pub fn of_machine() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("/proc is there");
    let line = stat.lines().next().expect("the sum of all cores is first");
    let ticks = line.split_ascii_whitespace().skip(1).map(|field| field.parse::<f64>());
    // user, nice, system, idle, iowait, irq, softirq; the rest are guests, and counted before.
    let busy = ticks.take(7).enumerate().filter(|(field, _)| ![3, 4].contains(field));
    busy.map(|(_, ticks)| ticks.expect("a number")).sum::<f64>() / TICKS_PER_SECOND
}

/// The fields 14 to 17 of `stat` (proc(5)): user and system ticks of the process, and of its
/// children that were waited for.
fn ticks(path: &str) -> [f64; 4] {
    let stat = fs::read_to_string(path).expect("the process lives");
    // The second field is a name in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
    let mut fields = rest.split_ascii_whitespace().skip(11);
    std::array::from_fn(|_| fields.next().and_then(|field| field.parse().ok()).expect("a number"))
}

/// Bytes of memory that a process holds (`VmRSS`).
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("Linux says kB");
    kib.parse::<u64>().expect("it is a number") * 1024
}
