//! The binary as a person or a script uses it.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{kwaainet, run, shared};
use serde_json::Value;

const PROMPT: &str = "Tell me a story about Lily.";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

/// The beginning of the golden answer that quantised weights share with it.
fn golden(test: &str) -> Option<String> {
    let path = shared(test, "models/tales4m/golden-chat.json")?;
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    Some(golden["greedy_text"].as_str().unwrap()[..100].to_owned())
}

#[test]
fn run_tells_the_golden_story_and_nothing_else_on_standard_output() {
    let output = run(&["run", "--temperature", "0", "--max-tokens", "64", PROMPT]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let Some(golden) = golden("run_tells_the_golden_story") else { return };
    assert!(text(&output.stdout).starts_with(&golden), "{}", text(&output.stdout));
}

#[test]
fn every_kernel_set_tells_the_same_story() {
    let tell = |kernels: &str| {
        let mut command = kwaainet();
        command.env("KWAAINET_KERNELS", kernels).args(["run", "--temperature=0", "--max-tokens=64", PROMPT]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), text(&output.stdout))
    };
    let (code, story) = tell("portable");
    assert_eq!(code, Some(0));
    for kernels in ["avx2", "neon"] {
        match tell(kernels) {
            (Some(64), _) => println!("skipped: {kernels}: not on this processor"),
            (code, other) => assert_eq!((code, other.as_str()), (Some(0), story.as_str()), "{kernels}"),
        }
    }
}

#[test]
fn the_same_seed_tells_the_same_and_another_another() {
    let tell = |seed| {
        text(&run(&["run", "--seed", seed, "--temperature", "1", "--max-tokens", "40", PROMPT]).stdout)
    };
    assert_eq!(tell("7"), tell("7"));
    assert_ne!(tell("7"), tell("8"));
}

#[test]
fn json_holds_text_usage_and_times() {
    let output = run(&["run", "--json", "--temperature", "0", "--max-tokens", "8", PROMPT]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    assert_eq!(answer["usage"]["prompt_tokens"], 21);
    assert!(answer["text"].as_str().unwrap().starts_with("Once upon a time"));
    assert!(answer["load_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn stats_go_to_standard_error() {
    let output = run(&["run", "--stats", "--max-tokens", "4", PROMPT]);
    let said = text(&output.stderr);
    for word in ["Kernel set", "Memory:", "Load:", "Prompt:", "First token:", "Answer:", "Resident:"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_prompt_comes_from_standard_input_too() {
    for arguments in [
        &["run", "--raw", "--temperature=0", "--max-tokens=8"][..],
        &["run", "--raw", "-", "--temperature=0", "--max-tokens=8"],
    ] {
        let mut command = kwaainet();
        let mut child =
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        child.stdin.take().unwrap().write_all(b"Once upon a time\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(text(&output.stdout).starts_with(", there was a little girl"), "{}", text(&output.stdout));
    }
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let output = run(&["run", "--temperature", "0", "--stop", "little girl", PROMPT]);
    assert_eq!(text(&output.stdout), "Once upon a time, there was a \n");
}

#[test]
fn exit_codes_are_as_documented() {
    let code = |arguments: &[&str]| run(arguments).status.code();
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["--version"]), Some(0));
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["fly"]), Some(2));
    assert_eq!(code(&["run", "--temperature", "warm", PROMPT]), Some(2));
    assert_eq!(code(&["run", "--kv", "f64", PROMPT]), Some(2));
    assert_eq!(code(&["run", "--quantize", "q1", PROMPT]), Some(2));
    assert_eq!(code(&["run", "--context", "99999999", PROMPT]), Some(2));
    assert_eq!(code(&["run", "--model", "/nonexistent.gguf", PROMPT]), Some(1));
    assert_eq!(code(&["run"]), Some(2), "standard input is empty");
    assert_eq!(code(&["serve", "--host", "0.0.0.0", "--port", "0"]), Some(2));
    assert_eq!(code(&["serve", "--port", "0", "--model", "/nonexistent.gguf"]), Some(1));
    let broken = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken.gguf");
    std::fs::write(&broken, b"GGUF\x03\0\0\0 and nothing more").unwrap();
    assert_eq!(code(&["run", "--model", broken.to_str().unwrap(), PROMPT]), Some(65));
    let mut command = kwaainet();
    command.env("KWAAINET_KERNELS", "abacus").args(["run", PROMPT]).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("portable"), "{}", text(&output.stderr));
}

#[test]
fn a_model_without_a_template_is_warned_about() {
    let Some(path) = shared("a_model_without_a_template", "models/stories260k/stories260k-q8_0.gguf") else {
        return;
    };
    let path = path.to_str().unwrap();
    let chat = run(&["run", "--model", path, "--max-tokens", "1", PROMPT]);
    assert!(text(&chat.stderr).contains("no chat template"), "{}", text(&chat.stderr));
    let raw = run(&["run", "--raw", "--model", path, "--max-tokens", "1", PROMPT]);
    assert_eq!((raw.status.code(), text(&raw.stderr).as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_answer_with_its_code() {
    use std::io::Read;
    let mut command = kwaainet();
    // Nothing stops this one but its context.
    command.args(["run", "--stats", "--raw", "--temperature=1.5", "Once upon a time"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    // The story may have come to its end before the signal did.
    assert!(matches!(output.status.code(), Some(130 | 0)), "{:?}", output.status);
    assert!(text(&output.stderr).contains("Answer:"), "{}", text(&output.stderr));
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_error() {
    let mut command = kwaainet();
    command.args(["run", PROMPT]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn text_becomes_ids_and_ids_text() {
    let ids = run(&["tokenize", "Once upon a time"]);
    assert_eq!(text(&ids.stdout), "430 419 261 398\n");
    let back = run(&["tokenize", "--ids", "430 419 261 398"]);
    assert_eq!(text(&back.stdout), "Once upon a time\n");
    let plain: Value = serde_json::from_slice(&run(&["tokenize", "--json", "<|im_end|>"]).stdout).unwrap();
    assert!(plain["ids"].as_array().unwrap().len() > 1);
    let special = run(&["tokenize", "--special", "<|im_end|>"]);
    assert_eq!(text(&special.stdout), "2\n");
}

#[test]
fn inspect_tells_shape_parts_and_budget() {
    let output = run(&["inspect", "--json"]);
    let model: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((model["blocks"].as_u64(), model["hidden"].as_u64()), (Some(6), Some(256)));
    assert_eq!(model["parts"].as_array().unwrap().len(), 7);
    assert!(model["budget"]["total_bytes"].as_u64() > model["budget"]["weights_bytes"].as_u64());
    let told = text(&run(&["inspect", "--tensors"]).stdout);
    assert!(
        told.contains("block 5") && told.contains("token_embd.weight") && told.contains("It fits."),
        "{told}"
    );
}

#[test]
fn a_benchmark_compares_with_the_bandwidth() {
    let arguments = ["benchmark", "--json", "--prompt-tokens=32", "--generate-tokens=8", "--repeat=1"];
    let answer: Value = serde_json::from_slice(&run(&arguments).stdout).unwrap();
    let rates = ["prefill_tokens_per_s", "decode_tokens_per_s", "bandwidth_bytes_per_s", "bandwidth_part"];
    for name in [&rates[..], &["first_token_s"]].concat() {
        assert!(answer[name].as_f64().unwrap() > 0.0, "{answer}");
    }
}

#[test]
fn a_benchmark_lets_sessions_decode_together_on_a_filled_cache() {
    let arguments =
        "benchmark --json --batch=3 --depth=40 --prompt-tokens=0 --generate-tokens=8 --repeat=2 --kv=f32";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let answer: Value = serde_json::from_slice(&run(&arguments).stdout).unwrap();
    assert_eq!((&answer["batch"], &answer["depth_tokens"]), (&3.into(), &40.into()));
    assert_eq!(answer["prefill_tokens_per_s"].as_f64(), Some(0.0), "there is no prompt");
    assert!(answer["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    // Six blocks of 2 x 2 heads of 64 values of 4 bytes; 40 tokens, and on average half of what is generated.
    assert_eq!(answer["kv_read_bytes"].as_f64(), Some(6.0 * 1024.0 * 44.0 * 3.0), "{answer}");
    for nothing in ["--batch=0", "--repeat=0", "--prompt-tokens=0"] {
        let output = run(&["benchmark", "--generate-tokens=0", nothing]);
        assert_eq!(output.status.code(), Some(2), "{nothing}");
    }
}

#[test]
fn the_embedded_model_is_the_one_in_its_note() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");
    let note = std::fs::read_to_string(format!("{folder}/NOTE.md")).unwrap();
    let length = std::fs::metadata(format!("{folder}/tales4m-q4_k_m.gguf")).unwrap().len();
    assert_eq!(length, 2_582_560);
    let sum = std::process::Command::new("sha256sum").arg(format!("{folder}/tales4m-q4_k_m.gguf")).output();
    match sum {
        Ok(sum) => assert!(note.contains(&text(&sum.stdout)[..64]), "{}", text(&sum.stdout)),
        Err(_) => println!("skipped: the checksum: no sha256sum"),
    }
}
