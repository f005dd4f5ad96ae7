//! What choosing one token costs, in microseconds, at the vocabulary of Qwen 2.5 (151,936 tokens).
//!
//! Run with `cargo run --release -p kwaainet-engine --example sampler_cost`. Logits are drawn from a normal
//! distribution of standard deviation 3, about as wide as those of real models, and once with all of them
//! equal.

use std::time::Instant;

use kwaainet_engine::Error;
use kwaainet_engine::logprobs::LogProbabilities;
use kwaainet_engine::random::uniform;
use kwaainet_engine::sampler::{Sampler, Sampling};

const VOCABULARY: usize = 151_936;
const ROUNDS: u64 = 100;

fn main() -> Result<(), Error> {
    // The sum of twelve uniform numbers is close to normal.
    let normal = |id: u64| (0..12).map(|part| uniform(id, part)).sum::<f64>() - 6.0;
    let real: Vec<f32> = (0..VOCABULARY as u64).map(|id| (normal(id) * 3.0) as f32).collect();
    let flat = vec![0.0; VOCABULARY];
    let context: Vec<u32> = (0..4096).map(|place| place * 37).collect();
    let settings = [
        ("greedy", Sampling::greedy()),
        ("temperature", Sampling::neutral()),
        ("top-k 40", Sampling { top_k: 40, ..Sampling::neutral() }),
        ("top-p 0.95", Sampling { top_p: 0.95, ..Sampling::neutral() }),
        ("min-p 0.05", Sampling { min_p: 0.05, ..Sampling::neutral() }),
        ("top-k 40, top-p 0.95", Sampling::default()),
        ("penalties over 4,096 tokens", Sampling { repetition_penalty: 1.1, ..Sampling::greedy() }),
    ];
    let mut sampler = Sampler::new(VOCABULARY);
    println!("{:<32} {:>12} {:>12}", "microseconds a token", "real", "flat");
    for (name, sampling) in settings {
        let mut cost = |logits: &[f32]| -> Result<f64, Error> {
            let start = Instant::now();
            for index in 0..ROUNDS {
                sampler.sample(&sampling, logits, &context, 0, index)?;
            }
            Ok(start.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64)
        };
        println!("{name:<32} {:>12.0} {:>12.0}", cost(&real)?, cost(&flat)?);
    }
    let told = |logits: &[f32]| -> Result<f64, Error> {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            std::hint::black_box(LogProbabilities::new(logits)?.top(20));
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64)
    };
    println!("{:<32} {:>12.0} {:>12.0}", "logprobs, top 20", told(&real)?, told(&flat)?);
    Ok(())
}
