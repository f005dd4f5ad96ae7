//! What the engine's tests share: where the reference data lies, and a reader of golden tensors.

#![allow(dead_code)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use kwaainet_engine::engine::{Engine, EngineOptions, Input, Run, Wanted};
use kwaainet_engine::files::ModelFiles;
use kwaainet_engine::weights::Quantize;
use kwaainet_kernels::{Kernels, KvKind};

/// The folder of reference models, or `None` (and a line that says so) where it isn't there.
pub fn models(test: &str) -> Option<PathBuf> {
    let root = std::env::var_os("KWAAINET_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let models = root.join("models");
    if models.is_dir() {
        return Some(models);
    }
    println!("skipped: {test}: no ../shared");
    None
}

/// Tensors of a golden file: name to shape and values (ids are widened to f32).
pub struct Golden(HashMap<String, Vec<f32>>);

impl Golden {
    pub fn read(path: PathBuf) -> Golden {
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let head: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut tensors = HashMap::new();
        for (name, info) in head.as_object().unwrap() {
            if name == "__metadata__" {
                continue;
            }
            let at = |i: usize| 8 + length + info["data_offsets"][i].as_u64().unwrap() as usize;
            let data = &bytes[at(0)..at(1)];
            let values = match info["dtype"].as_str().unwrap() {
                "F32" => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                "I32" => {
                    data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as f32).collect()
                }
                "I64" => {
                    data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
                }
                other => panic!("a golden of type {other}"),
            };
            tensors.insert(name.clone(), values);
        }
        Golden(tensors)
    }

    pub fn get(&self, name: &str) -> &[f32] {
        self.0.get(name).unwrap_or_else(|| panic!("no golden named {name}"))
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.get(name).iter().map(|&id| id as u32).collect()
    }
}

/// A model opened for one session with exact arithmetic: F32 keys and values.
pub fn options(kernels: Kernels, quantize: Quantize) -> EngineOptions {
    EngineOptions {
        context_tokens: None,
        sessions_max: 4,
        kv: KvKind::F32,
        quantize,
        threads: 2,
        memory_bytes_max: None,
        ..EngineOptions::new(kernels)
    }
}

pub fn open(path: PathBuf, options: EngineOptions) -> Engine {
    let files = ModelFiles::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Engine::open(Arc::new(files), options, &mut |_| ()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The id of the largest logit, the lowest of equals.
pub fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Continues `prompt` greedily by `count` tokens.
pub fn greedy(engine: &mut Engine, prompt: &[u32], count: usize) -> Vec<u32> {
    let session = engine.open_session(prompt.len() + count).expect("a fresh engine has room");
    let mut ids = Vec::new();
    let mut input = prompt.to_vec();
    while ids.len() < count {
        let run = Run { session, input: Input::Tokens(&input), wanted: Wanted::Last };
        let id = best(engine.forward(&[run]).expect("a pass"));
        ids.push(id);
        input = vec![id];
    }
    engine.close_session(session);
    ids
}

/// The largest difference of two rows of numbers.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}
