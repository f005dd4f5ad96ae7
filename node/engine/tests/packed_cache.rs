//! Packed copies of weights: made once, mapped ever after, and made again when they aren't what they were.

mod common;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use kwaainet_engine::engine::{Engine, EngineOptions, Input, Progress, Run, Wanted};
use kwaainet_engine::files::ModelFiles;
use kwaainet_engine::memory::{self, Residence};
use kwaainet_engine::weights::Quantize;
use kwaainet_kernels::Kernels;

/// A folder of its own for each test, empty.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("packed-{test}"));
    let _ = fs::remove_dir_all(&folder);
    folder
}

fn open_with(model: &Path, options: EngineOptions) -> (Engine, Vec<String>) {
    let files = Arc::new(ModelFiles::open(model).unwrap());
    let mut damages = Vec::new();
    let mut packed = 0;
    let engine = Engine::open(files, options, &mut |event| match event {
        Progress::Packed { bytes } => packed += bytes,
        Progress::Damaged(sentence) => damages.push(sentence),
    });
    let engine = engine.unwrap();
    assert!(packed >= engine.budget().packed_bytes, "progress reaches its end");
    (engine, damages)
}

fn with_cache(cache: &Path) -> EngineOptions {
    EngineOptions { cache_folder: Some(cache.into()), ..options(Kernels::detect(), Quantize::Keep) }
}

fn logits(engine: &mut Engine) -> Vec<f32> {
    let session = engine.open_session(8).unwrap();
    let logits =
        engine.forward(&[Run { session, input: Input::Tokens(&[0, 430, 419]), wanted: Wanted::All }]);
    let logits = logits.unwrap().to_vec();
    engine.close_session(session);
    logits
}

fn packed_files(cache: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.iter().all(|path| path.extension().is_some_and(|end| end == "packed")), "{paths:?}");
    paths
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_damaged_copy_is_made_again_with_a_sentence_and_a_whole_one_is_left_alone() {
    let Some(models) = models("packed cache") else { return };
    let model = models.join("tales4m/tales4m-q4_k_m.gguf");
    let cache = folder("damage");
    let (mut engine, damages) = open_with(&model, with_cache(&cache));
    assert!(damages.is_empty(), "{damages:?}");
    let expected = logits(&mut engine);
    let in_memory = EngineOptions { cache_folder: None, ..with_cache(&cache) };
    assert_eq!(logits(&mut open_with(&model, in_memory).0), expected);
    let paths = packed_files(&cache);
    assert_eq!(paths.len(), 7, "one for each block and one for the head");
    let made = fs::metadata(&paths[0]).unwrap().modified().unwrap();
    let (mut engine, damages) = open_with(&model, with_cache(&cache));
    assert!(damages.is_empty(), "{damages:?}");
    assert_eq!(logits(&mut engine), expected);
    assert_eq!(fs::metadata(&paths[0]).unwrap().modified().unwrap(), made, "it was not made again");

    let is_block = |path: &&PathBuf| path.to_str().is_some_and(|path| path.contains("-block2."));
    let path = paths.iter().find(is_block).unwrap();
    let whole = fs::read(path).unwrap();
    let length = whole.len();
    let zeros = vec![0; length];
    type Damage<'a> = (&'a str, &'a dyn Fn());
    let damages: [Damage<'_>; 8] = [
        ("empty", &|| fs::write(path, []).unwrap()),
        ("cut", &|| fs::write(path, &whole[..length - 1]).unwrap()),
        ("longer", &|| fs::write(path, [whole.as_slice(), &[0]].concat()).unwrap()),
        ("zeros", &|| fs::write(path, &zeros).unwrap()),
        ("other magic", &|| overwrite(path, 0, b"X")),
        ("a bit of the fingerprint", &|| overwrite(path, 9, &[whole[9] ^ 1])),
        // Behind the names of seven matrices, a time and their sums.
        ("a bit of the head's sum", &|| overwrite(path, 565, &[whole[565] ^ 1])),
        ("a byte of the weights", &|| overwrite(path, length as u64 / 2, &[!whole[length / 2]])),
    ];
    for (name, damage) in damages {
        fs::write(path, &whole).unwrap();
        damage();
        if fs::read(path).unwrap() == whole {
            panic!("{name}: nothing was damaged");
        }
        let (mut engine, sentences) = open_with(&model, with_cache(&cache));
        assert_eq!(sentences.len(), 1, "{name}: {sentences:?}");
        assert!(sentences[0].contains("damaged") && sentences[0].contains("made again"), "{sentences:?}");
        assert_eq!(logits(&mut engine), expected, "{name}");
        assert_eq!(fs::read(path).unwrap().len(), length, "{name}");
        let (_, sentences) = open_with(&model, with_cache(&cache));
        assert!(sentences.is_empty(), "{name}: it stays damaged: {sentences:?}");
    }
    assert_eq!(packed_files(&cache), paths, "nothing else is left behind");
    fs::remove_dir_all(cache).unwrap();
}

#[test]
fn a_copied_file_is_summed_once_and_then_trusted_by_its_time() {
    let Some(models) = models("packed cache") else { return };
    let model = models.join("tales4m/tales4m-q8_0.gguf");
    let cache = folder("copied");
    open_with(&model, with_cache(&cache));
    let path = &packed_files(&cache)[0];
    let made = fs::metadata(path).unwrap().modified().unwrap();
    let bytes = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    assert_ne!(fs::metadata(path).unwrap().modified().unwrap(), made);
    let (_, sentences) = open_with(&model, with_cache(&cache));
    assert!(sentences.is_empty(), "{sentences:?}");
    assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), made, "the next start need not sum it");
    fs::remove_dir_all(cache).unwrap();
}

/// Kilobytes of `field` over all mappings of files under `folder`.
#[cfg(target_os = "linux")]
fn mapped_kb(folder: &Path, field: &str) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut inside, mut sum) = (false, 0);
    for line in maps.lines() {
        let is_head = line.split(' ').next().is_some_and(|word| word.contains('-'));
        if is_head {
            inside = line.contains(folder.to_str().unwrap());
        } else if inside && line.starts_with(field) {
            sum += line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        }
    }
    sum
}

#[test]
#[cfg(target_os = "linux")]
fn streamed_weights_give_the_same_numbers_and_leave_memory_behind_them() {
    let Some(models) = models("packed cache") else { return };
    let model = models.join("tales4m/tales4m-q8_0.gguf");
    let cache = folder("streamed");
    let (mut engine, _) = open_with(&model, with_cache(&cache));
    let expected = logits(&mut engine);
    let weights_kb = engine.budget().packed_bytes / 1024;
    assert!(mapped_kb(&cache, "Rss:") >= weights_kb, "a pass touches all weights");
    drop(engine);
    let streamed = EngineOptions { residence: Residence::Streamed, ..with_cache(&cache) };
    let (mut engine, _) = open_with(&model, streamed);
    assert_eq!(logits(&mut engine), expected);
    let (left_kb, block_kb) = (mapped_kb(&cache, "Rss:"), weights_kb / 7);
    assert!(left_kb <= 2 * block_kb, "{left_kb} kB of {weights_kb} kB are still there");
    assert!(
        engine.budget().total_bytes()
            < engine.budget().weights_bytes
                + engine.budget().kv_bytes
                + engine.budget().scratch_bytes
                + engine.budget().process_bytes
    );
    drop(engine);
    fs::remove_dir_all(cache).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn locked_weights_are_in_memory_from_the_start_or_the_limit_is_told() {
    let Some(models) = models("packed cache") else { return };
    let model = models.join("tales4m/tales4m-q4_0.gguf");
    let cache = folder("locked");
    let options = EngineOptions { residence: Residence::Locked, ..with_cache(&cache) };
    let files = Arc::new(ModelFiles::open(&model).unwrap());
    match Engine::open(files, options, &mut |_| ()) {
        Ok(engine) => {
            assert!(mapped_kb(&cache, "Locked:") >= engine.budget().packed_bytes / 1024);
            assert!(mapped_kb(&cache, "Rss:") >= engine.budget().packed_bytes / 1024);
            assert!(memory::resident().unwrap().total_bytes > 0);
        }
        Err(error) => assert!(error.to_string().contains("ulimit -l"), "{error}"),
    }
    fs::remove_dir_all(cache).unwrap();
}

#[test]
fn pinned_threads_and_large_pages_change_no_number() {
    let Some(models) = models("packed cache") else { return };
    let model = models.join("stories260k/stories260k-q8_0.gguf");
    let cache = folder("pinned");
    let expected = logits(&mut open_with(&model, with_cache(&cache)).0);
    let other = EngineOptions { pin: true, huge_pages: true, threads: 3, ..with_cache(&cache) };
    // The calling thread is bound by its first pass, so it is one that nothing else runs on.
    let (model, found) = (model.clone(), std::thread::spawn(move || logits(&mut open_with(&model, other).0)));
    assert_eq!(found.join().unwrap(), expected, "{}", model.display());
    fs::remove_dir_all(cache).unwrap();
}
