//! Where the workspace lies, what is in it, and what cargo says about it: shared by the house rules' tests.

#![allow(dead_code, reason = "each test is a crate of its own and uses a part of this module")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The repository's root.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate lies in tests/ of the repository").to_path_buf()
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path} can't be read: {error}"))
}

/// Paths of all files that people write, relative to the root, with slashes, in order.
pub fn files() -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("the folder can be listed").path();
            let inside = path.strip_prefix(&root).expect("it was found below the root");
            let inside = inside.to_str().expect("names in the repository are plain").replace('\\', "/");
            if path.is_symlink() || is_made_by_tools(&inside) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(inside);
            }
        }
    }
    found.sort();
    found
}

fn is_made_by_tools(path: &str) -> bool {
    let name = path.rsplit('/').next().expect("a split has a last part");
    let hidden = name.starts_with('.') && name != ".ci";
    hidden
        || matches!(name, "target" | "__pycache__" | "Cargo.lock")
        || matches!(path, "fuzz/corpus" | "fuzz/artifacts")
}

/// What `cargo` prints with these arguments.
pub fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output();
    let output = output.unwrap_or_else(|error| panic!("cargo can't be started: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {} failed:\n{told}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// One crate of the workspace.
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, relative to the root.
    pub folder: String,
    /// Direct dependencies of all kinds: name, and whether it lies in this workspace.
    pub dependencies: Vec<(String, bool)>,
}

/// The crates of the workspace, as `cargo metadata` tells them.
pub fn packages() -> Vec<Package> {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().expect("cargo metadata has a string here").to_owned();
    let list = |value: &Value| value.as_array().expect("cargo metadata has a list here").clone();
    // Cargo tells the folder with its own spelling of the root, so that one is stripped.
    let root = text(&metadata["workspace_root"]);
    let packages = list(&metadata["packages"]);
    packages
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            folder: text(&package["manifest_path"])
                .trim_start_matches(&root)
                .trim_end_matches("Cargo.toml")
                .trim_matches(['/', '\\'])
                .replace('\\', "/"),
            dependencies: list(&package["dependencies"])
                .iter()
                .map(|dependency| (text(&dependency["name"]), dependency["path"].is_string()))
                .collect(),
        })
        .collect()
}
