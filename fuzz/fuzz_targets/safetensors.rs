//! Any bytes as a SafeTensors file: every tensor lies inside it, and no two share a byte.

#![no_main]

use kwaainet_engine::files::safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = safetensors::parse_header("fuzz", bytes) else { return };
    let mut covered = header.header_bytes;
    for tensor in &header.tensors {
        let data = &bytes[tensor.offset as usize..][..tensor.bytes as usize];
        covered += data.len() as u64;
        if let Some(format) = tensor.format {
            let elements: u64 = tensor.shape.iter().product();
            assert_eq!(elements * format.block_bytes() as u64, tensor.bytes);
        }
    }
    assert_eq!(covered, bytes.len() as u64);
});
