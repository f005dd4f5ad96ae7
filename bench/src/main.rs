//! Single kernels of ours beside ggml's and candle's, on the same data.
//!
//! `time` lets them run in turn and prints nanoseconds; `count` runs one of them a given number of times and
//! does nothing else, so that an emulator can count its instructions. `ci/bench/kernels` builds this, calls
//! it and makes the tables.

#[cfg(feature = "candle")]
mod candle;
mod data;
#[cfg(feature = "ggml")]
mod ggml;
mod ours;

use std::time::{Duration, Instant};

use argh::FromArgs;
use kwaainet_kernels::Format;

use crate::data::Random;

/// A product of `tokens` rows of activations with a matrix.
#[derive(Clone, Copy)]
pub struct Shape {
    /// How the matrix is stored.
    pub format: Format,
    /// Its rows, the outputs.
    pub rows: usize,
    /// Its columns, the inputs.
    pub columns: usize,
    /// Rows of activations.
    pub tokens: usize,
}

/// Who can multiply.
pub trait Racer {
    /// What it runs on: a kernel set and a layout, a kind of buffer.
    fn name(&self) -> String;
    /// From float activations to float results, once.
    fn multiply(&mut self);
    /// The results of the last time, `[tokens][rows]`.
    fn result(&self) -> Vec<f32>;
}

/// single kernels, timed or for counting
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Time(Time),
    Count(Count),
}

/// let all racers run in turn; prints one line of JSON
#[derive(FromArgs)]
#[argh(subcommand, name = "time")]
struct Time {
    /// format of the matrix, such as q4_0
    #[argh(option)]
    format: String,
    /// outputs
    #[argh(option)]
    rows: usize,
    /// inputs
    #[argh(option)]
    columns: usize,
    /// rows of activations (default: 1)
    #[argh(option, default = "1")]
    tokens: usize,
    /// compute threads (default: 1)
    #[argh(option, default = "1")]
    threads: usize,
    /// turns of each racer (default: 7)
    #[argh(option, default = "7")]
    turns: usize,
}

/// run one racer a number of times; prints its name
#[derive(FromArgs)]
#[argh(subcommand, name = "count")]
struct Count {
    /// ours or ggml
    #[argh(option)]
    racer: String,
    /// format of the matrix, such as q4_0
    #[argh(option)]
    format: String,
    /// outputs
    #[argh(option)]
    rows: usize,
    /// inputs
    #[argh(option)]
    columns: usize,
    /// rows of activations
    #[argh(option)]
    tokens: usize,
    /// so many times
    #[argh(option)]
    times: usize,
}

/// A turn lasts at least so long: many ticks of any clock.
const TURN: Duration = Duration::from_millis(30);
/// Results may differ by so much of their root mean square: each quantises the activations in its own way.
const DIFFERENCE_MAX: f64 = 0.02;

fn main() {
    let arguments: Arguments = argh::from_env();
    match arguments.command {
        Command::Time(time) => time.run(),
        Command::Count(count) => count.run(),
    }
}

fn shape(format: &str, rows: usize, columns: usize, tokens: usize) -> Shape {
    let format = Format::from_name(format).unwrap_or_else(|| panic!("{format} is no format"));
    Shape { format, rows, columns, tokens }
}

/// A racer and what it is called.
type Named = (&'static str, Box<dyn Racer>);

/// Those of the wanted racers that can run this shape.
fn racers(shape: Shape, threads: usize, wanted: impl Fn(&str) -> bool) -> Vec<Named> {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let weights = data::weights(shape.format, shape.rows, shape.columns, &mut random);
    let activations = random.values(shape.tokens * shape.columns);
    let mut racers: Vec<Named> = Vec::new();
    if wanted("ours") {
        racers.push(("ours", Box::new(ours::Ours::new(shape, &weights, &activations, threads))));
    }
    #[cfg(feature = "ggml")]
    if wanted("ggml") {
        racers.push(("ggml", Box::new(ggml::Ggml::new(shape, &weights, &activations, threads))));
    }
    #[cfg(feature = "candle")]
    if wanted("candle")
        && let Some(candle) = candle::Candle::new(shape, &weights, &activations)
    {
        racers.push(("candle", Box::new(candle)));
    }
    racers
}

impl Time {
    fn run(&self) {
        let shape = shape(&self.format, self.rows, self.columns, self.tokens);
        let mut racers = racers(shape, self.threads, |_| true);
        for (_, racer) in &mut racers {
            racer.multiply();
        }
        let expected = racers[0].1.result();
        let differences: Vec<f64> =
            racers.iter().map(|(_, racer)| difference(&expected, &racer.result())).collect();
        for ((name, _), difference) in racers.iter().zip(&differences) {
            assert!(*difference < DIFFERENCE_MAX, "{name} computes something else: {difference}");
        }
        let mut turns = vec![Vec::with_capacity(self.turns); racers.len()];
        for _ in 0..self.turns {
            for ((_, racer), turns) in racers.iter_mut().zip(&mut turns) {
                turns.push(turn_ns(racer.as_mut()));
            }
        }
        let bytes = shape.format.row_bytes(shape.columns).expect("it was multiplied") * shape.rows;
        let told = racers.iter().zip(&turns).zip(&differences).map(|(((name, racer), ns), difference)| {
            let kernel = racer.name();
            format!(r#"{{"racer":"{name}","kernel":"{kernel}","ns":{ns:?},"difference":{difference}}}"#)
        });
        let racers = told.collect::<Vec<_>>().join(",");
        println!(r#"{{"weight_bytes":{bytes},"racers":[{racers}]}}"#);
    }
}

/// Nanoseconds of one product, over a turn.
fn turn_ns(racer: &mut dyn Racer) -> f64 {
    let start = Instant::now();
    let mut times = 0;
    while start.elapsed() < TURN {
        racer.multiply();
        times += 1;
    }
    start.elapsed().as_nanos() as f64 / times as f64
}

/// Root mean square of the difference, in parts of that of what is expected.
fn difference(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len(), "the results are of one shape");
    let square = |value: f64| value * value;
    let apart = expected.iter().zip(found).map(|(a, b)| square(f64::from(*a) - f64::from(*b)));
    let all: f64 = expected.iter().map(|value| square(f64::from(*value))).sum();
    (apart.sum::<f64>() / all).sqrt()
}

impl Count {
    fn run(&self) {
        let shape = shape(&self.format, self.rows, self.columns, self.tokens);
        let mut racers = racers(shape, 1, |name| name == self.racer);
        let (_, racer) = racers.first_mut().unwrap_or_else(|| panic!("this build has no {}", self.racer));
        for _ in 0..self.times {
            racer.multiply();
        }
        eprintln!("{}", racer.name());
    }
}
