//! The many spellings of one description: configs of Hugging Face and keys of GGUF lead to the right fields.

use std::path::Path;

use kwaainet_engine::Error;
use kwaainet_engine::files::{ModelFiles, hugging_face};
use kwaainet_engine::spec::{Activation, ModelSpec};
use kwaainet_kernels::{RopePairing, RopeScaling};
use serde_json::{Map, Value, json};

/// The description of a small Llama whose config is changed by `changes`; null removes a key.
fn read(changes: Value) -> Result<ModelSpec, Error> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 6, "num_attention_heads": 4, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    });
    let changed: &mut Map<String, Value> = config.as_object_mut().unwrap();
    changed.extend(changes.as_object().unwrap().clone());
    hugging_face::spec_from_config("config.json", "name", config.to_string().as_bytes())
}

fn spec(changes: Value) -> ModelSpec {
    read(changes.clone()).unwrap_or_else(|error| panic!("{changes}: {error}"))
}

/// For each block whether it slides.
fn slides(spec: &ModelSpec) -> Vec<bool> {
    (0..spec.blocks).map(|block| spec.block_window(block).is_some()).collect()
}

#[test]
fn what_a_config_leaves_out_has_the_defaults_of_its_family() {
    let llama = spec(json!({}));
    assert_eq!((llama.kv_heads, llama.head_width, llama.rotary_width), (4, 16, 16));
    assert_eq!((llama.rope.theta, llama.tied_head, llama.window), (1e4, false, None));
    assert_eq!(spec(json!({"architectures": ["Qwen3ForCausalLM"]})).head_width, 128);
    let gemma = spec(json!({"architectures": ["Gemma3ForCausalLM"], "num_attention_heads": null}));
    assert_eq!((gemma.heads, gemma.kv_heads, gemma.head_width, gemma.tied_head), (8, 4, 256, true));
    assert_eq!(
        (gemma.window, gemma.window_pattern, gemma.activation),
        (Some(4096), 6, Activation::GeluTanhGated)
    );
    assert_eq!(gemma.query_scale, 1.0 / 16.0);
    assert_eq!(spec(json!({"architectures": null, "model_type": "mistral"})).architecture, "mistral");
}

#[test]
fn rotary_scaling_is_read_in_every_spelling() {
    let linear = RopeScaling::Linear { factor: 4.0 };
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 512.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.138_629_4,
    };
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context: 64.0,
    };
    let llama3_json = json!({"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 64, "rope_type": "llama3", "rope_theta": 5e5});
    let cases = [
        (json!({"rope_scaling": {"type": "linear", "factor": 4}}), 1e4, linear.clone()),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 2e4}),
            2e4,
            linear.clone(),
        ),
        (json!({"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 3e4}}), 3e4, linear),
        (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}), 5e4, RopeScaling::None),
        (json!({"rope_scaling": {"rope_type": "default"}}), 1e4, RopeScaling::None),
        (json!({"rope_scaling": {"type": "yarn", "factor": 4}}), 1e4, yarn),
        (json!({"rope_parameters": llama3_json.clone()}), 5e5, llama3),
    ];
    for (changes, theta, scaling) in cases {
        let spec = spec(changes.clone());
        assert_eq!((spec.rope.theta, spec.rope.scaling), (theta, scaling), "{changes}");
        assert_eq!(spec.rope_local, None);
    }
    let inner = json!({"factor": 2, "original_max_position_embeddings": 128, "beta_fast": 16, "beta_slow": 2,
        "attention_factor": 1.5, "rope_type": "yarn"});
    let given = RopeScaling::Yarn {
        factor: 2.0,
        original_context: 128.0,
        beta_fast: 16.0,
        beta_slow: 2.0,
        attention_factor: 1.5,
    };
    assert_eq!(spec(json!({"rope_scaling": inner})).rope.scaling, given);
    for form in ["longrope", "dynamic", "su", "ntk"] {
        let error = read(json!({"rope_scaling": {"rope_type": form, "factor": 2}})).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(form), "{error}");
    }
}

#[test]
fn gemma_3_rotates_local_blocks_by_their_own_base() {
    let old = json!({"architectures": ["Gemma3ForCausalLM"], "rope_theta": 1e6, "rope_local_base_freq": 2e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8}, "sliding_window": 512,
        "sliding_window_pattern": 3});
    let new = json!({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 512,
        "_sliding_window_pattern": 3,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}});
    for changes in [old, new] {
        let spec = spec(changes);
        assert_eq!(slides(&spec), [true, true, false, true, true, false]);
        assert_eq!((spec.block_rope(0).theta, &spec.block_rope(0).scaling), (2e4, &RopeScaling::None));
        assert_eq!(
            (spec.block_rope(2).theta, &spec.block_rope(2).scaling),
            (1e6, &RopeScaling::Linear { factor: 8.0 })
        );
        assert_eq!((spec.embedding_scale, spec.norm_weight_offset), (8.0, 1.0));
    }
}

#[test]
fn the_text_part_of_a_gemma_3_that_sees_is_read() {
    let text = json!({"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024});
    let whole = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": text, "vision_config": {"hidden_size": 1152}});
    let spec = hugging_face::spec_from_config("config.json", "gemma", whole.to_string().as_bytes()).unwrap();
    assert_eq!(
        (spec.hidden, spec.blocks, spec.vocabulary, spec.context_tokens),
        (2560, 34, 262_208, 131_072)
    );
    assert_eq!((spec.window, spec.window_pattern, spec.heads, spec.kv_heads), (Some(1024), 6, 8, 4));
}

#[test]
fn windows_follow_the_rules_of_their_family() {
    let qwen = |changes: Value| {
        let mut all = json!({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(all)
    };
    assert_eq!(qwen(json!({})).unwrap().window, None);
    assert_eq!(qwen(json!({"use_sliding_window": false, "max_window_layers": 0})).unwrap().window, None);
    assert_eq!(qwen(json!({"use_sliding_window": true, "max_window_layers": 6})).unwrap().window, None);
    assert_eq!(
        slides(&qwen(json!({"use_sliding_window": true, "max_window_layers": 0})).unwrap()),
        [true; 6]
    );
    let error = qwen(json!({"use_sliding_window": true, "max_window_layers": 3})).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(qwen(json!({"use_sliding_window": true, "layer_types": ["full_attention"]})).is_err());

    let mistral = spec(json!({"architectures": ["MistralForCausalLM"], "sliding_window": 32}));
    assert_eq!((mistral.window, slides(&mistral)), (Some(32), vec![true; 6]));
    assert_eq!(spec(json!({"architectures": ["MistralForCausalLM"], "sliding_window": null})).window, None);
    assert_eq!(
        spec(json!({"architectures": ["Phi3ForCausalLM"], "sliding_window": 2047})).window,
        Some(2047)
    );
    // A Llama's config may hold the key, but its arithmetic knows no window.
    assert_eq!(spec(json!({"sliding_window": 32})).window, None);
}

#[test]
fn a_part_of_each_head_is_rotated_where_the_config_says_so() {
    let phi = spec(json!({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.75}));
    assert_eq!((phi.head_width, phi.rotary_width), (16, 12));
    assert!(read(json!({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0})).is_err());
    assert!(read(json!({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 1.5})).is_err());
}

#[test]
fn a_value_at_its_limit_is_taken_and_one_beyond_it_is_not() {
    use kwaainet_engine::limits as l;
    let cases = [
        ("hidden_size", l::HIDDEN_MAX),
        ("intermediate_size", l::FEED_FORWARD_MAX),
        ("num_hidden_layers", l::BLOCKS_MAX),
        ("vocab_size", l::VOCABULARY_MAX),
        ("max_position_embeddings", l::CONTEXT_TOKENS_MAX),
        ("num_attention_heads", l::HEADS_MAX),
        ("head_dim", l::HEAD_WIDTH_MAX),
    ];
    for (key, limit) in cases {
        for (value, taken) in [(limit, true), (limit + 1, false), (0, false)] {
            let changes = json!({"head_dim": 16, "num_key_value_heads": 1, key: value});
            assert_eq!(read(changes).is_ok(), taken, "{key} = {value}");
        }
    }
}

#[test]
fn keys_of_a_gguf_lead_to_the_same_fields() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/gguf");
    let open = |name: &str| ModelFiles::open(&seeds.join(name)).unwrap();
    let llama = open("llama");
    assert_eq!(llama.spec().name, "llama"); // the file's, for it has none of its own
    assert_eq!(llama.spec().rope.scaling, RopeScaling::Factors(vec![1.0; 16]));
    assert_eq!((llama.spec().rope_pairing, llama.spec().window), (RopePairing::Interleaved, Some(8)));
    assert_eq!((llama.stop_ids(), llama.chat_template()), (&[1, 3][..], Some("{{ messages }}")));
    let qwen2 = open("qwen2");
    let RopeScaling::Yarn { factor, original_context, attention_factor, .. } = qwen2.spec().rope.scaling
    else {
        panic!("{:?}", qwen2.spec().rope)
    };
    assert_eq!((factor, original_context, attention_factor), (4.0, 64.0, 1.138_629_4));
    assert_eq!((qwen2.spec().rope_pairing, qwen2.spec().window), (RopePairing::Halves, None));
    let gemma = open("gemma3");
    assert_eq!((gemma.spec().window, gemma.spec().window_pattern), (Some(8), 6));
    assert_eq!(gemma.spec().block_rope(0).theta, 1e4);
    let phi = open("phi3");
    assert_eq!((phi.spec().window, phi.spec().window_pattern, phi.spec().kv_heads), (Some(8), 0, 1));
}

#[test]
fn a_fingerprint_changes_with_the_header() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/gguf/llama");
    let bytes = std::fs::read(seed).unwrap();
    let fingerprint = |bytes: &[u8]| ModelFiles::embedded("m", bytes.to_vec()).unwrap().fingerprint();
    let mut changed = bytes.clone();
    let template = changed.windows(8).position(|window| window == b"messages").unwrap();
    changed[template] = b'M';
    assert_eq!(fingerprint(&bytes), fingerprint(&bytes));
    assert_ne!(fingerprint(&bytes), fingerprint(&changed));
}
