//! What the operating system says about a process: CPU, memory; and about the machine: its load.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// User and system time of a process, all of its threads, those that ended included.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let ticks = cpu_ticks(&text).with_context(|| format!("/proc/{pid}/stat is not as expected"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The ticks in the text of `/proc/PID/stat`. The second field is the program's name and may hold anything, `) ` too.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut fields = behind_name.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// What a process holds in memory.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    /// All of it, in bytes.
    pub bytes: u64,
    /// Of it pages of files, in bytes: nearly all are the program's own. How many are there depends on how the system
    /// happens to have the file in its cache, by a few MiB.
    pub of_files: u64,
}

/// Resident memory of a process.
///
/// # Errors
/// There is no such process.
pub fn resident(pid: u32) -> anyhow::Result<Resident> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let read = |name| {
        let kib = kib_of(&text, name).with_context(|| format!("/proc/{pid}/status has no {name}"))?;
        anyhow::Ok(kib * 1024)
    };
    Ok(Resident { bytes: read("VmRSS:")?, of_files: read("RssFile:")? })
}

/// The most memory that a process had resident so far, in bytes.
///
/// # Errors
/// There is no such process.
pub fn peak(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    Ok(1024 * kib_of(&text, "VmHWM:").with_context(|| format!("/proc/{pid}/status has no VmHWM"))?)
}

/// A size in the text of `/proc/PID/status`.
fn kib_of(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The load average over one, five and fifteen minutes.
///
/// # Errors
/// `/proc` is not there.
pub fn load_average() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("the load average")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_found_behind_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 3000 0 7 0 151 49 3 4 20 0 6 0 100 1000 500 18446744073709551615";
        for name in ["promptmill", "a b", "x) R 1 2", ") "] {
            assert_eq!(cpu_ticks(&format!("42 ({name}) {rest}")), Some(200), "{name}");
        }
        assert_eq!(cpu_ticks("42 (short) S 1 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn resident_memory_is_read_in_kib() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t   41236 kB\nRssFile:\t   18680 kB\n";
        assert_eq!(kib_of(status, "VmRSS:"), Some(41236));
        assert_eq!(kib_of(status, "RssFile:"), Some(18680));
        assert_eq!(kib_of(status, "VmHWM:"), Some(900));
        assert_eq!(kib_of("Name:\tkthread\n", "VmRSS:"), None);
    }

    #[test]
    fn work_of_this_process_is_seen() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_time(pid).unwrap() < before + Duration::from_millis(30) {
            sum = (0..100_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        let resident = resident(pid).unwrap();
        assert!(resident.of_files > 100_000 && resident.bytes > resident.of_files, "{resident:?}");
        assert!(cpu_time(u32::MAX).is_err());
    }
}
