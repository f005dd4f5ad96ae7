//! Any bytes as a GGUF: the header, then the model's description, the roles and every tensor.

#![no_main]

use kwaainet_engine::files::{ModelFiles, Role, TokenizerSource, gguf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = gguf::parse_header("fuzz", bytes) else { return };
    for tensor in &header.tensors {
        // Inside the file, or this panics.
        let data = &bytes[tensor.offset as usize..][..tensor.bytes as usize];
        assert_eq!(data.len() as u64, tensor.bytes);
    }
    for entry in &header.metadata {
        let _ = (header.string(entry.key), header.unsigned(entry.key), header.float(entry.key));
        let _ = (header.strings(entry.key), header.floats(entry.key), header.integers(entry.key));
        let _ = entry.value.to_string();
    }
    let Ok(files) = ModelFiles::embedded("fuzz", bytes.to_vec()) else { return };
    assert!(matches!(files.tokenizer_source(), Ok(TokenizerSource::Gguf(_))));
    let spec = files.spec().clone();
    for block in 0..spec.blocks {
        use Role::{AttentionNorm, Down, Gate, Key, Query, Up, Value};
        for role in [Query, Key, Value, Gate, Up, Down, AttentionNorm] {
            let tensor = files.tensor(role, Some(block)).expect("the block exists").expect("it is required");
            assert_eq!((tensor.rows, tensor.columns), role.shape(&spec));
        }
        let _ = (spec.block_window(block), spec.block_rope(block), files.bytes_of(Some(block)));
    }
    let _ = (files.parameters(), files.tensors_total_bytes(), files.describe());
});
