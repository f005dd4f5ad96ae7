//! The sampler against exact distributions, against a plain second implementation, and at its limits.
//!
//! `sampling-golden.json` holds what the transformers library leaves of one row of logits under eleven
//! settings. The plain implementation here sorts everything and sums in f64; it is slow and obvious, and
//! random cases must agree.

use std::collections::HashMap;
use std::path::PathBuf;

use kwaainet_engine::limits::{
    LOGIT_BIAS_COUNT_MAX, LOGIT_BIAS_MAX, PENALTY_WINDOW_TOKENS_MAX, REPETITION_PENALTY_MAX, TEMPERATURE_MAX,
};
use kwaainet_engine::random::uniform;
use kwaainet_engine::sampler::{Sampler, Sampling};
use serde_json::Value;

struct Golden {
    context: Vec<u32>,
    logits: Vec<f32>,
    cases: Vec<GoldenCase>,
}

struct GoldenCase {
    sampling: Sampling,
    kept: usize,
    top: Vec<(u32, f64)>,
}

fn golden(test: &str) -> Option<Golden> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("KWAAINET_SHARED").map_or(beside, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(shared.join("models/sampling/sampling-golden.json")) else {
        println!("skipped: {test}: no ../shared");
        return None;
    };
    let file: Value = serde_json::from_str(&text).expect("the golden file is JSON");
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
    };
    let cases = file["cases"].as_array().expect("a list of cases").iter().map(|case| {
        let mut sampling = Sampling::neutral();
        for (name, value) in case["settings"].as_object().expect("settings by name") {
            let value = value.as_f64().expect("a number");
            match name.as_str() {
                "temperature" => sampling.temperature = value as f32,
                "top_k" => sampling.top_k = value as usize,
                "top_p" => sampling.top_p = value as f32,
                "min_p" => sampling.min_p = value as f32,
                "repetition_penalty" => sampling.repetition_penalty = value as f32,
                other => panic!("the golden file has a setting that this test does not know: {other}"),
            }
        }
        let top = case["top"].as_array().expect("a list").iter().map(|entry| {
            let entry = numbers(entry);
            (entry[0] as u32, entry[1])
        });
        GoldenCase { sampling, kept: case["kept"].as_u64().expect("a count") as usize, top: top.collect() }
    });
    Some(Golden {
        context: numbers(&file["context_ids"]).iter().map(|&id| id as u32).collect(),
        logits: numbers(&file["logits"]).iter().map(|&logit| logit as f32).collect(),
        cases: cases.collect(),
    })
}

#[test]
fn the_golden_distributions_are_left_exactly() {
    let Some(golden) = golden("the_golden_distributions_are_left_exactly") else { return };
    let mut sampler = Sampler::new(golden.logits.len());
    assert_eq!(golden.cases.len(), 11);
    for case in &golden.cases {
        let left = sampler
            .distribution(&case.sampling, &golden.logits, &golden.context, golden.context.len())
            .expect("the logits are finite");
        assert_eq!(left.len(), case.kept, "{:?}", case.sampling);
        let chances: HashMap<u32, f64> = left.into_iter().collect();
        for (id, expected) in &case.top {
            let found = chances.get(id).copied().unwrap_or(0.0);
            // The file's logits are rounded to 1e-6, the temperature of 0.7 stretches that.
            assert!(
                (found - expected).abs() < 1e-6,
                "token {id}: {found}, not {expected}, {:?}",
                case.sampling
            );
        }
    }
}

#[test]
fn draws_follow_the_golden_distributions() {
    const DRAWS: u64 = 20_000;
    let Some(golden) = golden("draws_follow_the_golden_distributions") else { return };
    let mut sampler = Sampler::new(golden.logits.len());
    for (number, case) in golden.cases.iter().enumerate() {
        let sampling = Sampling { seed: 1000 + number as u64, ..case.sampling.clone() };
        let mut counts: HashMap<u32, u64> = HashMap::new();
        for index in 0..DRAWS {
            let id = sampler.sample(&sampling, &golden.logits, &golden.context, golden.context.len(), index);
            *counts.entry(id.expect("the logits are finite")).or_default() += 1;
        }
        let likely = case.top.iter().filter(|(_, chance)| chance * DRAWS as f64 >= 10.0);
        let (mut chi_square, mut bins, mut chance_left, mut draws_left) = (0.0, 0.0, 1.0, DRAWS as f64);
        for (id, chance) in likely {
            let found = counts.get(id).copied().unwrap_or(0) as f64;
            let expected = chance * DRAWS as f64;
            chi_square += (found - expected).powi(2) / expected;
            (bins, chance_left, draws_left) = (bins + 1.0, chance_left - chance, draws_left - found);
        }
        let expected_left = chance_left * DRAWS as f64;
        if expected_left >= 10.0 {
            chi_square += (draws_left - expected_left).powi(2) / expected_left;
            bins += 1.0;
        }
        // Chi-square has mean n - 1 and variance 2 (n - 1); four deviations, and the seeds are fixed.
        let freedom: f64 = bins - 1.0;
        let limit = freedom + 4.0 * (2.0 * freedom).sqrt();
        assert!(chi_square <= limit, "chi-square {chi_square} above {limit}: {:?}", case.sampling);
        if case.kept == case.top.len() {
            let allowed: Vec<u32> = case.top.iter().map(|(id, _)| *id).collect();
            assert!(
                counts.keys().all(|id| allowed.contains(id)),
                "a token was drawn that was cut: {sampling:?}"
            );
        }
    }
}

/// Every step as plainly as its definition, with full sorts.
fn plain_distribution(sampling: &Sampling, logits: &[f32], context: &[u32], from: usize) -> Vec<(u32, f64)> {
    let mut values: Vec<f32> = logits.to_vec();
    for &(id, bias) in &sampling.logit_bias {
        values[id as usize] += bias;
    }
    let window = context.len().saturating_sub(sampling.penalty_window_tokens);
    for (id, value) in values.iter_mut().enumerate() {
        let occurs = |tokens: &[u32]| tokens.iter().filter(|&&token| token as usize == id).count();
        if occurs(&context[window..]) > 0 {
            let penalty = sampling.repetition_penalty;
            *value = if *value < 0.0 { *value * penalty } else { *value / penalty };
        }
        let count = occurs(&context[window.max(from)..]);
        if count > 0 {
            *value -= sampling.frequency_penalty * count as f32 + sampling.presence_penalty;
        }
    }
    let mut sorted: Vec<(u32, f64)> = (0..).zip(values.iter().map(|&value| f64::from(value))).collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampling.temperature == 0.0 {
        return vec![(sorted[0].0, 1.0)];
    }
    let best = sorted[0].1;
    if (1..sorted.len()).contains(&sampling.top_k) {
        let border = sorted[sampling.top_k - 1].1;
        sorted.retain(|&(_, value)| value >= border);
    }
    let temperature = f64::from(sampling.temperature);
    // Chances below e^-50 of the best one's can't be drawn with 53 bits; the sampler leaves them out.
    sorted.retain(|&(_, value)| (value - best) / temperature > -50.0);
    let mut left: Vec<(u32, f64)> = sorted
        .iter()
        .map(|&(id, value)| (id, f64::from(((value - best) / temperature).exp() as f32)))
        .collect();
    if sampling.top_p < 1.0 {
        let target = f64::from(sampling.top_p) * left.iter().map(|entry| entry.1).sum::<f64>();
        let mut reached = 0.0;
        let kept = left.iter().position(|entry| {
            reached += entry.1;
            reached >= target
        });
        left.truncate(kept.map_or(left.len(), |last| last + 1));
    }
    left.retain(|&(_, weight)| weight >= f64::from(sampling.min_p));
    let total: f64 = left.iter().map(|entry| entry.1).sum();
    let mut left: Vec<(u32, f64)> = left.into_iter().map(|(id, weight)| (id, weight / total)).collect();
    left.sort_by_key(|entry| entry.0);
    left
}

#[test]
fn random_settings_agree_with_a_plain_implementation() {
    let mut draw = 0;
    let mut random = |below: usize| {
        draw += 1;
        (uniform(99, draw) * below as f64) as usize
    };
    let mut sampler = Sampler::new(0);
    for round in 0..600 {
        let vocabulary = [1, 2, 3, 31, 32, 33, 64, 65, 100, 1000, 3000][random(11)];
        // Coarse steps make many ties.
        let steps = [3, 20, 100_000][random(3)];
        let logits: Vec<f32> =
            (0..vocabulary).map(|_| random(steps) as f32 / steps as f32 * 16.0 - 8.0).collect();
        let context: Vec<u32> = (0..random(60)).map(|_| random(vocabulary) as u32).collect();
        let from = random(context.len() + 1);
        let sampling = Sampling {
            temperature: [0.0, 0.2, 1.0, 1.0, 3.0][random(5)],
            top_k: [0, 1, 2, 40, vocabulary, vocabulary + 1][random(6)],
            top_p: [1.0, 1.0, 0.95, 0.5, 0.01, 0.0][random(6)],
            min_p: [0.0, 0.0, 0.05, 0.5, 1.0][random(5)],
            repetition_penalty: [1.0, 1.0, 1.3, 0.8][random(4)],
            presence_penalty: [0.0, 0.5, -0.5][random(3)],
            frequency_penalty: [0.0, 0.25, -0.25][random(3)],
            penalty_window_tokens: [0, 1, 10, 4096][random(4)],
            logit_bias: (0..random(3)).map(|_| (random(vocabulary) as u32, random(9) as f32 - 4.0)).collect(),
            seed: round,
        };
        sampling.check(vocabulary).expect("all settings are in range");
        let found = sampler.distribution(&sampling, &logits, &context, from).expect("the logits are finite");
        let expected = plain_distribution(&sampling, &logits, &context, from);
        let ids = |left: &[(u32, f64)]| left.iter().map(|entry| entry.0).collect::<Vec<_>>();
        assert_eq!(ids(&found), ids(&expected), "round {round}, {sampling:?}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found.1 - expected.1).abs() < 1e-6, "round {round}: {found:?}, not {expected:?}");
        }
        let chosen =
            sampler.sample(&sampling, &logits, &context, from, round).expect("the logits are finite");
        assert!(ids(&found).contains(&chosen), "round {round}: {chosen} was cut");
    }
}

fn sloped_logits(vocabulary: usize) -> Vec<f32> {
    (0..vocabulary).map(|id| (uniform(5, id as u64) * 12.0) as f32).collect()
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
    let logits = sloped_logits(300);
    let tokens = |sampler: &mut Sampler, seed| -> Vec<u32> {
        let sampling = Sampling { seed, ..Sampling::default() };
        (0..50).map(|index| sampler.sample(&sampling, &logits, &[], 0, index).expect("finite")).collect()
    };
    let mut sampler = Sampler::new(300);
    let first = tokens(&mut sampler, 1);
    assert_eq!(first, tokens(&mut sampler, 1));
    assert_eq!(first, tokens(&mut Sampler::new(0), 1), "scratch memory must not matter");
    assert_ne!(first, tokens(&mut sampler, 2));
}

#[test]
fn a_replacement_goes_on_where_the_first_one_stopped() {
    let logits = sloped_logits(300);
    let sampling = Sampling { seed: 11, ..Sampling::neutral() };
    let draw = |sampler: &mut Sampler, indices: std::ops::Range<u64>| -> Vec<u32> {
        indices.map(|index| sampler.sample(&sampling, &logits, &[], 0, index).expect("finite")).collect()
    };
    let whole = draw(&mut Sampler::new(300), 0..40);
    let mut pieces = draw(&mut Sampler::new(300), 0..17);
    pieces.extend(draw(&mut Sampler::new(300), 17..40));
    assert_eq!(whole, pieces);
}

#[test]
fn drawn_tokens_have_the_same_bits_on_every_machine() {
    let logits = sloped_logits(2048);
    let sampling = Sampling { temperature: 1.1, top_p: 0.97, seed: 2026, ..Sampling::neutral() };
    let mut sampler = Sampler::new(2048);
    let drawn: Vec<u32> =
        (0..12).map(|index| sampler.sample(&sampling, &logits, &[], 0, index).expect("finite")).collect();
    assert_eq!(drawn, [1022, 704, 1447, 1867, 336, 182, 1924, 1808, 558, 346, 627, 218]);
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let mut sampler = Sampler::new(4);
    assert_eq!(sampler.sample(&Sampling::greedy(), &[1.0, 3.0, 3.0, -2.0], &[], 0, 0).expect("finite"), 1);
    assert_eq!(sampler.sample(&Sampling::greedy(), &[-1.0], &[], 0, 0).expect("finite"), 0);
}

#[test]
fn presence_and_frequency_penalties_look_at_the_answer_alone() {
    let sampling = Sampling { presence_penalty: 1.0, frequency_penalty: 0.5, ..Sampling::greedy() };
    let mut sampler = Sampler::new(3);
    // Token 0 is in the prompt twice, token 1 in the answer twice: 3.9 - 1.0 - 2 * 0.5 < 2.
    let mut chosen =
        |logits: [f32; 3]| sampler.sample(&sampling, &logits, &[0, 0, 1, 1], 2, 2).expect("finite");
    assert_eq!(chosen([3.0, 3.9, 2.0]), 0);
    assert_eq!(chosen([1.0, 3.9, 2.0]), 2);
    assert_eq!(chosen([1.0, 4.1, 2.0]), 1);
}

#[test]
fn tokens_before_the_window_are_not_penalised() {
    let logits = [2.0, 1.5];
    let mut sampler = Sampler::new(2);
    let mut chosen = |penalty_window_tokens| {
        let sampling = Sampling { repetition_penalty: 2.0, penalty_window_tokens, ..Sampling::greedy() };
        sampler.sample(&sampling, &logits, &[0, 5, 5], 0, 3).expect("finite")
    };
    assert_eq!(chosen(3), 1);
    assert_eq!(chosen(2), 0);
}

#[test]
fn a_bias_forces_and_bans_tokens() {
    let logits = sloped_logits(100);
    let mut sampler = Sampler::new(100);
    let forced = Sampling { logit_bias: vec![(42, 100.0)], ..Sampling::neutral() };
    assert!((0..50).all(|index| sampler.sample(&forced, &logits, &[], 0, index).expect("finite") == 42));
    let best = sampler.sample(&Sampling::greedy(), &logits, &[], 0, 0).expect("finite");
    let banned = Sampling { logit_bias: vec![(best, -100.0)], ..Sampling::greedy() };
    assert_ne!(sampler.sample(&banned, &logits, &[], 0, 0).expect("finite"), best);
}

#[test]
fn logits_that_are_no_finite_numbers_are_refused_in_a_sentence() {
    for sampling in [Sampling::greedy(), Sampling::neutral(), Sampling::default()] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error =
                Sampler::new(3).sample(&sampling, &[0.0, bad, 1.0], &[], 0, 0).unwrap_err().to_string();
            assert!(error.contains("the logit of token 1 is"), "{error}");
        }
        let error = Sampler::new(3).sample(&sampling, &[], &[], 0, 0).unwrap_err().to_string();
        assert!(error.contains("no logits"), "{error}");
    }
}

#[test]
fn an_extreme_but_allowed_setting_never_panics() {
    let logits = [f32::MAX, f32::MIN, 0.0, 1.0e-40];
    for temperature in [f32::MIN_POSITIVE, 1.0e-45, TEMPERATURE_MAX] {
        for top_p in [0.0, 1.0e-45, 1.0] {
            let sampling =
                Sampling { temperature, top_p, top_k: usize::MAX, min_p: 1.0, ..Sampling::neutral() };
            sampling.check(4).expect("in range");
            let chosen =
                Sampler::new(4).sample(&sampling, &logits, &[7, u32::MAX], 9, u64::MAX).expect("finite");
            assert_eq!(chosen, 0);
        }
    }
}

#[test]
fn each_setting_is_taken_at_its_limit_and_refused_beyond_it() {
    let base = Sampling::neutral;
    let bias = |count: usize, value: f32| vec![(0, value); count];
    let allowed = [
        Sampling { temperature: TEMPERATURE_MAX, ..base() },
        Sampling { repetition_penalty: REPETITION_PENALTY_MAX, ..base() },
        Sampling { presence_penalty: -2.0, frequency_penalty: 2.0, ..base() },
        Sampling { penalty_window_tokens: PENALTY_WINDOW_TOKENS_MAX, ..base() },
        Sampling { logit_bias: bias(LOGIT_BIAS_COUNT_MAX, LOGIT_BIAS_MAX), ..base() },
        Sampling { logit_bias: vec![(9, -LOGIT_BIAS_MAX)], ..base() },
    ];
    for sampling in allowed {
        sampling.check(10).expect("this setting is at its limit");
    }
    let refused = [
        ("temperature", Sampling { temperature: TEMPERATURE_MAX + 1.0, ..base() }),
        ("temperature", Sampling { temperature: -0.1, ..base() }),
        ("temperature", Sampling { temperature: f32::NAN, ..base() }),
        ("top_p", Sampling { top_p: 1.1, ..base() }),
        ("min_p", Sampling { min_p: -0.1, ..base() }),
        ("repetition_penalty", Sampling { repetition_penalty: 0.0, ..base() }),
        ("repetition_penalty", Sampling { repetition_penalty: REPETITION_PENALTY_MAX + 1.0, ..base() }),
        ("presence_penalty", Sampling { presence_penalty: 2.1, ..base() }),
        ("frequency_penalty", Sampling { frequency_penalty: f32::INFINITY, ..base() }),
        ("penalty window", Sampling { penalty_window_tokens: PENALTY_WINDOW_TOKENS_MAX + 1, ..base() }),
        ("logit_bias has", Sampling { logit_bias: bias(LOGIT_BIAS_COUNT_MAX + 1, 1.0), ..base() }),
        ("logit_bias is 101", Sampling { logit_bias: bias(1, LOGIT_BIAS_MAX + 1.0), ..base() }),
        ("names token 10", Sampling { logit_bias: vec![(10, 1.0)], ..base() }),
    ];
    for (words, sampling) in refused {
        let error = sampling.check(10).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
}
