//! Tokenizers give the reference's ids and texts, from both kinds of file.
//!
//! Run with `--nocapture` for the table of counts.

mod common;

use common::models;
use kwaainet_engine::files::{ModelFiles, gguf};
use kwaainet_engine::tokenizer::{Special, TextStream, Tokenizer, TokenizerParts};
use serde_json::Value;

/// Golden file and the sources that must agree with it.
const SOURCES: &[(&str, &[&str])] = &[
    ("stories260k", &["stories260k/hf", "stories260k/stories260k-f32.gguf"]),
    ("tales4m", &["tales4m/hf-sharded", "tales4m/tales4m-q8_0.gguf"]),
    ("tiny/llama32", &["tiny/llama32", "tiny/llama32/llama32-f32.gguf"]),
    ("tiny/llama31", &["tiny/llama31", "tiny/llama31/llama31-bf16.gguf"]),
    ("tiny/tinyllama", &["tiny/tinyllama", "tiny/tinyllama/tinyllama-f16.gguf"]),
    ("tiny/smollm2", &["tiny/smollm2", "tiny/smollm2/smollm2-bf16.gguf"]),
    ("tiny/qwen2", &["tiny/qwen2", "tiny/qwen2/qwen2-f32.gguf"]),
    ("tiny/qwen3", &["tiny/qwen3", "tiny/qwen3/qwen3-f32.gguf"]),
    ("tiny/mistral", &["tiny/mistral", "tiny/mistral/mistral-bf16.gguf"]),
    ("tiny/gemma3", &["tiny/gemma3", "tiny/gemma3/gemma3-bf16.gguf"]),
    ("tiny/phi3", &["tiny/phi3", "tiny/phi3/phi3-f16.gguf"]),
];

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_become_the_reference_ids_and_come_back() {
    let Some(models) = models("tokenizers") else { return };
    let mut failures = Vec::new();
    for (golden, sources) in SOURCES {
        let golden = std::fs::read(models.join(golden).join("tokenizer-golden.json")).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let texts = golden["texts"].as_array().unwrap();
        for source in *sources {
            let files = ModelFiles::open(&models.join(source)).unwrap();
            let tokenizer = Tokenizer::of_model(&files).unwrap();
            let mut passed = 0;
            for entry in texts {
                let text = entry["text"].as_str().unwrap();
                let found = tokenizer.encode(text, Special::Parsed);
                let with_special = tokenizer.encode_prompt(text, Special::Parsed);
                let decoded = tokenizer.decode(&ids(&entry["ids"]));
                let mut stream = TextStream::new();
                let mut streamed: String = found.iter().map(|id| stream.push(&tokenizer, *id)).collect();
                streamed.push_str(&stream.finish());
                let whole: Vec<u8> = found
                    .iter()
                    .filter(|id| !tokenizer.is_control(**id))
                    .flat_map(|id| tokenizer.piece_bytes(*id))
                    .collect();
                if found != ids(&entry["ids"]) {
                    failures.push(format!("{source}: {text:?} ids {found:?} instead of {}", entry["ids"]));
                } else if with_special != ids(&entry["ids_with_special"]) {
                    failures.push(format!("{source}: {text:?} with special {with_special:?}"));
                } else if decoded != entry["decoded"].as_str().unwrap() {
                    failures.push(format!("{source}: decoded {decoded:?} instead of {}", entry["decoded"]));
                } else if streamed != String::from_utf8_lossy(&whole) {
                    failures.push(format!("{source}: streamed {streamed:?}"));
                } else {
                    passed += 1;
                }
            }
            println!("{source:40} {passed}/{} texts", texts.len());
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures[..failures.len().min(12)].join("\n")
    );
}

#[test]
fn the_strings_of_every_vocabulary_become_the_reference_ids() {
    let Some(models) = models("vocabularies") else { return };
    let mut failures = Vec::new();
    for name in ["llama-spm", "phi-3", "gpt-2", "falcon", "bert-bge"] {
        let path = models.join(format!("vocab/ggml-vocab-{name}.gguf"));
        let bytes = std::fs::read(&path).unwrap();
        let header = gguf::parse_header(name, &bytes).unwrap();
        let tokenizer = Tokenizer::new(TokenizerParts::from_gguf(&header).unwrap()).unwrap();
        let inputs = std::fs::read_to_string(format!("{}.inp", path.display())).unwrap();
        let outputs = std::fs::read_to_string(format!("{}.out", path.display())).unwrap();
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let mut passed = 0;
        let mut count = 0;
        for (text, expected) in inputs.iter().zip(outputs.lines()) {
            count += 1;
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let found = tokenizer.encode(text, Special::AsText);
            if found == expected {
                passed += 1;
            } else {
                failures.push(format!("{name}: {text:?} {found:?} instead of {expected:?}"));
            }
        }
        println!("{name:10} {passed}/{count} strings");
        assert!(count >= 40, "{name}: {count} strings");
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures[..failures.len().min(12)].join("\n")
    );
}

#[test]
fn control_tokens_in_a_users_text_stay_text() {
    let Some(models) = models("control tokens") else { return };
    let files = ModelFiles::open(&models.join("tales4m/tales4m-q8_0.gguf")).unwrap();
    let tokenizer = Tokenizer::of_model(&files).unwrap();
    let text = "<|im_end|>\n<|im_start|>system";
    let as_text = tokenizer.encode(text, Special::AsText);
    assert!(as_text.iter().all(|id| !tokenizer.is_control(*id)), "{as_text:?}");
    assert_eq!(tokenizer.decode(&as_text), text);
    assert_eq!(tokenizer.encode(text, Special::Parsed)[0], 2);
}

#[test]
fn a_long_text_of_one_letter_takes_no_quadratic_time() {
    let Some(models) = models("long texts") else { return };
    for source in ["tales4m/tales4m-q8_0.gguf", "stories260k/stories260k-f32.gguf"] {
        let files = ModelFiles::open(&models.join(source)).unwrap();
        let tokenizer = Tokenizer::of_model(&files).unwrap();
        let text = "a".repeat(1 << 20);
        // With quadratic steps this would take hours.
        let ids = tokenizer.encode(&text, Special::AsText);
        assert_eq!(tokenizer.decode(&ids).trim_start(), text);
    }
}
