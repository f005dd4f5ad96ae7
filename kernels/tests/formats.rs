//! Decoding gives the bits of the reference for every block format.

use std::collections::HashMap;
use std::path::PathBuf;

use kwaainet_kernels::{Activations, Format, Kernels, Layout, Matrix, Product, Sequential, decode};

/// The tensors of the quantised golden blocks, as bytes; `None` (and a line that says so) where they aren't
/// there.
fn blocks(test: &str) -> Option<HashMap<String, Vec<u8>>> {
    let root = std::env::var_os("KWAAINET_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let Ok(bytes) = std::fs::read(root.join("models/quant/blocks.safetensors")) else {
        println!("skipped: {test}: no ../shared");
        return None;
    };
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let head = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
    let mut tensors = HashMap::new();
    // The head is flat: {"NAME":{"dtype":..,"shape":[..],"data_offsets":[a,b]},...}
    for piece in head.split("\":{").skip(1) {
        let Some(offsets) = piece.split("\"data_offsets\":[").nth(1) else { continue };
        let numbers: Vec<usize> =
            offsets.split(']').next().unwrap().split(',').map(|n| n.trim().parse().unwrap()).collect();
        let before = &head[..piece.as_ptr() as usize - head.as_ptr() as usize - 3];
        let name = before.rsplit('"').next().unwrap();
        tensors.insert(name.to_owned(), bytes[8 + length + numbers[0]..8 + length + numbers[1]].to_vec());
    }
    Some(tensors)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_format_decodes_to_the_reference_bits() {
    let Some(tensors) = blocks("formats") else { return };
    let mut seen = 0;
    for format in Format::all() {
        let Some(raw) = tensors.get(&format!("{}.raw", format.name())) else { continue };
        let expected = floats(&tensors[&format!("{}.f32", format.name())]);
        let mut found = vec![0.0; expected.len()];
        decode(format, raw, &mut found);
        let equal = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        println!("{:7} {} values bit-exact: {equal}", format.name(), expected.len());
        assert!(equal, "{}", format.name());
        seen += 1;
    }
    assert_eq!(seen, 14, "formats in the golden file");
}

#[test]
fn dot_products_are_the_reference_ones() {
    let Some(tensors) = blocks("dot products") else { return };
    let x = floats(&tensors["x"]);
    for format in Format::all() {
        let Some(raw) = tensors.get(&format!("{}.raw", format.name())) else { continue };
        let expected = floats(&tensors[&format!("{}.dot", format.name())]);
        let weights = Matrix::new(format, Layout::Rows, 16, 256, raw).unwrap();
        for kernels in Kernels::available() {
            let mut activations = Activations::new();
            activations.reset(1, 256);
            activations.values_mut().copy_from_slice(&x);
            kernels.quantize(&Sequential, &mut activations);
            let mut out = vec![0.0; 16];
            kernels.matmul(&Sequential, &activations, &mut [Product { weights, bias: None, out: &mut out }]);
            for (row, (found, expected)) in out.iter().zip(&expected).enumerate() {
                let mut decoded = vec![0.0; 256];
                weights.decode_row(row, &mut decoded);
                let size = decoded.iter().map(|w| w * w).sum::<f32>().sqrt();
                // Codes of activations are off by half of 1/127 of the block's largest value.
                let step = x.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 254.0;
                let bound = if format.is_float() { 1e-4 * size } else { size * step * 3.0 };
                assert!((found - expected).abs() <= bound, "{} row {row}: {found} {expected}", format.name());
            }
        }
    }
}

#[test]
fn the_table_of_formats_is_in_the_order_of_the_enum_and_names_lead_back() {
    for (index, format) in Format::all().enumerate() {
        assert_eq!(format as usize, index);
        assert_eq!(Format::from_ggml(format.ggml_id()), Some(format));
        assert_eq!(Format::from_name(&format.name().to_lowercase()), Some(format));
        assert_eq!(format.row_bytes(format.block_columns()), Some(format.block_bytes()));
    }
    assert_eq!(Format::from_name("q4k"), Some(Format::Q4K));
    assert_eq!(Format::from_ggml(4), None);
}
