//! Every kernel set gives the same bits as the portable one, for every operation and shape.
//!
//! Sets that this machine lacks are named, not passed over in silence. Inputs have a period of 251, the
//! largest prime below 256, so that swapped blocks can't cancel.

use kwaainet_kernels::pool::Pool;
use kwaainet_kernels::*;

/// Rows: none, one, a panel less one, a panel, one more, two panels and one.
const ROWS: [usize; 6] = [0, 1, 7, 8, 9, 17];
/// Tokens: none, every tile size, its borders, more than one tile.
const TOKENS: [usize; 10] = [0, 1, 2, 3, 4, 5, 8, 33, 64, 65];

/// Sets to compare with the portable one.
fn variants() -> Vec<Kernels> {
    let found: Vec<Kernels> = Kernels::available().collect();
    for name in ["portable", "avx2"] {
        if !found.iter().any(|kernels| kernels.name() == name) {
            println!("skipped: {name}: not on this machine or not in this build");
        }
    }
    found.into_iter().filter(|kernels| *kernels != Kernels::PORTABLE).collect()
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// About normal, of the given size.
    fn float(&mut self, size: f32) -> f32 {
        let sum: i64 = (0..4).map(|_| i64::from(self.next() & 0xffff) - 0x8000).sum();
        sum as f32 / 65536.0 * size
    }

    fn floats(&mut self, count: usize, size: f32) -> Vec<f32> {
        let period: Vec<f32> = (0..251).map(|_| self.float(size)).collect();
        (0..count).map(|index| period[index % 251] * (1.0 + (index / 251 % 7) as f32)).collect()
    }
}

/// Random blocks whose scales are finite: every bit pattern of codes, halves below 2.
fn random_blocks(format: Format, blocks: usize, noise: &mut Noise) -> Vec<u8> {
    let size = format.block_bytes();
    let mut bytes: Vec<u8> = (0..blocks * size).map(|_| noise.next() as u8).collect();
    let halves: &[usize] = match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs | Format::F16 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
        Format::F32 | Format::BF16 => &[],
    };
    for block in bytes.chunks_exact_mut(size) {
        for &at in halves {
            block[at + 1] &= 0xbf;
        }
        match format {
            Format::F32 => block.copy_from_slice(&noise.float(1.0).to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&f32_to_bf16(noise.float(1.0)).to_le_bytes()),
            _ => {}
        }
    }
    bytes
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn product(
    kernels: Kernels,
    pool: &dyn Parallel,
    x: &mut Activations,
    weights: Matrix<'_>,
    bias: &[f32],
) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.tokens() * weights.rows()];
    if !weights.format().is_float() {
        kernels.quantize(pool, x);
    }
    let bias = (!bias.is_empty()).then_some(bias);
    kernels.matmul(pool, x, &mut [Product { weights, bias, out: &mut out }]);
    out
}

fn activations(tokens: usize, columns: usize, values: &[f32]) -> Activations {
    let mut x = Activations::new();
    x.reset(tokens, columns);
    x.values_mut().copy_from_slice(&values[..tokens * columns]);
    x
}

fn widths(format: Format) -> Vec<usize> {
    let block = format.block_columns();
    match block {
        // Floats: around the sixteen lanes, and odd tails.
        1 => vec![1, 15, 16, 17, 31, 33, 172, 256],
        _ => vec![block, 2 * block, 5 * block],
    }
}

#[test]
fn products_have_the_same_bits_for_every_format_layout_and_shape() {
    let mut noise = Noise(1);
    for kernels in variants() {
        for format in Format::all() {
            for columns in widths(format) {
                for rows in ROWS {
                    let row_bytes = format.row_bytes(columns).unwrap();
                    let mut bytes = vec![0u8];
                    bytes.extend(random_blocks(format, rows * columns / format.block_columns(), &mut noise));
                    let packed = packed(format, rows, columns, &bytes[1..]);
                    let bias = noise.floats(rows, 1.0);
                    for size in [1.0, 0.0, 1e-41, 1e30] {
                        let values = noise.floats(65 * columns, size);
                        for tokens in TOKENS {
                            let mut x = activations(tokens, columns, &values);
                            // One byte off, so that nothing is aligned.
                            let plain = Matrix::new(
                                format,
                                Layout::Rows,
                                rows,
                                columns,
                                &bytes[1..][..rows * row_bytes],
                            );
                            let plain = plain.unwrap();
                            let expected = product(Kernels::PORTABLE, &Sequential, &mut x, plain, &bias);
                            let mut x = activations(tokens, columns, &values);
                            let found = product(kernels, &Sequential, &mut x, plain, &bias);
                            let what = format!(
                                "{} {rows} x {columns}, {tokens} tokens of size {size}",
                                format.name()
                            );
                            assert_eq!(bits(&found), bits(&expected), "{}: {what}", kernels.name());
                            if let Some(packed) = &packed {
                                let panels =
                                    Matrix::new(format, Layout::Panels, rows, columns, &packed[1..]).unwrap();
                                for set in [Kernels::PORTABLE, kernels] {
                                    let found = product(set, &Sequential, &mut x, panels, &bias);
                                    assert_eq!(
                                        bits(&found),
                                        bits(&expected),
                                        "{} panels: {what}",
                                        set.name()
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The panels of a matrix behind one byte of padding.
fn packed(format: Format, rows: usize, columns: usize, bytes: &[u8]) -> Option<Vec<u8>> {
    let panel = pack::panel_bytes(format, columns)?;
    let mut out = vec![0; 1 + pack::packed_bytes(format, rows, columns)?];
    let strip = PANEL_ROWS * format.row_bytes(columns)?;
    for (rows, out) in bytes.chunks(strip).zip(out[1..].chunks_exact_mut(panel)) {
        pack::pack_panel(format, columns, rows, out);
    }
    Some(out)
}

#[test]
fn panels_decode_to_the_rows_they_were_packed_from() {
    let mut noise = Noise(2);
    for format in Format::all().filter(|format| format.has_panels()) {
        let (rows, columns) = (11, 3 * format.block_columns());
        let bytes = random_blocks(format, rows * 3, &mut noise);
        let panels = packed(format, rows, columns, &bytes).unwrap();
        let plain = Matrix::new(format, Layout::Rows, rows, columns, &bytes).unwrap();
        let panels = Matrix::new(format, Layout::Panels, rows, columns, &panels[1..]).unwrap();
        for row in 0..rows {
            let (mut a, mut b) = (vec![0.0; columns], vec![1.0; columns]);
            plain.decode_row(row, &mut a);
            panels.decode_row(row, &mut b);
            assert_eq!(bits(&a), bits(&b), "{} row {row}", format.name());
        }
    }
}

#[test]
fn quantised_products_are_near_the_exact_ones() {
    let mut noise = Noise(3);
    for format in Format::all() {
        let (rows, columns) = (9, 512);
        let bytes = random_blocks(format, rows * columns / format.block_columns(), &mut noise);
        let mut x = activations(2, columns, &noise.floats(2 * columns, 1.0));
        let weights = Matrix::new(format, Layout::Rows, rows, columns, &bytes).unwrap();
        let found = product(Kernels::PORTABLE, &Sequential, &mut x, weights, &[]);
        for token in 0..2 {
            for row in 0..rows {
                let mut decoded = vec![0.0; columns];
                weights.decode_row(row, &mut decoded);
                let values = &x.values()[token * columns..][..columns];
                let exact: f64 = decoded.iter().zip(values).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let size: f64 = decoded.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
                // Each code is off by half a step of 1/127 of its block's largest value, here below 10.
                let bound = if format.is_float() { 1e-5 } else { 0.04 } * size * 10.0;
                let error = (f64::from(found[token * rows + row]) - exact).abs();
                assert!(error <= bound, "{}: {error} > {bound}", format.name());
            }
        }
    }
}

#[test]
fn tokens_threads_and_neighbours_do_not_change_a_bit() {
    let mut noise = Noise(4);
    for kernels in Kernels::available() {
        for format in [Format::Q4_0, Format::Q6K, Format::F16] {
            let (rows, columns, tokens) = (203, 1024, 37);
            let bytes = random_blocks(format, rows * columns / format.block_columns(), &mut noise);
            let weights = Matrix::new(format, Layout::Rows, rows, columns, &bytes).unwrap();
            let values = noise.floats(tokens * columns, 1.0);
            let expected =
                product(kernels, &Sequential, &mut activations(tokens, columns, &values), weights, &[]);
            for threads in [1, 2, 5] {
                let pool = Pool::new(threads);
                let found = product(kernels, &pool, &mut activations(tokens, columns, &values), weights, &[]);
                assert_eq!(bits(&found), bits(&expected));
            }
            for token in 0..tokens {
                let one = &values[token * columns..];
                let found = product(kernels, &Sequential, &mut activations(1, columns, one), weights, &[]);
                assert_eq!(bits(&found), bits(&expected[token * rows..][..rows]));
            }
        }
    }
}

#[test]
fn rows_are_normed_activated_and_rotated_to_the_same_bits() {
    let mut noise = Noise(5);
    for kernels in variants() {
        for length in [1, 7, 8, 9, 15, 16, 17, 64, 172, 257] {
            for size in [1.0, 0.0, 1e-30, 1e15, 60.0] {
                let x = noise.floats(length, size);
                let y = noise.floats(length, 1.0);
                let both = |operation: &dyn Fn(Kernels, &mut Vec<f32>)| {
                    let (mut a, mut b) = (x.clone(), x.clone());
                    operation(Kernels::PORTABLE, &mut a);
                    operation(kernels, &mut b);
                    assert_eq!(bits(&a), bits(&b), "{} {length} values of size {size}", kernels.name());
                };
                both(&|k, x| k.rms_norm(&x.clone(), &y, 1e-5, x));
                both(&|k, x| k.swiglu(x, &y));
                both(&|k, x| k.geglu(x, &y));
                both(&|k, x| k.softmax(x));
                both(&|k, x| k.add(x, &y));
                both(&|k, x| k.scale(x, 0.37));
            }
        }
    }
}

/// Keys and values of `tokens` positions in pages.
fn pages(kernels: Kernels, shape: &KvShape, tokens: usize, noise: &mut Noise) -> Vec<Vec<u8>> {
    let mut pages = vec![vec![0u8; shape.page_bytes()]; tokens.div_ceil(KV_PAGE_TOKENS)];
    let width = shape.kv_heads * shape.head_width;
    for position in 0..tokens {
        let (keys, values) = (noise.floats(width, 1.0), noise.floats(width, 1.0));
        kernels.kv_store(
            shape,
            &mut pages[position / KV_PAGE_TOKENS],
            position % KV_PAGE_TOKENS,
            &keys,
            &values,
        );
    }
    pages
}

#[test]
fn attention_has_the_same_bits_for_every_cache_type_width_and_range() {
    let mut noise = Noise(6);
    let pool = Pool::new(2);
    for kernels in variants() {
        for kind in [KvKind::F32, KvKind::F16, KvKind::Q8_0] {
            for (kv_heads, ratio, head_width) in [
                (2, 1, 8),
                (1, 3, 16),
                (2, 4, 32),
                (1, 8, 64),
                (1, 2, 80),
                (2, 1, 96),
                (1, 4, 128),
                (1, 1, 256),
                (1, 1, 12),
            ] {
                if kind.head_bytes(head_width).is_none() {
                    continue;
                }
                let shape = KvShape { kind, kv_heads, head_width };
                let pages = pages(kernels, &shape, 97, &mut noise);
                let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
                let query = noise.floats(kv_heads * ratio * head_width, 1.0);
                let ranges =
                    [(0, 1), (0, 31), (0, 32), (0, 33), (5, 64), (31, 33), (32, 65), (0, 97), (90, 97)];
                let queries: Vec<AttentionQuery<'_>> = ranges
                    .iter()
                    .map(|&(first, end)| AttentionQuery { query: &query, pages: &pages, first, end })
                    .collect();
                let scale = 1.0 / (head_width as f32).sqrt();
                let job = AttentionJob { shape, heads: kv_heads * ratio, scale, queries: &queries };
                let mut expected = vec![0.0; queries.len() * query.len()];
                Kernels::PORTABLE.attention(&Sequential, &job, &mut expected);
                let mut found = vec![f32::NAN; expected.len()];
                kernels.attention(&pool, &job, &mut found);
                assert_eq!(
                    bits(&found),
                    bits(&expected),
                    "{kind:?} {kv_heads}x{ratio} heads of {head_width}"
                );
            }
        }
    }
}

#[test]
fn attention_is_the_softmax_of_scores_over_values() {
    let mut noise = Noise(7);
    let shape = KvShape { kind: KvKind::F32, kv_heads: 1, head_width: 16 };
    let pages = pages(Kernels::PORTABLE, &shape, 70, &mut noise);
    let at = |position: usize, values: usize| -> Vec<f64> {
        let start = (values * KV_PAGE_TOKENS + position % KV_PAGE_TOKENS) * 64;
        let row = &pages[position / KV_PAGE_TOKENS][start..start + 64];
        row.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    let query = noise.floats(16, 1.0);
    let scores: Vec<f64> = (3..70)
        .map(|position| {
            at(position, 0).iter().zip(&query).map(|(k, q)| k * f64::from(*q)).sum::<f64>() * 0.25
        })
        .collect();
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let slices: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
    let queries = [AttentionQuery { query: &query, pages: &slices, first: 3, end: 70 }];
    let mut out = vec![0.0; 16];
    let job = AttentionJob { shape, heads: 1, scale: 0.25, queries: &queries };
    Kernels::PORTABLE.attention(&Sequential, &job, &mut out);
    for (column, found) in out.iter().enumerate() {
        let exact: f64 = scores
            .iter()
            .enumerate()
            .map(|(index, score)| (score - largest).exp() / sum * at(3 + index, 1)[column])
            .sum();
        assert!((f64::from(*found) - exact).abs() < 1e-5, "column {column}: {found} instead of {exact}");
    }
}

#[test]
fn wrong_lengths_are_refused_with_the_numbers() {
    let error = Matrix::new(Format::Q4_0, Layout::Rows, 2, 64, &[0; 71]).err().unwrap().to_string();
    assert!(error.contains("72 bytes") && error.contains("71"), "{error}");
    assert!(Matrix::new(Format::Q4_0, Layout::Rows, 2, 33, &[0; 72]).is_err());
    assert!(Matrix::new(Format::Q5K, Layout::Panels, 8, 256, &[0; 1408]).is_err());
    assert!(Matrix::new(Format::F32, Layout::Rows, usize::MAX, 2, &[]).is_err());
    assert!(Kernels::named("quantum").unwrap_err().to_string().contains("portable"));
}
