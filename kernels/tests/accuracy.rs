//! How near the arithmetic comes to the plain formulas in 64 bits.

mod support;

use kwaainet_kernels::{
    AttentionJob, AttentionQuery, Format, KV_PAGE_TOKENS, Kernels, KvKind, KvShape, RopePairing, RopeScaling,
    RopeTable, Sequential, decode, encode,
};
use support::Numbers;

const KERNELS: Kernels = Kernels::PORTABLE;

#[track_caller]
fn assert_near(found: &[f32], wanted: impl IntoIterator<Item = f64>, tolerance: f64) {
    for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (f64::from(*found) - wanted).abs();
        assert!(difference <= tolerance * wanted.abs().max(1e-6), "value {index}: {found}, wanted {wanted}");
    }
}

#[test]
fn softmax_is_the_plain_one() {
    for length in [1, 5, 100, 5000] {
        let mut x = Numbers::new(length).row(length as usize, 5.0);
        let largest = x.iter().copied().fold(f32::MIN, f32::max);
        let powers: Vec<f64> = x.iter().map(|x| f64::from(x - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        KERNELS.softmax(&mut x);
        assert_near(&x, powers.iter().map(|power| power / sum), 2e-6);
    }
}

#[test]
fn activations_are_the_plain_ones() {
    let gate: Vec<f32> = (-2000..2000).map(|step| step as f32 / 100.0).collect();
    let up = Numbers::new(1).row(gate.len(), 1.0);
    let pairs = || gate.iter().zip(&up).map(|(gate, up)| (f64::from(*gate), f64::from(*up)));
    let mut found = gate.clone();
    KERNELS.swiglu(&mut found, &up);
    assert_near(&found, pairs().map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up), 1e-6);
    let mut found = gate.clone();
    KERNELS.geglu(&mut found, &up);
    let root = (2.0 / std::f64::consts::PI).sqrt();
    // 1 + tanh cancels for large negative values in the plain formula, so it is written by the exponential
    // here too.
    let gelu = |x: f64| x / (1.0 + (-2.0 * root * (x + 0.044715 * x * x * x)).exp());
    assert!((gelu(1.0) - 0.5 * (1.0 + (root * 1.044715).tanh())).abs() < 1e-15);
    assert_near(&found, pairs().map(|(gate, up)| gelu(gate) * up), 1e-5);
}

#[test]
fn activations_of_far_values_go_to_nothing_or_to_the_value() {
    let mut gate = [-1e30, -1e4, -200.0, 200.0, 1e4, 1e30];
    KERNELS.swiglu(&mut gate, &[1.0; 6]);
    assert_eq!(gate, [0.0, 0.0, 0.0, 200.0, 1e4, 1e30]);
    let mut gate = [-1e30, -1e4, -200.0, 200.0, 1e4, 1e30];
    KERNELS.geglu(&mut gate, &[1.0; 6]);
    assert_eq!(gate, [0.0, 0.0, 0.0, 200.0, 1e4, 1e30]);
}

#[test]
fn norms_are_the_plain_ones() {
    let mut numbers = Numbers::new(4);
    for length in [1, 17, 576, 4096] {
        let (x, weight) = (numbers.row(length, 3.0), numbers.row(length, 1.0));
        let mean = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / length as f64;
        let mut out = vec![0.0; length];
        KERNELS.rms_norm(&x, &weight, 1e-5, &mut out);
        let factor = 1.0 / (mean + f64::from(1e-5f32)).sqrt();
        assert_near(&out, x.iter().zip(&weight).map(|(x, w)| f64::from(*x) * factor * f64::from(*w)), 1e-6);
    }
}

/// One head of ones and zeros rotated: cosine and sine of every pair.
fn angles(table: &RopeTable, width: usize, position: usize) -> Vec<(f32, f32)> {
    let halves = table.pairing() == RopePairing::Halves;
    let places = |pair: usize| if halves { (pair, pair + width / 2) } else { (2 * pair, 2 * pair + 1) };
    let mut head = vec![0.0; width];
    (0..width / 2).for_each(|pair| head[places(pair).0] = 1.0);
    KERNELS.rope(&mut head, width, table, position);
    (0..width / 2).map(|pair| (head[places(pair).0], head[places(pair).1])).collect()
}

#[test]
fn rotations_follow_the_formula_in_both_pairings() {
    for pairing in [RopePairing::Interleaved, RopePairing::Halves] {
        let table = RopeTable::new(64, 10_000.0, &RopeScaling::None, pairing, 501);
        assert_eq!(RopeTable::bytes_for(64, 501), 64 * 501 * 4);
        for position in [0, 1, 500] {
            for (pair, (cosine, sine)) in angles(&table, 64, position).into_iter().enumerate() {
                let angle = position as f64 * 10_000f64.powf(-2.0 * pair as f64 / 64.0);
                assert!((f64::from(cosine) - angle.cos()).abs() < 1e-7, "{pairing:?} pair {pair}");
                assert!((f64::from(sine) - angle.sin()).abs() < 1e-7, "{pairing:?} pair {pair}");
            }
        }
    }
}

/// The angle at position 1 of each pair, which is its inverse frequency while below pi.
fn frequencies(width: usize, theta: f32, scaling: RopeScaling) -> Vec<f64> {
    let table = RopeTable::new(width, theta, &scaling, RopePairing::Halves, 2);
    let angles = angles(&table, width, 1).into_iter();
    angles.map(|(cosine, sine)| f64::from(sine).atan2(f64::from(cosine))).collect()
}

#[test]
fn scalings_divide_the_frequencies_they_should() {
    let plain = frequencies(64, 10_000.0, RopeScaling::None);
    let linear = frequencies(64, 10_000.0, RopeScaling::Linear { factor: 4.0 });
    let factors = frequencies(64, 10_000.0, RopeScaling::Factors((1..=32).map(|each| each as f32).collect()));
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context: 8192.0,
    };
    let llama3 = frequencies(64, 10_000.0, llama3);
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 4096.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.0,
    };
    let yarn = frequencies(64, 10_000.0, yarn);
    let near =
        |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 1e-6, "{found}, wanted {wanted}");
    for pair in 0..32 {
        near(linear[pair], plain[pair] / 4.0);
        near(factors[pair], plain[pair] / (pair + 1) as f64);
        let turns = 8192.0 * plain[pair] / std::f64::consts::TAU;
        let kept = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
        near(llama3[pair], plain[pair] * (kept + (1.0 - kept) / 8.0));
        // Correction range of width 64, theta 10000 and context 4096: pairs 10.46 and 22.51, rounded
        // outwards.
        let divided = ((pair as f64 - 10.0) / 13.0).clamp(0.0, 1.0);
        near(yarn[pair], plain[pair] * (1.0 - divided + divided / 4.0));
    }
}

#[test]
fn yarn_lengthens_what_it_rotates() {
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 4096.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.25,
    };
    let table = RopeTable::new(32, 10_000.0, &yarn, RopePairing::Interleaved, 4);
    for (cosine, sine) in angles(&table, 32, 3) {
        assert!((cosine.hypot(sine) - 1.25).abs() < 1e-6);
    }
}

/// Softmax over scores and a weighted sum, in 64 bits and in two walks.
fn plain_attention(query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], scale: f64) -> Vec<f64> {
    let dot = |key: &Vec<f32>| key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>();
    let scores: Vec<f64> = keys.iter().map(|key| scale * dot(key)).collect();
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let weight = |score: &f64| (score - largest).exp() / sum;
    let at = |d: usize| scores.iter().zip(values).map(|(score, v)| weight(score) * f64::from(v[d])).sum();
    (0..query.len()).map(at).collect()
}

#[test]
fn attention_in_one_walk_is_plain_softmax_attention() {
    // Bounds of the stored values' own rounding: none, 2^-11 of a value, half a step of 1/127 of the largest.
    for (kind, tolerance) in [(KvKind::F32, 1e-5), (KvKind::F16, 4e-3), (KvKind::Q8_0, 6e-2)] {
        for (first, end) in [(0, 1_usize), (0, 32), (0, 33), (5, 100), (64, 65), (40, 41), (31, 33)] {
            let (width, scale) = (64, 0.125);
            let shape = KvShape { kind, kv_heads: 2, head_width: width };
            let mut numbers = Numbers::new(end as u64);
            let mut pages = vec![vec![0; shape.page_bytes()]; end.div_ceil(KV_PAGE_TOKENS)];
            let rows: Vec<(Vec<f32>, Vec<f32>)> =
                (0..end).map(|_| (numbers.row(2 * width, 1.0), numbers.row(2 * width, 1.0))).collect();
            for (token, (keys, values)) in rows.iter().enumerate() {
                KERNELS.kv_store(&shape, &mut pages[token / 32], token % 32, keys, values);
            }
            let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
            let query = numbers.row(4 * width, 2.0);
            let queries = [AttentionQuery { query: &query, pages: &pages, first, end }];
            let job = AttentionJob { shape, heads: 4, scale, queries: &queries };
            let mut out = vec![0.0; 4 * width];
            KERNELS.attention(&Sequential, &job, &mut out);
            for (head, (out, query)) in out.chunks(width).zip(query.chunks(width)).enumerate() {
                let of = |row: &Vec<f32>| row[head / 2 * width..][..width].to_vec();
                let keys: Vec<_> = rows[first..end].iter().map(|(keys, _)| of(keys)).collect();
                let values: Vec<_> = rows[first..end].iter().map(|(_, values)| of(values)).collect();
                let wanted = plain_attention(query, &keys, &values, f64::from(scale));
                for (found, wanted) in out.iter().zip(wanted) {
                    assert!((f64::from(*found) - wanted).abs() < tolerance, "{kind:?} {first}..{end}");
                }
            }
        }
    }
}

#[test]
fn attention_to_nothing_is_zero() {
    let shape = KvShape { kind: KvKind::F16, kv_heads: 1, head_width: 8 };
    let queries = [AttentionQuery { query: &[1.0; 8], pages: &[], first: 3, end: 3 }];
    let mut out = [f32::NAN; 8];
    let job = AttentionJob { shape, heads: 1, scale: 1.0, queries: &queries };
    KERNELS.attention(&Sequential, &job, &mut out);
    assert_eq!(out, [0.0; 8]);
}

fn encoded(format: Format, values: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
    encode(format, values, &mut bytes).unwrap();
    let mut out = vec![0.0; values.len()];
    decode(format, &bytes, &mut out);
    out
}

#[test]
fn float_formats_encode_to_the_nearest() {
    let values = Numbers::new(1).row(256, 10.0);
    assert_eq!(encoded(Format::F32, &values), values);
    for (format, error) in [(Format::F16, 1.0 / 2048.0), (Format::BF16, 1.0 / 256.0)] {
        let out = encoded(format, &values);
        assert!(out.iter().zip(&values).all(|(out, value)| (out - value).abs() <= error * value.abs()));
        assert_eq!(encoded(format, &out), out, "what was decoded encodes to itself");
    }
}

/// Half a step, and the rounding of the scale to a half, which moves the last code by up to 127 / 2048 of a
/// step.
#[test]
fn q8_0_is_off_by_little_more_than_half_a_step() {
    let values = Numbers::new(2).row(32 * 200, 0.3);
    let out = encoded(Format::Q8_0, &values);
    for (values, out) in values.chunks(32).zip(out.chunks(32)) {
        let step = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs())) / 127.0;
        assert!(values.iter().zip(out).all(|(value, out)| (value - out).abs() <= 0.5 * step * 1.13));
    }
}

/// Half a step, but a whole one for a value opposite to the largest, since the codes reach -8 but only 7.
#[test]
fn q4_0_is_off_by_half_a_step_and_by_one_at_the_short_end() {
    let values = Numbers::new(3).row(32 * 200, 0.3);
    let out = encoded(Format::Q4_0, &values);
    for (values, out) in values.chunks(32).zip(out.chunks(32)) {
        let by_size = |a: &&f32, b: &&f32| a.abs().total_cmp(&b.abs());
        let step = -values.iter().max_by(by_size).unwrap() / 8.0;
        for (value, out) in values.iter().zip(out) {
            let bound = if value / step > 7.5 { 1.0 } else { 0.5 };
            assert!((value - out).abs() <= bound * step.abs() * 1.01, "{value} became {out}, step {step}");
        }
    }
}

#[test]
fn q4_k_is_better_than_the_plain_range_of_each_sub_block() {
    let values = Numbers::new(4).row(256 * 100, 0.3);
    let out = encoded(Format::Q4K, &values);
    let square = |difference: f32| f64::from(difference) * f64::from(difference);
    let found: f64 = values.iter().zip(&out).map(|(value, out)| square(value - out)).sum();
    let mut plain = 0.0;
    for values in values.chunks(32) {
        let low = values.iter().copied().fold(f32::MAX, f32::min);
        let step = (values.iter().copied().fold(f32::MIN, f32::max) - low) / 15.0;
        let nearest = |value: f32| low + ((value - low) / step).round() * step;
        plain += values.iter().map(|value| square(value - nearest(*value))).sum::<f64>();
    }
    // The plain range is not even rounded to the six bits that a sub-block's scale has.
    assert!(found < 0.95 * plain, "squared error {found}, plain {plain}");
}

#[test]
fn odd_blocks_encode_to_what_they_can() {
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4K] {
        assert_eq!(encoded(format, &[0.0; 256]), [0.0; 256], "{} of zeros", format.name());
        for value in [1.0, -1.0, 1e-30, 3e4, 1e30] {
            let out = encoded(format, &[value; 256]);
            assert!(out.iter().all(|out| out.is_finite()), "{} of {value:e}", format.name());
            if (1e-3..1e5).contains(&value.abs()) {
                assert!(
                    out.iter().all(|out| (out - value).abs() <= 0.002 * value.abs()),
                    "{} {value}",
                    format.name()
                );
            }
        }
    }
}

#[test]
fn formats_that_can_not_be_made_say_what_can() {
    let error = encode(Format::Q6K, &[0.0; 256], &mut [0; 210]).unwrap_err().to_string();
    assert!(error.contains("Q6_K") && error.contains("Q4_K"), "{error}");
}
