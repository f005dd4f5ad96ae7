//! The cores of this machine, which of them are fast, and binding threads to them.
//!
//! Where fast and slow cores share a chip, a product's threads on the fast ones are done sooner by
//! themselves: decoding is bound by memory, which the fast cores use up, and a slow one holds the others up
//! at each meeting. So the fast ones are the default. Only Linux tells; elsewhere all cores count as equal.

use std::fs;
use std::path::Path;

use crate::limits::THREADS_MAX;

/// A core counts as fast if it has this part of the fastest's speed: the steps between the cores of one kind
/// (favoured ones, bins) are smaller, those between kinds larger.
const FAST_PERCENT: u64 = 70;

/// The cores that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Number and speed in any one unit, the fastest first; of unknown speed are 0.
    cores: Vec<(usize, u64)>,
}

impl Cores {
    /// Those of this machine.
    pub fn here() -> Cores {
        Cores::read(Path::new("/sys/devices/system/cpu"), allowed())
    }

    /// Reads the speed of each allowed core: its capacity where the system measured it (Arm, RISC-V), else
    /// its highest clock.
    fn read(folder: &Path, allowed: impl Iterator<Item = usize>) -> Cores {
        let number = |core: usize, file: &str| -> Option<u64> {
            fs::read_to_string(folder.join(format!("cpu{core}/{file}"))).ok()?.trim().parse().ok()
        };
        let speed = |core| {
            number(core, "cpu_capacity").or_else(|| number(core, "cpufreq/cpuinfo_max_freq")).unwrap_or(0)
        };
        let mut cores: Vec<(usize, u64)> = allowed.map(|core| (core, speed(core))).collect();
        cores.sort_by_key(|&(core, speed)| (std::cmp::Reverse(speed), core));
        Cores { cores }
    }

    fn fast(&self) -> impl Iterator<Item = usize> {
        let fastest = self.cores.first().map_or(0, |core| core.1);
        let is_fast =
            move |core: &&(usize, u64)| core.1.saturating_mul(100) >= fastest.saturating_mul(FAST_PERCENT);
        self.cores.iter().filter(is_fast).map(|core| core.0)
    }

    /// Compute threads unless told otherwise: one for each fast core.
    pub fn threads(&self) -> usize {
        self.fast().count().clamp(1, THREADS_MAX)
    }

    /// A core for each of `threads` threads, the fastest first; around again if there are more threads.
    pub(crate) fn places(&self, threads: usize) -> Vec<usize> {
        self.cores.iter().map(|core| core.0).cycle().take(threads).collect()
    }
}

#[cfg(target_os = "linux")]
fn allowed() -> impl Iterator<Item = usize> {
    let set = rustix::thread::sched_getaffinity(None).ok();
    let count = if set.is_some() { rustix::thread::CpuSet::MAX_CPU } else { counted() };
    (0..count).filter(move |&core| set.as_ref().is_none_or(|set| set.is_set(core)))
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> impl Iterator<Item = usize> {
    0..counted()
}

fn counted() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

/// Binds the calling thread to a core. Only advice: where it can't be, the thread runs where the system
/// likes.
pub(crate) fn bind(core: usize) {
    #[cfg(target_os = "linux")]
    {
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = core;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as Linux shows cores, with a file of that name for each core.
    fn machine(name: &str, file: &str, speeds: &[u64]) -> Cores {
        let folder = std::env::temp_dir().join(format!("kwaainet-cores-{}-{name}", std::process::id()));
        for (core, speed) in speeds.iter().enumerate() {
            let path = folder.join(format!("cpu{core}/{file}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{speed}\n")).unwrap();
        }
        let cores = Cores::read(&folder, 0..speeds.len());
        fs::remove_dir_all(folder).unwrap();
        cores
    }

    #[test]
    fn only_fast_cores_get_a_thread_and_they_are_filled_first() {
        // Four small and four large cores, as capacities: the slow ones come first in the numbering.
        let cores = machine("little", "cpu_capacity", &[414, 414, 414, 414, 1024, 1024, 1000, 1024]);
        assert_eq!(cores.threads(), 4);
        assert_eq!(cores.places(6), [4, 5, 7, 6, 0, 1]);
    }

    #[test]
    fn cores_of_one_kind_are_all_fast_although_some_clock_higher() {
        let cores = machine("bins", "cpufreq/cpuinfo_max_freq", &[4_200_000, 4_500_000, 3_900_000]);
        assert_eq!(cores.threads(), 3);
        assert_eq!(cores.places(4), [1, 0, 2, 1]);
    }

    #[test]
    fn where_nothing_is_told_all_cores_are_equal() {
        let cores = Cores::read(Path::new("/nonexistent"), [1, 3].into_iter());
        assert_eq!((cores.threads(), cores.places(3)), (2, vec![1, 3, 1]));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_bound_thread_stays_on_its_core() {
        let core = Cores::here().places(1)[0];
        std::thread::spawn(move || {
            bind(core);
            assert_eq!(Cores::read(Path::new("/nonexistent"), allowed()).places(2), [core, core]);
        })
        .join()
        .unwrap();
    }
}
