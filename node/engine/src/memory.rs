//! How much memory this machine can still give, and how much this process has taken.
//!
//! Only Linux tells both without a library; elsewhere the answer is "unknown" and callers say so.

use std::fs;

/// How weights are kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residence {
    /// Mapped: the system brings in what is touched, and drops it where it needs the room.
    #[default]
    Mapped,
    /// Mapped, read in at once and locked there.
    Locked,
    /// One block after the other, the next one read while this one is computed, and what lies behind given
    /// up: for models larger than memory. Each pass reads all weights from the disk.
    Streamed,
}

/// Bytes that can be taken without swapping: what the kernel calls available, within this process's control
/// group.
pub fn available_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let available = kilobytes(&meminfo, "MemAvailable:")?;
    Some(control_group_headroom().map_or(available, |headroom| available.min(headroom)))
}

/// Memory of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Everything in memory, mapped files included, in bytes.
    pub total_bytes: u64,
    /// The largest that `total_bytes` has been.
    pub peak_bytes: u64,
    /// What no file backs, in bytes.
    pub anonymous_bytes: u64,
}

/// What this process holds now.
pub fn resident() -> Option<Resident> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(Resident {
        total_bytes: kilobytes(&status, "VmRSS:")?,
        peak_bytes: kilobytes(&status, "VmHWM:")?,
        anonymous_bytes: kilobytes(&status, "RssAnon:")?,
    })
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control group (version 2) still allows; `None` without a limit.
fn control_group_headroom() -> Option<u64> {
    let group = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group.lines().find_map(|line| line.strip_prefix("0::"))?.trim();
    let read = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}")).ok()?.trim().parse().ok()
    };
    read("memory.max")?.checked_sub(read("memory.current")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_in_bytes() {
        assert_eq!(kilobytes("A: 1 kB\nMemAvailable:   2048 kB\n", "MemAvailable:"), Some(2048 * 1024));
        assert_eq!(kilobytes("A: 1 kB\n", "MemAvailable:"), None);
        assert_eq!(kilobytes("MemAvailable: many kB\n", "MemAvailable:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_what_is_free_and_what_is_taken() {
        assert!(available_bytes().unwrap() > 0);
        let resident = resident().unwrap();
        assert!(resident.peak_bytes >= resident.anonymous_bytes);
    }
}
