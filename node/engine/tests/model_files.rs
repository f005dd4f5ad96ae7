//! Every model in `../shared/models` opens, with the description and the shapes that it should have.

mod common;

use std::path::Path;

use common::models;
use kwaainet_engine::Error;
use kwaainet_engine::files::{ModelFiles, Role, Tensor, TokenizerSource};
use kwaainet_engine::spec::{Activation, ModelSpec, Rope};
use kwaainet_kernels::{Format, RopePairing, RopeScaling};

fn open(path: &Path) -> ModelFiles {
    ModelFiles::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rope(theta: f32, scaling: RopeScaling) -> Rope {
    Rope { theta, scaling }
}

/// What tiny models share, from which each row of the table differs by name.
fn tiny(architecture: &str) -> ModelSpec {
    ModelSpec {
        name: String::new(),
        architecture: architecture.to_owned(),
        hidden: 64,
        blocks: 4,
        vocabulary: 512,
        context_tokens: 512,
        heads: 4,
        kv_heads: 2,
        head_width: 16,
        feed_forward: 160,
        norm_epsilon: 1e-5,
        norm_weight_offset: 0.0,
        query_scale: 0.25,
        activation: Activation::SiluGated,
        embedding_scale: 1.0,
        rotary_width: 16,
        rope_pairing: RopePairing::Halves,
        rope: rope(1e4, RopeScaling::None),
        rope_local: None,
        window: None,
        window_pattern: 0,
        tied_head: false,
    }
}

fn llama3(factor: f32) -> RopeScaling {
    RopeScaling::Llama3 {
        factor,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context: 64.0,
    }
}

/// Folder, the description in Hugging Face form, GGUFs, ids that end a text.
fn table() -> Vec<(&'static str, ModelSpec, Vec<&'static str>, Vec<u32>)> {
    let eight = 1.0 / 8f32.sqrt();
    let stories = ModelSpec {
        blocks: 5,
        heads: 8,
        kv_heads: 4,
        head_width: 8,
        rotary_width: 8,
        query_scale: eight,
        feed_forward: 172,
        tied_head: true,
        ..tiny("llama")
    };
    let tales = ModelSpec {
        hidden: 256,
        blocks: 6,
        vocabulary: 2048,
        context_tokens: 1024,
        head_width: 64,
        rotary_width: 64,
        query_scale: 0.125,
        feed_forward: 512,
        tied_head: true,
        ..tiny("llama")
    };
    let llama32 =
        ModelSpec { feed_forward: 128, rope: rope(5e5, llama3(32.0)), tied_head: true, ..tiny("llama") };
    let llama31 = ModelSpec {
        heads: 8,
        head_width: 8,
        rotary_width: 8,
        query_scale: eight,
        rope: rope(5e5, llama3(8.0)),
        ..tiny("llama")
    };
    let tinyllama = ModelSpec { kv_heads: 1, ..tiny("llama") };
    let smollm2 = ModelSpec {
        hidden: 96,
        heads: 3,
        kv_heads: 1,
        head_width: 32,
        rotary_width: 32,
        query_scale: 1.0 / 32f32.sqrt(),
        feed_forward: 256,
        rope: rope(1e5, RopeScaling::None),
        tied_head: true,
        ..tiny("llama")
    };
    let mistral = ModelSpec { window: Some(16), ..tiny("mistral") };
    let qwen2 = ModelSpec {
        norm_epsilon: 1e-6,
        rope: rope(1e6, RopeScaling::None),
        tied_head: true,
        ..tiny("qwen2")
    };
    let qwen3 = ModelSpec {
        head_width: 32,
        rotary_width: 32,
        query_scale: 1.0 / 32f32.sqrt(),
        feed_forward: 128,
        norm_epsilon: 1e-6,
        rope: rope(1e6, RopeScaling::None),
        tied_head: true,
        ..tiny("qwen3")
    };
    let gemma3 = ModelSpec {
        blocks: 6,
        kv_heads: 1,
        feed_forward: 128,
        norm_epsilon: 1e-6,
        norm_weight_offset: 1.0,
        activation: Activation::GeluTanhGated,
        embedding_scale: 8.0,
        rope: rope(1e6, RopeScaling::None),
        rope_local: Some(rope(1e4, RopeScaling::None)),
        window: Some(8),
        window_pattern: 6,
        tied_head: true,
        ..tiny("gemma3")
    };
    let phi3 = ModelSpec { feed_forward: 128, ..tiny("phi3") };
    vec![
        (
            "stories260k/hf",
            stories.clone(),
            vec![
                "../stories260k-f32",
                "../stories260k-f16",
                "../stories260k-q8_0",
                "../stories260k-q4_0",
                "../gguf-split/stories260k-q8_0-00001-of-00003",
            ],
            vec![2],
        ),
        ("stories260k/hf-sharded", stories, vec![], vec![2]),
        (
            "tales4m/hf-sharded",
            tales,
            vec![
                "../tales4m-q8_0",
                "../tales4m-q4_0",
                "../tales4m-q4_k_m",
                "../tales4m-q5_k_m",
                "../tales4m-q2_k",
            ],
            vec![0, 2],
        ),
        ("tiny/llama32", llama32, vec!["llama32-f32", "llama32-q8_0", "llama32-q4_0"], vec![508, 511]),
        ("tiny/llama31", llama31, vec!["llama31-bf16"], vec![508, 511]),
        ("tiny/tinyllama", tinyllama, vec!["tinyllama-f16"], vec![2]),
        ("tiny/smollm2", smollm2, vec!["smollm2-bf16"], vec![511]),
        ("tiny/mistral", mistral, vec!["mistral-bf16"], vec![2]),
        ("tiny/qwen2", qwen2, vec!["qwen2-f32", "qwen2-q8_0", "qwen2-q4_0"], vec![511, 509]),
        ("tiny/qwen3", qwen3, vec!["qwen3-f32", "qwen3-q8_0", "qwen3-q4_0"], vec![511, 509]),
        ("tiny/gemma3", gemma3, vec!["gemma3-bf16"], vec![2]),
        ("tiny/phi3", phi3, vec!["phi3-f16"], vec![2]),
    ]
}

/// The factors by which llama3 scaling divides each frequency (what a GGUF stores as `rope_freqs.weight`).
fn llama3_factors(theta: f64, width: usize, scaling: &RopeScaling) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } =
        scaling
    else {
        panic!("{scaling:?} is not llama3")
    };
    let (factor, low, high) =
        (f64::from(*factor), f64::from(*low_frequency_factor), f64::from(*high_frequency_factor));
    let of_pair = |pair: usize| {
        let length = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / width as f64);
        let turns = f64::from(*original_context) / length;
        let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - share) / factor + share)) as f32
    };
    (0..width / 2).map(of_pair).collect()
}

#[test]
fn every_hugging_face_folder_opens_with_its_description() {
    let Some(models) = models("every_hugging_face_folder_opens_with_its_description") else { return };
    for (folder, spec, _, stop_ids) in table() {
        let path = models.join(folder);
        let files = open(&path);
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(*files.spec(), ModelSpec { name, ..spec }, "{folder}");
        assert_eq!(files.stop_ids(), stop_ids, "{folder}");
        let TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config } =
            files.tokenizer_source().unwrap()
        else {
            panic!("{folder} is a Hugging Face folder")
        };
        assert!(tokenizer_json.starts_with(b"{") && tokenizer_config.is_some(), "{folder}");
        assert_eq!(files.chat_template().is_some(), !folder.starts_with("stories"), "{folder}");
    }
}

#[test]
fn every_gguf_agrees_with_its_hugging_face_folder() {
    let Some(models) = models("every_gguf_agrees_with_its_hugging_face_folder") else { return };
    for (folder, spec, ggufs, stop_ids) in table() {
        for gguf in ggufs {
            let files = open(&models.join(folder).join(format!("{gguf}.gguf")));
            let mut expected = ModelSpec { name: files.spec().name.clone(), ..spec.clone() };
            expected.norm_weight_offset = 0.0; // GGUF stores Gemma's norms whole
            if ["llama", "mistral"].contains(&expected.architecture.as_str()) {
                expected.architecture = "llama".to_owned();
                expected.rope_pairing = RopePairing::Interleaved;
                expected.window = None; // has no key in files of this architecture
            }
            if let RopeScaling::Llama3 { .. } = expected.rope.scaling {
                let theta = f64::from(expected.rope.theta);
                let factors = llama3_factors(theta, expected.rotary_width, &expected.rope.scaling);
                expected.rope.scaling = RopeScaling::Factors(factors);
            }
            assert_eq!(*files.spec(), expected, "{gguf}");
            assert!(!files.spec().name.is_empty(), "{gguf}");
            // A GGUF may add control pieces that are known to end a text.
            let found = files.stop_ids();
            assert!(stop_ids.iter().all(|id| found.contains(id)), "{gguf}: {found:?}");
            assert!(found.len() <= stop_ids.len() + 1, "{gguf}: {found:?}");
            assert_eq!(files.chat_template().is_some(), !folder.starts_with("stories"), "{gguf}");
        }
    }
}

const INSIDE: [Role; 17] = [
    Role::AttentionNorm,
    Role::Query,
    Role::Key,
    Role::Value,
    Role::QueryBias,
    Role::KeyBias,
    Role::ValueBias,
    Role::QueryNorm,
    Role::KeyNorm,
    Role::AttentionOutput,
    Role::AttentionOutputBias,
    Role::PostAttentionNorm,
    Role::FeedForwardNorm,
    Role::Gate,
    Role::Up,
    Role::Down,
    Role::PostFeedForwardNorm,
];

fn every_role(spec: &ModelSpec) -> Vec<(Role, Option<usize>)> {
    let outside = [Role::Embedding, Role::OutputNorm, Role::Output].map(|role| (role, None));
    let inside = (0..spec.blocks).flat_map(|block| INSIDE.map(|role| (role, Some(block))));
    outside.into_iter().chain(inside).collect()
}

/// Decodes the float formats; others are compared elsewhere.
fn floats(tensor: &Tensor<'_>) -> Option<Vec<f32>> {
    let two = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    match tensor.format {
        Format::F32 => {
            let four = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            Some(tensor.bytes.chunks_exact(4).map(four).collect())
        }
        Format::BF16 => {
            let widen = |bytes: &[u8]| f32::from_bits(u32::from(two(bytes)) << 16);
            Some(tensor.bytes.chunks_exact(2).map(widen).collect())
        }
        Format::F16 => Some(tensor.bytes.chunks_exact(2).map(|bytes| f16_to_f32(two(bytes))).collect()),
        _ => None,
    }
}

fn f16_to_f32(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

#[test]
fn tensors_have_the_shapes_and_lengths_of_their_roles() {
    let Some(models) = models("tensors_have_the_shapes_and_lengths_of_their_roles") else { return };
    for (folder, _, ggufs, _) in table() {
        let paths = ggufs.iter().map(|gguf| format!("{folder}/{gguf}.gguf")).chain([folder.to_owned()]);
        for path in paths {
            let files = open(&models.join(&path));
            let spec = files.spec();
            let mut bytes = 0;
            for (role, block) in every_role(spec) {
                if let Some(tensor) = files.tensor(role, block).unwrap() {
                    assert_eq!((tensor.rows, tensor.columns), role.shape(spec), "{path} {role:?}");
                    let row_bytes = tensor.format.row_bytes(tensor.columns).unwrap();
                    assert_eq!(tensor.bytes.len(), tensor.rows * row_bytes, "{path} {role:?}");
                    bytes += tensor.bytes.len() as u64;
                }
            }
            // Nothing but the rotary factors is left over, and no byte has two roles.
            let unused = files.tensor_table().iter().filter(|tensor| tensor.name == "rope_freqs.weight");
            let unused: u64 = unused.map(|tensor| tensor.bytes).sum();
            assert_eq!(bytes + unused, files.tensors_total_bytes(), "{path}");
            let by_block: u64 = (0..spec.blocks).map(|block| files.bytes_of(Some(block))).sum();
            assert_eq!(by_block + files.bytes_of(None), bytes, "{path}");
            assert_eq!(files.tensor(Role::Output, None).unwrap().is_none(), spec.tied_head, "{path}");
        }
    }
}

#[test]
fn weights_of_gguf_and_hugging_face_are_the_same_numbers() {
    let Some(models) = models("weights_of_gguf_and_hugging_face_are_the_same_numbers") else { return };
    let mut compared = 0;
    for (folder, _, ggufs, _) in table() {
        let hugging_face = open(&models.join(folder));
        let spec = hugging_face.spec();
        for gguf in ggufs {
            let files = open(&models.join(folder).join(format!("{gguf}.gguf")));
            for (role, block) in every_role(spec) {
                let here = files.tensor(role, block).unwrap();
                let there = hugging_face.tensor(role, block).unwrap();
                assert_eq!(here.is_some(), there.is_some(), "{gguf} {role:?} {block:?}");
                let (Some(here), Some(there)) = (here, there) else { continue };
                let (Some(mut found), Some(mut expected)) = (floats(&here), floats(&there)) else { continue };
                let norm =
                    here.rows == 1 && !matches!(role, Role::QueryBias | Role::KeyBias | Role::ValueBias);
                if norm {
                    expected.iter_mut().for_each(|weight| *weight += spec.norm_weight_offset);
                }
                // Llama's GGUF interleaves the two halves of each head; sorted rows are the same rows.
                if files.spec().rope_pairing == RopePairing::Interleaved
                    && matches!(role, Role::Query | Role::Key)
                {
                    found.sort_unstable_by(f32::total_cmp);
                    expected.sort_unstable_by(f32::total_cmp);
                }
                // F32 kept as F16 is rounded.
                let rounded = here.format == Format::F16 && there.format != Format::F16;
                let near = |(a, b): (&f32, &f32)| {
                    if rounded { (a - b).abs() <= b.abs() * 1e-3 + 1e-6 } else { a == b }
                };
                assert!(found.iter().zip(&expected).all(near), "{gguf} {role:?} {block:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 700, "only {compared} tensors were compared");
}

#[test]
fn any_part_of_a_split_set_opens_the_whole_which_equals_the_single_file() {
    let name = "any_part_of_a_split_set_opens_the_whole_which_equals_the_single_file";
    let Some(models) = models(name) else { return };
    let whole = open(&models.join("stories260k/stories260k-q8_0.gguf"));
    for part in 1..=3 {
        let path = format!("stories260k/gguf-split/stories260k-q8_0-{part:05}-of-00003.gguf");
        let split = open(&models.join(path));
        assert_eq!(split.files().len(), 3);
        assert_eq!(split.spec(), whole.spec());
        assert_eq!(split.tensor_table().len(), whole.tensor_table().len());
        for (role, block) in every_role(whole.spec()) {
            let bytes =
                |files: &ModelFiles| files.tensor(role, block).unwrap().map(|tensor| tensor.bytes.to_vec());
            assert_eq!(bytes(&split), bytes(&whole), "{role:?} {block:?}");
        }
        let TokenizerSource::Gguf(header) = split.tokenizer_source().unwrap() else { panic!("it is a GGUF") };
        assert_eq!(header.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 512);
    }
}

#[test]
fn sharded_safetensors_equal_the_single_file() {
    let Some(models) = models("sharded_safetensors_equal_the_single_file") else { return };
    let whole = open(&models.join("stories260k/hf"));
    let sharded = open(&models.join("stories260k/hf-sharded/config.json"));
    assert_eq!((whole.files().len(), sharded.files().len()), (1, 4));
    for (role, block) in every_role(whole.spec()) {
        let bytes =
            |files: &ModelFiles| files.tensor(role, block).unwrap().map(|tensor| tensor.bytes.to_vec());
        assert_eq!(bytes(&sharded), bytes(&whole), "{role:?} {block:?}");
    }
}

#[test]
fn an_embedded_gguf_is_the_same_model_as_its_file() {
    let Some(models) = models("an_embedded_gguf_is_the_same_model_as_its_file") else { return };
    let path = models.join("tiny/phi3/phi3-f16.gguf");
    let mapped = open(&path);
    let embedded = ModelFiles::embedded("phi3", std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(embedded.spec(), mapped.spec());
    assert_eq!(embedded.tensor_table(), mapped.tensor_table());
    assert_eq!(embedded.parameters(), mapped.parameters());
    assert_eq!(mapped.fingerprint(), open(&path).fingerprint());
}

#[test]
fn fused_tensors_are_handed_out_as_consecutive_rows() {
    let Some(models) = models("fused_tensors_are_handed_out_as_consecutive_rows") else { return };
    for path in ["tiny/phi3", "tiny/phi3/phi3-f16.gguf"] {
        let files = open(&models.join(path));
        for roles in [&[Role::Query, Role::Key, Role::Value][..], &[Role::Gate, Role::Up]] {
            let parts: Vec<_> =
                roles.iter().map(|role| files.tensor(*role, Some(1)).unwrap().unwrap()).collect();
            for pair in parts.windows(2) {
                assert_eq!(pair[0].bytes.as_ptr_range().end, pair[1].bytes.as_ptr(), "{path}");
            }
        }
    }
}

#[test]
fn a_role_on_the_wrong_side_or_a_block_too_far_is_refused() {
    let Some(models) = models("a_role_on_the_wrong_side_or_a_block_too_far_is_refused") else { return };
    let files = open(&models.join("tiny/llama32"));
    for (role, block) in [(Role::Query, None), (Role::Embedding, Some(0)), (Role::Query, Some(4))] {
        let answer = files.tensor(role, block);
        assert!(matches!(answer, Err(Error::Request { .. })), "{role:?} {block:?}");
    }
    assert!(files.tensor(Role::Query, Some(3)).unwrap().is_some());
}

#[test]
fn vocabulary_files_give_their_metadata_but_are_no_models() {
    let Some(models) = models("vocabulary_files_give_their_metadata_but_are_no_models") else { return };
    let path = models.join("vocab/ggml-vocab-falcon.gguf");
    let bytes = std::fs::read(&path).unwrap();
    let header = kwaainet_engine::files::gguf::parse_header("falcon", &bytes).unwrap();
    assert_eq!(header.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 65_024);
    assert_eq!(header.integers("tokenizer.ggml.token_type").unwrap().unwrap().len(), 65_024);
    assert_eq!(header.string("tokenizer.ggml.model").unwrap(), Some("gpt2"));
    assert!(header.string("tokenizer.ggml.tokens").is_err());
    let error = ModelFiles::open(&path).unwrap_err().to_string();
    assert!(error.contains("falcon") && error.contains("can be run"), "{error}");
}

#[test]
fn what_is_no_model_is_refused_with_a_sentence() {
    let Some(models) = models("what_is_no_model_is_refused_with_a_sentence") else { return };
    let answers = [
        ("README.md", "does not begin with"),
        ("texts", "has no config.json"),
        ("missing.gguf", "can't open"),
        ("embeddings/embeddings.npy", "does not begin with"),
    ];
    for (path, expected) in answers {
        let error = ModelFiles::open(&models.join(path)).unwrap_err().to_string();
        assert!(error.contains(expected), "{path}: {error}");
    }
}
