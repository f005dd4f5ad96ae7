//! Broken and hostile folders get a sentence with the file and the field, and never a panic.

mod common;
mod support;

use std::path::{Path, PathBuf};

use common::models;
use kwaainet_engine::Error;
use kwaainet_engine::files::{ModelFiles, hugging_face, safetensors};
use kwaainet_engine::limits::SAFETENSORS_HEADER_BYTES_MAX;
use support::{Numbers, disturb, put};

fn safetensors_of(json: &str, data: usize) -> Vec<u8> {
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

const SMALL_JSON: &str = r#"{"__metadata__":{"format":"pt"},
"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;

#[test]
fn the_small_safetensors_is_read_as_it_was_written() {
    let bytes = safetensors_of(SMALL_JSON, 32);
    let header = safetensors::parse_header("small", &bytes).unwrap();
    let [a, b] = &header.tensors[..] else { panic!("there are two tensors") };
    assert_eq!((a.name.as_str(), &a.shape[..], a.bytes), ("a", &[2, 3][..], 24));
    assert_eq!((b.name.as_str(), b.offset as usize + 8), ("b", bytes.len()));
}

#[test]
fn every_broken_field_of_a_safetensors_is_named_with_its_offset() {
    // From, to, the place that the error should name, and a part of its sentence.
    let (a, b) = (8 + SMALL_JSON.find("\"a\"").unwrap(), 8 + SMALL_JSON.find("\"b\"").unwrap());
    let breaks: &[(&str, &str, Option<usize>, &str)] = &[
        ("{\"__", "[\"__", Some(8), "should begin with '{'"),
        ("\"b\"", "\"a\"", Some(a), "the tensor \"a\" comes twice"),
        ("[0,24]", "[0,25]", Some(a), "does not take the 25 bytes"),
        ("[24,32]", "[24,33]", Some(b), "but there are 32 bytes of data"),
        ("[24,32]", "[32,24]", Some(b), "data_offsets [32, 24]"),
        ("[24,32]", "[16,24]", Some(b), "overlaps the one before it"),
        ("[0,24]", "[4,28]", Some(a), "leaves a hole before it"),
        ("[2,3]", "[2,4]", Some(a), "does not take the 24 bytes"),
        ("[2,3]", "[4611686018427387904,4]", Some(a), "does not take the 24 bytes"),
        ("[2,3]", "[2,-3]", None, "invalid value"),
        ("[2,3]", "[1,1,1,1,1,1,1,2,3]", Some(a), "has 9 dimensions"),
        ("\"F32\"", "32", None, "invalid type"),
        ("\"shape\":[4],", "", None, "missing field `shape`"),
        ("\"pt\"", "{}", None, "invalid type"),
    ];
    for (from, to, place, sentence) in breaks {
        let bytes = safetensors_of(&SMALL_JSON.replacen(from, to, 1), 32);
        match safetensors::parse_header("small", &bytes) {
            Err(Error::Broken { what, offset: Some(offset), .. }) => {
                assert!(what.contains(sentence), "{to}: {what}");
                assert!((8..8 + SMALL_JSON.len() as u64 + 40).contains(&offset), "{to}: {offset}");
                assert!(place.is_none_or(|place| place as u64 == offset), "{to}: {offset}");
            }
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn a_safetensors_length_is_held_against_the_limit_and_the_file() {
    let mut bytes = safetensors_of(SMALL_JSON, 32);
    for (length, sentence) in [
        (SAFETENSORS_HEADER_BYTES_MAX, "bytes, but only"),
        (SAFETENSORS_HEADER_BYTES_MAX + 1, "the limit is 16777216"),
        (u64::MAX, "the limit is 16777216"),
    ] {
        put(&mut bytes, 0, &length.to_le_bytes());
        let error = safetensors::parse_header("small", &bytes).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }
    let longer = safetensors_of(SMALL_JSON, 33);
    let error = safetensors::parse_header("small", &longer).unwrap_err().to_string();
    assert!(error.contains("but the file at byte"), "{error}");
}

#[test]
fn a_safetensors_cut_short_at_any_byte_is_refused() {
    let small = safetensors_of(SMALL_JSON, 32);
    for length in 0..small.len() {
        assert!(safetensors::parse_header("cut", &small[..length]).is_err(), "cut at {length}");
    }
    let Some(models) = models("a_safetensors_cut_short_at_any_byte_is_refused (real file)") else { return };
    let bytes = std::fs::read(models.join("tiny/gemma3/model.safetensors")).unwrap();
    let header = safetensors::parse_header("real", &bytes).unwrap().header_bytes as usize;
    for length in (0..=header).chain((header..bytes.len()).step_by(9973)) {
        assert!(safetensors::parse_header("cut", &bytes[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn twenty_thousand_disturbed_safetensors_never_panic() {
    let mut numbers = Numbers(2);
    let small = safetensors_of(SMALL_JSON, 32);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bytes = small.clone();
        disturb(&mut bytes, small.len() - 32, &mut numbers);
        refused += usize::from(safetensors::parse_header("disturbed", &bytes).is_err());
    }
    assert!(refused > 15_000, "only {refused} were refused");
}

const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":512,
"hidden_size":64,"intermediate_size":128,"num_hidden_layers":4,"num_attention_heads":4,
"num_key_value_heads":2,"max_position_embeddings":512,"rope_theta":10000.0,"rope_scaling":null,
"rms_norm_eps":1e-05,
"hidden_act":"silu","tie_word_embeddings":true}"#;

#[test]
fn every_broken_key_of_a_config_is_named() {
    hugging_face::spec_from_config("config.json", "name", CONFIG.as_bytes()).unwrap();
    let breaks = [
        ("\"hidden_size\":64,", "", "hidden_size is missing"),
        ("\"hidden_size\":64", "\"hidden_size\":-64", "hidden_size should be a count, but is -64"),
        ("\"hidden_size\":64", "\"hidden_size\":70000", "the hidden width is 70000; 1 to 65536"),
        ("\"hidden_size\":64", "\"hidden_size\":1e99", "hidden_size should be a count"),
        ("\"num_attention_heads\":4", "\"num_attention_heads\":0", "the count of heads is 0"),
        ("\"num_key_value_heads\":2", "\"num_key_value_heads\":3", "4 heads can't share 3"),
        ("\"num_hidden_layers\":4", "\"num_hidden_layers\":1025", "the count of blocks is 1025; 1 to 1024"),
        ("1e-05", "-1", "the norm epsilon is -1"),
        ("1e-05", "\"small\"", "rms_norm_eps should be a finite number"),
        ("10000.0", "0", "the base of the rotary frequencies is 0"),
        ("\"silu\"", "\"relu\"", "asks for the activation relu"),
        ("\"LlamaForCausalLM\"", "\"MixtralForCausalLM\"", "describes MixtralForCausalLM; Llama, Mistral"),
        (
            "\"rope_scaling\":null",
            "\"rope_scaling\":{\"type\":\"longrope\"}",
            "asks for the rotary scaling longrope",
        ),
        ("\"rope_scaling\":null", "\"rope_scaling\":{\"type\":\"linear\"}", "factor is missing"),
        (
            "\"rope_scaling\":null",
            "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}",
            "rotary scaling is 0",
        ),
        ("\"rope_scaling\":null", "\"mlp_bias\":true", "asks for mlp_bias = true"),
        ("\"rope_scaling\":null", "\"quantization_config\":{}", "asks for quantization_config"),
        ("{\"arch", "[\"arch", "it is not valid JSON"),
    ];
    for (from, to, sentence) in breaks {
        let config = CONFIG.replacen(from, to, 1);
        let error = hugging_face::spec_from_config("config.json", "name", config.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(sentence), "{to}: {error}");
        assert!(error.to_string().contains("config.json"), "{to}: {error}");
    }
}

/// A folder of the test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("kwaainet-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Folder {
        std::fs::write(self.0.join(name), bytes).unwrap();
        self
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_index_that_leads_out_of_its_folder_is_refused() {
    let folder = Folder::new("index");
    folder.write("config.json", CONFIG);
    for part in [
        "../secret.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..\\\\b.safetensors",
        ".safetensors",
        "x",
    ] {
        let index = format!(r#"{{"weight_map":{{"model.norm.weight":"{part}"}}}}"#);
        folder.write("model.safetensors.index.json", index);
        let error = ModelFiles::open(&folder.0).unwrap_err().to_string();
        assert!(error.contains("the plain name of a .safetensors file in this folder"), "{part}: {error}");
    }
    folder.write("model.safetensors.index.json", r#"{"weight_map":{"c":"part.safetensors"}}"#);
    folder.write("part.safetensors", safetensors_of(SMALL_JSON, 32));
    let error = ModelFiles::open(&folder.0).unwrap_err().to_string();
    assert!(error.contains("the index says that it holds the tensor c"), "{error}");
}

#[test]
fn a_missing_part_a_strange_tensor_and_a_wrong_shape_are_refused_by_name() {
    let Some(models) = models("a_missing_part_a_strange_tensor_and_a_wrong_shape_are_refused_by_name") else {
        return;
    };
    let folder = Folder::new("strange");
    let source = models.join("tiny/smollm2");
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let weights = std::fs::read(source.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let json = std::str::from_utf8(&weights[8..8 + header]).unwrap();
    let rewrite = |from: &str, to: &str| {
        let json = json.replacen(from, to, 1);
        let mut out = (json.len() as u64).to_le_bytes().to_vec();
        out.extend(json.as_bytes());
        out.extend(&weights[8 + header..]);
        out
    };
    folder.write("config.json", &config);
    let name = "model.layers.2.mlp.up_proj.weight";
    let cases = [
        (name, "model.other.weight", "the tensor for Up of block 2 is missing"),
        (name, "model.layers.2.mlp.experts.0.weight", "which a block of family llama does not have"),
        (name, "model.layers.9.mlp.up_proj.weight", "but says it has 4 blocks"),
        (name, "model.layers.x.mlp.up_proj.weight", "which a block of family llama does not have"),
        ("model.norm.weight", "lm_head.bias", "heads with a bias can't be run"),
        ("[96]", "[96,1]", "the model's description demands [96]"),
        ("\"BF16\",\"shape\":[96]", "\"I16\",\"shape\":[96]", "as I16; F32, F16 and BF16 can be read"),
    ];
    for (from, to, sentence) in cases {
        folder.write("model.safetensors", rewrite(from, to));
        let error = ModelFiles::open(&folder.0).unwrap_err().to_string();
        assert!(error.contains(sentence), "{to}: {error}");
    }
    folder.write("model.safetensors", &weights);
    let untied = config.replacen("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", 1);
    folder.write("config.json", untied);
    let error = ModelFiles::open(&folder.0).unwrap_err().to_string();
    assert!(error.contains("the tensor for Output is missing"), "{error}");
}

#[test]
fn a_split_set_with_a_missing_or_renamed_part_is_refused() {
    let Some(models) = models("a_split_set_with_a_missing_or_renamed_part_is_refused") else { return };
    let folder = Folder::new("split");
    let part = |number| {
        let name = format!("stories260k/gguf-split/stories260k-q8_0-{number:05}-of-00003.gguf");
        std::fs::read(models.join(name)).unwrap()
    };
    folder.write("m-00001-of-00003.gguf", part(1)).write("m-00002-of-00003.gguf", part(2));
    let open = |name: &str| ModelFiles::open(&folder.0.join(name)).unwrap_err().to_string();
    assert!(open("m-00001-of-00003.gguf").contains("m-00003-of-00003.gguf"));
    folder.write("m-00003-of-00003.gguf", part(2));
    assert!(open("m-00001-of-00003.gguf").contains("its name says that it is part 3 of 3"));
    folder.write("renamed.gguf", part(1));
    assert!(open("renamed.gguf").contains("its name does not end in -00001-of-00003.gguf"));
    folder.write("m-00003-of-00003.gguf", part(3));
    ModelFiles::open(&folder.0.join("m-00002-of-00003.gguf")).unwrap();
}

#[test]
fn every_seed_of_the_fuzzers_is_well_formed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let seeds = |kind: &str| {
        let files = std::fs::read_dir(folder.join(kind)).unwrap().map(|entry| entry.unwrap().path());
        files.collect::<Vec<_>>()
    };
    for path in seeds("gguf") {
        ModelFiles::open(&path).unwrap();
    }
    for path in seeds("safetensors") {
        safetensors::parse_header("seed", &std::fs::read(&path).unwrap()).unwrap();
    }
    for path in seeds("config") {
        hugging_face::spec_from_config("seed", "name", &std::fs::read(&path).unwrap()).unwrap();
    }
    assert_eq!([seeds("gguf").len(), seeds("safetensors").len(), seeds("config").len()], [5, 3, 9]);
}
