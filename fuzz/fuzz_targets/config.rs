//! Any bytes as a `config.json`: what comes out is inside the limits.

#![no_main]

use kwaainet_engine::files::hugging_face;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(spec) = hugging_face::spec_from_config("fuzz", "fuzz", bytes) {
        spec.check("fuzz").expect("it was checked");
        for block in 0..spec.blocks {
            let _ = (spec.block_window(block), spec.block_rope(block));
        }
    }
});
