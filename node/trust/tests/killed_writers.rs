//! Writers that are killed at any moment never leave a broken file.
//!
//! The test starts itself again as a writer that never ends, kills it, and looks at the file: 200 times each
//! for a file that is replaced (settings, peers) and one that is made (an identity).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use kwaainet_trust::disk::{self, Readers};
use kwaainet_trust::{Identity, key_file};

const ROUNDS: u64 = 200;
/// Names the file in a process that is to be a writer.
const FILE: &str = "KILLED_WRITERS_FILE";

fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs the test `writer` in a process of its own and kills it after so many microseconds of writing.
fn killed_after(writer: &str, path: &Path, microseconds: u64) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", writer, "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = path.with_extension("begun");
    while !begun.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the writer ended by itself");
        thread::sleep(Duration::from_micros(100));
    }
    thread::sleep(Duration::from_micros(microseconds));
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_file(begun).unwrap();
}

/// The file to write and, once the writing begins, the sign of it; none in the test's own process.
fn task() -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os(FILE)?);
    fs::write(path.with_extension("begun"), "").unwrap();
    Some(path)
}

/// A text whose every half is told from the whole.
fn text(number: usize) -> Vec<u8> {
    let line = format!("{number}\n");
    let mut text = line.repeat(3000).into_bytes();
    text.extend_from_slice(b"end\n");
    text
}

#[test]
fn replacing_writer() {
    let Some(path) = task() else { return };
    for number in 0.. {
        disk::replace(&path, &text(number % 10), Readers::Anyone).unwrap();
    }
}

#[test]
fn creating_writer() {
    let Some(path) = task() else { return };
    loop {
        key_file::create(&path, &Identity::generate(), None).unwrap();
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_the_old_file_or_the_new_one() {
    let folder = folder("replaced");
    let path = folder.join("config.toml");
    disk::replace(&path, &text(0), Readers::Anyone).unwrap();
    for round in 0..ROUNDS {
        killed_after("replacing_writer", &path, round * 37 % 4000);
        let found = fs::read(&path).unwrap();
        assert!((0..10).any(|number| found == text(number)), "round {round}: {} bytes", found.len());
    }
    // What the dead left is at most the last one's; the next writer sweeps it.
    disk::replace(&path, &text(1), Readers::Anyone).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_killed_maker_of_identities_leaves_a_whole_one_or_none() {
    let folder = folder("created");
    let path = folder.join("identity.key");
    let mut whole = 0;
    for round in 0..ROUNDS {
        killed_after("creating_writer", &path, round * 37 % 4000);
        if path.exists() {
            key_file::load(&path, || None).unwrap_or_else(|error| panic!("round {round}: {error}"));
            fs::remove_file(&path).unwrap();
            whole += 1;
        }
    }
    println!("{whole} of {ROUNDS} were killed with a key in its place");
    key_file::create(&path, &Identity::generate(), None).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}
