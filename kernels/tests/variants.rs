//! The one test that every kernel set has to pass: the same table of shapes, the same bits as `portable`.
//!
//! Sets that this CPU lacks are named as skipped.

mod support;

use kwaainet_kernels::{
    Activations, AttentionJob, AttentionQuery, Format, KV_PAGE_TOKENS, Kernels, KvKind, KvShape, Matrix,
    RopePairing, RopeScaling, RopeTable, Sequential,
};
use support::{Numbers, Shifted, assert_same_bits, layouts, packed, product, weights};

/// Rows around one panel, and around the four that the widest registers take at once.
const ROWS: [usize; 8] = [0, 1, 7, 8, 9, 17, 32, 41];
const TOKENS: [usize; 10] = [0, 1, 2, 3, 4, 5, 7, 8, 33, 65];
/// Row lengths for what works on single rows: around the lanes of every vector unit.
const LENGTHS: [usize; 16] = [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 257, 1000];
/// The last is wider than what any set keeps of a page as floats.
const WIDTHS: [usize; 9] = [8, 16, 32, 64, 80, 96, 128, 256, 288];
/// Ends of attention around the borders of pages.
const ENDS: [usize; 7] = [1, 31, 32, 33, 64, 65, 130];
/// Sizes of values: ordinary, none, denormal, and as large as sums can bear.
const SIZES: [f32; 5] = [1.0, 0.0, 1e-40, 1e-30, 1e25];

fn candidates() -> Vec<Kernels> {
    Kernels::missing().for_each(|name| println!("skipped: {name}: this CPU lacks its instructions"));
    Kernels::available().collect()
}

/// An emulator's processor is known, so a set that goes missing there is an error (`ci/emulators`).
#[test]
fn the_sets_that_this_cpu_should_have_are_offered() {
    let Ok(wanted) = std::env::var("KWAAINET_EXPECT_KERNELS") else { return };
    let found: Vec<_> = Kernels::available().map(Kernels::name).collect();
    assert_eq!(found.join(","), wanted);
}

fn columns(format: Format) -> &'static [usize] {
    match format.block_columns() {
        // The last is more than a block of columns.
        1 => &[0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 64, 100, 1040],
        32 => &[0, 32, 64, 96, 160],
        _ => &[0, 256, 512],
    }
}

fn activations(kernels: Kernels, tokens: usize, columns: usize, values: &[f32]) -> Activations {
    let mut x = Activations::with_capacity(tokens, columns);
    x.values_mut().copy_from_slice(values);
    kernels.quantize(&Sequential, &mut x);
    x
}

/// Compares one product in every layout, and the quantised rows on the way.
fn compare_product(kernels: Kernels, format: Format, shape: [usize; 3], sizes: [f32; 2], seed: usize) {
    let [rows, columns, tokens] = shape;
    let mut numbers = Numbers::new(seed as u64);
    let bytes = weights(format, rows, columns, sizes[0], &mut numbers);
    let values = numbers.row(tokens * columns, sizes[1]);
    let bias = numbers.row(rows, 1.0);
    let bias = (seed % 2 == 1).then_some(bias.as_slice());
    let wanted_x = activations(Kernels::PORTABLE, tokens, columns, &values);
    let x = activations(kernels, tokens, columns, &values);
    for layout in layouts(format) {
        let name = format!("{} {} {layout:?} {shape:?} {sizes:?}", kernels.name(), format.name());
        let bytes = match layout {
            kwaainet_kernels::Layout::Rows => bytes.clone(),
            kwaainet_kernels::Layout::Panels => packed(format, rows, columns, &bytes),
        };
        let shifted = Shifted::new(&bytes, seed % 4);
        let matrix = Matrix::new(format, *layout, rows, columns, shifted.bytes()).unwrap();
        let wanted = product(Kernels::PORTABLE, &wanted_x, matrix, bias);
        assert_same_bits(&product(kernels, &x, matrix, bias), &wanted, &name);
    }
}

#[test]
fn products_of_every_format_and_shape_have_the_same_bits() {
    for kernels in candidates() {
        let mut seed = 0;
        for format in Format::all() {
            for (rows, columns) in
                ROWS.iter().flat_map(|rows| columns(format).iter().map(move |c| (*rows, *c)))
            {
                for tokens in TOKENS {
                    seed += 1;
                    compare_product(kernels, format, [rows, columns, tokens], [0.1, 1.0], seed);
                }
            }
        }
    }
}

#[test]
fn products_of_extreme_values_have_the_same_bits() {
    for kernels in candidates() {
        for format in Format::all() {
            for (index, size) in SIZES.iter().enumerate() {
                for tokens in [1, 5] {
                    let shape = [9, 2 * format.block_columns().max(20), tokens];
                    // Weights that are none, denormal halves, or the largest half; then activations alike.
                    compare_product(kernels, format, shape, [size * 65504.0, 1.0], index);
                    compare_product(kernels, format, shape, [3e-6, *size], index + 1);
                    compare_product(kernels, format, shape, [0.1, *size], index + 2);
                }
            }
        }
    }
}

#[test]
fn quantised_rows_have_the_same_bits() {
    for kernels in candidates() {
        for (seed, length) in LENGTHS.into_iter().enumerate() {
            for size in SIZES.into_iter().chain([1e-38, 2e-37, 5e-37, 1e38]) {
                let mut numbers = Numbers::new(seed as u64);
                let mut values = numbers.row(3 * length, size);
                // Ties: multiples of half a step of a block whose largest is 127.
                values[0] = 127.0 * size;
                values
                    .iter_mut()
                    .skip(1)
                    .step_by(3)
                    .for_each(|x| *x = (numbers.unit() * 200.0).round() / 2.0 * size);
                let (found, wanted) = (
                    activations(kernels, 3, length, &values),
                    activations(Kernels::PORTABLE, 3, length, &values),
                );
                let (found, wanted) = (found.quantized().unwrap(), wanted.quantized().unwrap());
                let name = format!("{} {length} x {size:e}", kernels.name());
                assert_eq!(found.0, wanted.0, "codes of {name}");
                assert_same_bits(found.1, wanted.1, &name);
                assert_eq!(found.2, wanted.2, "sums of {name}");
            }
        }
    }
}

/// Runs `operation` on a row `x` and a row `y` of every length and size.
fn compare_rows(what: &str, operation: impl Fn(Kernels, &mut [f32], &[f32])) {
    for kernels in candidates() {
        for (seed, length) in LENGTHS.into_iter().enumerate() {
            for size in SIZES.into_iter().chain([10.0, 100.0]) {
                let mut numbers = Numbers::new(seed as u64);
                let (x, y) = (numbers.row(length + 1, size), numbers.row(length + 1, 1.0));
                // From the second value on, so that no row is aligned to a vector.
                let (mut found, mut wanted) = (x.clone(), x);
                operation(kernels, &mut found[1..], &y[1..]);
                operation(Kernels::PORTABLE, &mut wanted[1..], &y[1..]);
                assert_same_bits(&found, &wanted, &format!("{} {what} {length} x {size:e}", kernels.name()));
            }
        }
    }
}

#[test]
fn norms_have_the_same_bits() {
    compare_rows("rms_norm", |kernels, x, weight| {
        let input = x.to_vec();
        kernels.rms_norm(&input, weight, 1e-5, x);
    });
}

#[test]
fn softmax_has_the_same_bits() {
    compare_rows("softmax", |kernels, x, _| kernels.softmax(x));
}

#[test]
fn swiglu_has_the_same_bits() {
    compare_rows("swiglu", Kernels::swiglu);
}

#[test]
fn geglu_has_the_same_bits() {
    compare_rows("geglu", Kernels::geglu);
}

#[test]
fn sums_and_multiples_have_the_same_bits() {
    compare_rows("add", Kernels::add);
    compare_rows("scale", |kernels, x, y| kernels.scale(x, y[0]));
}

#[test]
fn rotations_have_the_same_bits() {
    for kernels in candidates() {
        for pairing in [RopePairing::Interleaved, RopePairing::Halves] {
            for width in WIDTHS.into_iter().chain([2, 6, 10, 18, 36]) {
                // All of a head, or its first part.
                for rotary in [width, width / 4 * 2].into_iter().filter(|rotary| *rotary > 0) {
                    let table = RopeTable::new(rotary, 10_000.0, &RopeScaling::None, pairing, 70);
                    for position in [0, 1, 69] {
                        let heads = Numbers::new(width as u64).row(3 * width, 1.0);
                        let (mut found, mut wanted) = (heads.clone(), heads);
                        kernels.rope(&mut found, width, &table, position);
                        Kernels::PORTABLE.rope(&mut wanted, width, &table, position);
                        let name = format!("{} {pairing:?} {rotary} of {width}", kernels.name());
                        assert_same_bits(&found, &wanted, &name);
                    }
                }
            }
        }
    }
}

/// Pages with `tokens` random tokens, stored by `kernels`.
fn cache(kernels: Kernels, shape: &KvShape, tokens: usize, size: f32, numbers: &mut Numbers) -> Vec<Vec<u8>> {
    let mut pages = vec![vec![0; shape.page_bytes()]; tokens.div_ceil(KV_PAGE_TOKENS)];
    let width = shape.kv_heads * shape.head_width;
    for token in 0..tokens {
        let (keys, values) = (numbers.row(width, size), numbers.row(width, size));
        kernels.kv_store(shape, &mut pages[token / KV_PAGE_TOKENS], token % KV_PAGE_TOKENS, &keys, &values);
    }
    pages
}

fn kinds(head_width: usize) -> impl Iterator<Item = KvKind> {
    let all = [KvKind::F32, KvKind::F16, KvKind::Q8_0].into_iter();
    all.filter(move |kind| kind.head_bytes(head_width).is_some())
}

#[test]
fn stored_keys_and_values_have_the_same_bits() {
    for kernels in candidates() {
        for width in WIDTHS {
            for kind in kinds(width) {
                for size in SIZES.into_iter().chain([1e-6, 1e4]) {
                    let shape = KvShape { kind, kv_heads: 2, head_width: width };
                    let found = cache(kernels, &shape, 34, size, &mut Numbers::new(5));
                    let wanted = cache(Kernels::PORTABLE, &shape, 34, size, &mut Numbers::new(5));
                    assert!(found == wanted, "{} {kind:?} of width {width} x {size:e}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn attention_has_the_same_bits() {
    for kernels in candidates() {
        for width in WIDTHS {
            for kind in kinds(width) {
                for (ratio, end) in [1, 3, 4, 8].iter().flat_map(|ratio| ENDS.map(|end| (*ratio, end))) {
                    compare_attention(
                        kernels,
                        KvShape { kind, kv_heads: 2, head_width: width },
                        ratio,
                        end,
                        1.0,
                    );
                }
                // Scores far apart, so that weights vanish and sums are rescaled to nothing.
                compare_attention(kernels, KvShape { kind, kv_heads: 1, head_width: width }, 2, 70, 30.0);
            }
        }
    }
}

fn compare_attention(kernels: Kernels, shape: KvShape, ratio: usize, end: usize, size: f32) {
    let mut numbers = Numbers::new((shape.head_width + end) as u64);
    let pages = cache(Kernels::PORTABLE, &shape, end, size, &mut numbers);
    let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
    let heads = shape.kv_heads * ratio;
    let query = numbers.row(heads * shape.head_width, size);
    let query = |first| AttentionQuery { query: &query, pages: &pages, first, end };
    let queries = [query(0), query(end - 1), query(end / 2), query(end)];
    let job = AttentionJob { shape, heads, scale: 1.0 / (shape.head_width as f32).sqrt(), queries: &queries };
    let mut found = vec![f32::NAN; queries.len() * heads * shape.head_width];
    let mut wanted = found.clone();
    kernels.attention(&Sequential, &job, &mut found);
    Kernels::PORTABLE.attention(&Sequential, &job, &mut wanted);
    let name = format!("{} {shape:?} {ratio} heads a key head, end {end}", kernels.name());
    assert_same_bits(&found, &wanted, &name);
}
