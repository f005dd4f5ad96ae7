//! The models give the reference's numbers: every family, from both kinds of file, with every kernel set.
//!
//! Run with `--nocapture` for the table of differences.

mod common;

use common::*;
use kwaainet_engine::engine::{Engine, EngineOptions, Input, Run, Wanted};
use kwaainet_engine::weights::Quantize;
use kwaainet_kernels::Kernels;
use std::path::Path;

/// Logits of any f32 engine agree with the goldens within this (models/README.md).
const TOLERANCE: f32 = 1e-3;

/// Model, file or folder of its exact weights, its golden.
const EXACT: &[(&str, &str, &str)] = &[
    ("stories260k hf", "stories260k/hf", "stories260k/golden"),
    ("stories260k hf sharded", "stories260k/hf-sharded", "stories260k/golden"),
    ("stories260k gguf f32", "stories260k/stories260k-f32.gguf", "stories260k/golden"),
    ("tales4m hf bf16", "tales4m/hf-sharded", "tales4m/golden"),
    ("tales4m hf bf16 chat", "tales4m/hf-sharded", "tales4m/golden-chat"),
    ("llama32 hf", "tiny/llama32", "tiny/llama32/golden"),
    ("llama32 gguf", "tiny/llama32/llama32-f32.gguf", "tiny/llama32/golden"),
    ("llama31 hf", "tiny/llama31", "tiny/llama31/golden"),
    ("llama31 gguf", "tiny/llama31/llama31-bf16.gguf", "tiny/llama31/golden"),
    ("tinyllama hf", "tiny/tinyllama", "tiny/tinyllama/golden"),
    ("tinyllama gguf", "tiny/tinyllama/tinyllama-f16.gguf", "tiny/tinyllama/golden"),
    ("smollm2 hf", "tiny/smollm2", "tiny/smollm2/golden"),
    ("smollm2 gguf", "tiny/smollm2/smollm2-bf16.gguf", "tiny/smollm2/golden"),
    ("qwen2 hf", "tiny/qwen2", "tiny/qwen2/golden"),
    ("qwen2 gguf", "tiny/qwen2/qwen2-f32.gguf", "tiny/qwen2/golden"),
    ("qwen3 hf", "tiny/qwen3", "tiny/qwen3/golden"),
    ("qwen3 gguf", "tiny/qwen3/qwen3-f32.gguf", "tiny/qwen3/golden"),
    ("mistral hf", "tiny/mistral", "tiny/mistral/golden"),
    // A llama-type GGUF holds no sliding window, so only the short golden applies.
    ("mistral gguf", "tiny/mistral/mistral-bf16.gguf", "tiny/mistral/golden-short"),
    ("gemma3 hf", "tiny/gemma3", "tiny/gemma3/golden"),
    ("gemma3 gguf", "tiny/gemma3/gemma3-bf16.gguf", "tiny/gemma3/golden"),
    ("phi3 hf", "tiny/phi3", "tiny/phi3/golden"),
    ("phi3 gguf", "tiny/phi3/phi3-f16.gguf", "tiny/phi3/golden"),
];

/// Quantised files whose goldens are f32 arithmetic on decoded weights.
const QUANTISED: &[(&str, &str)] = &[
    ("stories260k f16", "stories260k/stories260k-f16"),
    ("stories260k q8_0", "stories260k/stories260k-q8_0"),
    ("stories260k q4_0", "stories260k/stories260k-q4_0"),
    ("tales4m q8_0", "tales4m/tales4m-q8_0"),
    ("tales4m q4_0", "tales4m/tales4m-q4_0"),
    ("tales4m q4_k_m", "tales4m/tales4m-q4_k_m"),
    ("tales4m q5_k_m", "tales4m/tales4m-q5_k_m"),
    ("tales4m q2_k", "tales4m/tales4m-q2_k"),
    ("llama32 q8_0", "tiny/llama32/llama32-q8_0"),
    ("llama32 q4_0", "tiny/llama32/llama32-q4_0"),
    ("qwen2 q8_0", "tiny/qwen2/qwen2-q8_0"),
    ("qwen2 q4_0", "tiny/qwen2/qwen2-q4_0"),
    ("qwen3 q8_0", "tiny/qwen3/qwen3-q8_0"),
    ("qwen3 q4_0", "tiny/qwen3/qwen3-q4_0"),
];

/// Logits of every row of `prompt`.
fn all_logits(engine: &mut Engine, prompt: &[u32]) -> Vec<f32> {
    let session = engine.open_session(prompt.len()).expect("room");
    let run = Run { session, input: Input::Tokens(prompt), wanted: Wanted::All };
    let logits = engine.forward(&[run]).expect("a pass").to_vec();
    engine.close_session(session);
    logits
}

/// Runs each block alone on the golden output of the one before; gives the largest difference, relative to
/// the row's size.
fn worst_block(path: &Path, options: &EngineOptions, blocks: usize, hidden: usize, golden: &Golden) -> f32 {
    let mut worst = 0f32;
    for block in 0..blocks {
        let alone = EngineOptions {
            blocks: Some(block..block + 1),
            embedding: false,
            head: false,
            ..options.clone()
        };
        let mut engine = open(path.to_path_buf(), alone);
        let input = match block {
            0 => golden.get("hidden.embed"),
            _ => golden.get(&format!("hidden.block.{}", block - 1)),
        };
        let session = engine.open_session(input.len() / hidden).expect("room");
        let run = Run { session, input: Input::Hidden(input), wanted: Wanted::All };
        let expected = golden.get(&format!("hidden.block.{block}"));
        let largest = expected.iter().fold(1f32, |most, value| most.max(value.abs()));
        worst = worst.max(distance(engine.forward(&[run]).expect("a pass"), expected) / largest);
    }
    worst
}

/// The sets to run: the one that `KWAAINET_KERNELS` forces, which keeps an emulated run short, or every one.
fn sets() -> Vec<Kernels> {
    match std::env::var_os("KWAAINET_KERNELS") {
        Some(_) => vec![Kernels::from_environment().expect("the set that is forced runs here")],
        None => Kernels::available().collect(),
    }
}

#[test]
fn every_family_gives_the_reference_logits_from_both_kinds_of_file_with_every_kernel_set() {
    let Some(models) = models("golden") else { return };
    for kernels in sets() {
        for (name, file, golden) in EXACT {
            let golden = Golden::read(models.join(format!("{golden}.safetensors")));
            let options = options(kernels, Quantize::Keep);
            let mut engine = open(models.join(file), options.clone());
            let (blocks, hidden) = (engine.spec().blocks, engine.spec().hidden);
            let prompt = golden.ids("prompt_ids");
            let difference = distance(&all_logits(&mut engine, &prompt), golden.get("logits"));
            let block = worst_block(&models.join(file), &options, blocks, hidden, &golden);
            let expected = golden.ids("greedy_ids");
            let found = greedy(&mut engine, &prompt, expected.len());
            let equal = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            println!(
                "{:9} {name:24} logits {difference:.2e}  blocks {block:.2e}  tokens {equal}/{}",
                kernels.name(),
                expected.len()
            );
            assert!(difference < TOLERANCE, "{name}: logits differ by {difference}");
            assert!(block < TOLERANCE, "{name}: a block's output differs by {block}");
            assert_eq!(found, expected, "{name}: other tokens");
        }
    }
}

#[test]
fn quantised_files_decoded_to_f32_give_the_reference_logits() {
    let Some(models) = models("quantised golden") else { return };
    for kernels in sets() {
        for (name, file) in QUANTISED {
            let golden = Golden::read(models.join(format!("{file}.golden.safetensors")));
            let parent = Path::new(file).parent().expect("a folder");
            let prompt = Golden::read(models.join(parent).join("golden.safetensors")).ids("prompt_ids");
            let mut engine = open(models.join(format!("{file}.gguf")), options(kernels, Quantize::F32));
            let logits = all_logits(&mut engine, &prompt);
            let last = &logits[logits.len() - engine.row_width()..];
            let difference = distance(last, golden.get("logits.last"));
            let expected = golden.ids("greedy_ids");
            let found = greedy(&mut engine, &prompt, expected.len());
            let equal = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            println!(
                "{:9} {name:24} logits {difference:.2e}  tokens {equal}/{}",
                kernels.name(),
                expected.len()
            );
            assert!(difference < TOLERANCE, "{name}: logits differ by {difference}");
            assert_eq!(found, expected, "{name}: other tokens");
        }
    }
}

#[test]
fn activations_of_eight_bits_leave_the_text_of_the_real_model_as_it_is() {
    let Some(models) = models("quantised text") else { return };
    for kernels in sets() {
        for (name, file) in QUANTISED.iter().filter(|(name, _)| name.starts_with("tales4m")) {
            let golden = Golden::read(models.join(format!("{file}.golden.safetensors")));
            let prompt = Golden::read(models.join("tales4m/golden.safetensors")).ids("prompt_ids");
            let mut engine = open(models.join(format!("{file}.gguf")), options(kernels, Quantize::Keep));
            let logits = all_logits(&mut engine, &prompt);
            let last = &logits[logits.len() - engine.row_width()..];
            let difference = distance(last, golden.get("logits.last"));
            let expected = golden.ids("greedy_ids");
            let found = greedy(&mut engine, &prompt, expected.len());
            let equal = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            println!(
                "{:9} {name:24} logits {difference:.2e}  tokens {equal}/{} (8-bit activations)",
                kernels.name(),
                expected.len()
            );
            assert_eq!(found, expected, "{name}: other tokens");
        }
    }
}

#[test]
fn a_split_model_gives_the_bits_of_the_whole() {
    let Some(models) = models("split") else { return };
    let path = models.join("stories260k/gguf-split/stories260k-q8_0-00002-of-00003.gguf");
    let base =
        EngineOptions { kv: kwaainet_kernels::KvKind::F16, ..options(Kernels::detect(), Quantize::Keep) };
    let whole_file = models.join("stories260k/stories260k-q8_0.gguf");
    let mut whole = open(whole_file, base.clone());
    let prompt = [1, 403, 407, 261, 378];
    let expected = all_logits(&mut whole, &prompt);
    for cuts in [vec![0, 2, 5], vec![0, 1, 4, 5], vec![0, 1, 2, 3, 4, 5]] {
        let mut rows: Vec<f32> = Vec::new();
        for part in cuts.windows(2) {
            let (first, last) = (part[0] == 0, part[1] == 5);
            let options = EngineOptions {
                blocks: Some(part[0]..part[1]),
                embedding: first,
                head: last,
                ..base.clone()
            };
            let mut stage = open(path.clone(), options);
            let session = stage.open_session(8).expect("room");
            let input = if first { Input::Tokens(&prompt) } else { Input::Hidden(&rows) };
            rows = stage.forward(&[Run { session, input, wanted: Wanted::All }]).expect("a pass").to_vec();
        }
        assert_eq!(rows, expected, "cuts {cuts:?}");
    }
}

#[test]
fn batches_chunks_and_threads_do_not_change_a_bit() {
    let Some(models) = models("batches") else { return };
    let path = models.join("tales4m/tales4m-q4_k_m.gguf");
    let golden = Golden::read(models.join("tales4m/golden-chat.safetensors"));
    let prompt = golden.ids("prompt_ids");
    let base =
        EngineOptions { kv: kwaainet_kernels::KvKind::F16, ..options(Kernels::detect(), Quantize::Keep) };
    let expected = all_logits(&mut open(path.clone(), base.clone()), &prompt);
    for threads in [1, 3] {
        let mut engine = open(path.clone(), EngineOptions { threads, ..base.clone() });
        // Two sessions in step, one of them a token behind, chunks of uneven length.
        let a = engine.open_session(64).expect("room");
        let b = engine.open_session(64).expect("room");
        let (mut rows_a, mut rows_b) = (Vec::new(), Vec::new());
        let width = engine.row_width();
        for chunk in prompt.chunks(3) {
            let first = Run { session: a, input: Input::Tokens(chunk), wanted: Wanted::All };
            let mut runs = vec![first];
            if rows_b.len() < prompt.len() {
                let next = &prompt[rows_b.len() / width..][..1];
                runs.push(Run { session: b, input: Input::Tokens(next), wanted: Wanted::All });
            }
            let out = engine.forward(&runs).expect("a pass");
            rows_a.extend_from_slice(&out[..chunk.len() * width]);
            rows_b.extend_from_slice(&out[chunk.len() * width..]);
        }
        assert_eq!(rows_a, expected, "{threads} threads, chunks");
        assert!(!rows_b.is_empty());
        assert_eq!(rows_b, expected[..rows_b.len()], "{threads} threads, beside another session");
    }
}
