//! Decoding and dot products against blocks that another implementation decoded.

mod support;

use kwaainet_kernels::{Format, Kernels, Layout, Matrix, decode};
use support::{activations, assert_same_bits, floats, product, shared, tensor};

const FILE: &str = "models/quant/blocks.safetensors";
const ROWS: usize = 16;
const COLUMNS: usize = 256;

fn formats() -> impl Iterator<Item = Format> {
    Format::all().filter(|format| *format != Format::F32)
}

#[test]
fn every_format_decodes_to_the_golden_bits() {
    let Some(file) = shared("every_format_decodes_to_the_golden_bits", FILE) else { return };
    for format in formats() {
        let raw = tensor(&file, &format!("{}.raw", format.name()));
        let mut out = vec![0.0; ROWS * COLUMNS];
        decode(format, raw, &mut out);
        assert_same_bits(&out, &floats(&file, &format!("{}.f32", format.name())), &format.name());
    }
}

#[test]
fn decoded_weights_give_the_golden_dot_products() {
    let Some(file) = shared("decoded_weights_give_the_golden_dot_products", FILE) else { return };
    let x = activations(1, COLUMNS, &floats(&file, "x"));
    for format in formats() {
        let (decoded, dots) = (format!("{}.f32", format.name()), format!("{}.dot", format.name()));
        let matrix = Matrix::new(Format::F32, Layout::Rows, ROWS, COLUMNS, tensor(&file, &decoded)).unwrap();
        let out = product(Kernels::PORTABLE, &x, matrix, None);
        for (row, (found, wanted)) in out.iter().zip(floats(&file, &dots)).enumerate() {
            let weights = &floats(&file, &decoded)[row * COLUMNS..][..COLUMNS];
            let size: f32 = weights.iter().zip(x.values()).map(|(w, x)| (w * x).abs()).sum();
            assert!((found - wanted).abs() <= 1e-6 * size, "{} row {row}: {found}, {wanted}", format.name());
        }
    }
}

/// Every activation is off by at most half its block's scale, so a dot product by at most the sum of that
/// times the weights' sizes; float formats are not quantised and hold to rounding.
#[test]
fn weights_as_stored_give_the_golden_dot_products_within_the_bound_of_8_bit_activations() {
    let name = "weights_as_stored_give_the_golden_dot_products_within_the_bound_of_8_bit_activations";
    let Some(file) = shared(name, FILE) else { return };
    let x = activations(1, COLUMNS, &floats(&file, "x"));
    let scales = x.quantized().expect("they were quantised").1;
    for format in formats() {
        let raw = tensor(&file, &format!("{}.raw", format.name()));
        let matrix = Matrix::new(format, Layout::Rows, ROWS, COLUMNS, raw).unwrap();
        let out = product(Kernels::PORTABLE, &x, matrix, None);
        let decoded = floats(&file, &format!("{}.f32", format.name()));
        let dots = floats(&file, &format!("{}.dot", format.name()));
        for (row, (found, wanted)) in out.iter().zip(dots).enumerate() {
            let weights = &decoded[row * COLUMNS..][..COLUMNS];
            let size: f32 = weights.iter().zip(x.values()).map(|(w, x)| (w * x).abs()).sum();
            let half_steps = weights.iter().enumerate().map(|(k, w)| w.abs() * scales[k / 32] / 2.0);
            let bound = if format.is_float() { 0.0 } else { half_steps.sum() };
            let found_error = (found - wanted).abs();
            assert!(found_error <= bound + 1e-5 * size, "{} row {row}: {found}, {wanted}", format.name());
        }
    }
}
