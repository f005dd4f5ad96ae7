//! What a run on an idle pool costs.
//!
//! `cargo run --release -p kwaainet-kernels --example meeting_cost [THREADS]`: a pass of a small model is
//! some hundred and fifty runs, so their price is a part of each token's time. Runs come after each other, as
//! in a pass; the medians of many rounds are printed, less what an even split of the tasks takes by itself.

use std::hint::black_box;
use std::time::Instant;

use kwaainet_kernels::pool::Pool;
use kwaainet_kernels::{Parallel, Sequential};

/// Runs in a round.
const RUNS: u32 = 1000;
/// Rounds; the median counts.
const ROUNDS: usize = 51;

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let pool = Pool::new(threads);
    println!("{threads} threads, median of {ROUNDS} rounds of {RUNS} runs");
    for (tasks, spins) in [(2, 0), (16, 0), (16, 300), (64, 300)] {
        let task = |_: usize| {
            for spin in 0..spins {
                black_box(spin);
            }
        };
        let alone = median_ns(&Sequential, tasks, &task);
        let together = median_ns(&pool, tasks, &task);
        let ideal = alone / pool.threads() as f64;
        println!(
            "{tasks:3} tasks of {:4.0} ns: {together:6.0} ns a run; {:6.0} ns above an even split",
            alone / tasks as f64,
            together - ideal
        );
    }
}

fn median_ns(pool: &dyn Parallel, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> f64 {
    let round = |_| {
        let start = Instant::now();
        for _ in 0..RUNS {
            pool.run(tasks, task);
        }
        start.elapsed().as_nanos() as f64 / f64::from(RUNS)
    };
    let mut rounds: Vec<f64> = (0..ROUNDS).map(round).collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
