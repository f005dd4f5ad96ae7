//! How fast this machine reads memory: the bound of everything that reads all weights for each token.
//!
//! Threads sum one large buffer, each its part, all at once; the best of several sweeps counts.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// The buffer that is swept, in bytes: far beyond any cache.
const SWEEP_BYTES: usize = 384 * 1024 * 1024;
/// Sweeps; the best counts.
const SWEEPS: usize = 5;

/// The best of several reads of a large buffer by all threads at once, in bytes a second.
pub fn read_bandwidth(threads: usize) -> f64 {
    let words = SWEEP_BYTES / size_of::<u64>();
    let buffer: Vec<u64> = (0..words as u64).collect();
    let share = words.div_ceil(threads.max(1));
    let mut best = 0.0_f64;
    for _ in 0..SWEEPS {
        let parts: Vec<&[u64]> = buffer.chunks(share).collect();
        let barrier = &Barrier::new(parts.len());
        let seconds = thread::scope(|scope| {
            let sweep = |part| {
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    std::hint::black_box(sum(part));
                    (start, Instant::now())
                })
            };
            let handles: Vec<_> = parts.iter().copied().map(sweep).collect();
            // From the first start to the last end, as the threads saw them: this thread may be woken late.
            let times: Vec<_> =
                handles.into_iter().map(|handle| handle.join().expect("a sum does not panic")).collect();
            let start = times.iter().map(|time| time.0).min().expect("at least one thread");
            let end = times.iter().map(|time| time.1).max().expect("at least one thread");
            (end - start).as_secs_f64()
        });
        best = best.max(SWEEP_BYTES as f64 / seconds);
    }
    best
}

/// Sixteen sums side by side, so that reading is what takes the time.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 16];
    for chunk in words.chunks_exact(16) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_reads_every_word() {
        let words: Vec<u64> = (0..160).collect();
        assert_eq!(sum(&words), 159 * 160 / 2);
    }
}
