//! Nothing comes into the tree unseen.
//!
//! Each direct dependency has its reason in a comment above it in the root `Cargo.toml`.
//! `docs/dependencies.md` shows these reasons and how many crates each of ours brings along; the page is made
//! from the manifests and `cargo tree`, and a test compares. So a tree that grows shows up as a changed
//! number in a review.

mod workspace;

use std::collections::{BTreeMap, BTreeSet};

const LEDGER: &str = "docs/dependencies.md";
/// Set by `ci/dependencies --write`: the page is written instead of compared.
const WRITE_VARIABLE: &str = "KWAAINET_WRITE_LEDGER";
/// Counts are those of one target, so that every machine records the same.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Never in the tree: another runtime, another HTTP stack, TLS in C.
const REFUSED: &[&str] = &["tokio", "hyper", "openssl", "openssl-sys", "native-tls", "reqwest"];

/// The lines of a manifest's section, from behind its heading to the next one.
fn section<'a>(manifest: &'a str, heading: &str) -> Vec<&'a str> {
    let lines = manifest.lines().skip_while(move |line| line.trim() != heading);
    lines.skip(1).take_while(|line| !line.starts_with('[')).collect()
}

/// The key of a line such as `name = { version = "1" }`.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim_end();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}

/// Dependencies of the workspace with their reasons, and sentences about those without.
fn reasons(manifest: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let mut reasons = BTreeMap::new();
    let mut refusals = Vec::new();
    let mut comment = Vec::new();
    for line in section(manifest, "[workspace.dependencies]") {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some(name) = key(line) {
            if !line.contains("path = ") {
                if comment.is_empty() {
                    refusals
                        .push(format!("{name} has no reason: write it as a comment above it in Cargo.toml"));
                }
                reasons.insert(name.to_owned(), comment.join(" "));
            }
            comment.clear();
        } else {
            comment.clear();
        }
    }
    (reasons, refusals)
}

/// Dependencies of a crate's manifest that do not come from the workspace's list.
fn unlisted(path: &str, manifest: &str) -> Vec<String> {
    let headings = ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"];
    let lines = headings.iter().flat_map(|heading| section(manifest, heading));
    lines
        .filter(|line| key(line).is_some() && !line.contains("workspace = true"))
        .map(|line| format!("{path}: `{line}` goes past the root Cargo.toml; list it there"))
        .collect()
}

/// Names and versions of the crates from elsewhere that `package` brings along, itself and ours left out.
fn tree(package: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let told = workspace::cargo(&[&arguments[..], &["--target", TARGET, "--package", package]].concat());
    told.lines()
        .map(|line| line.trim_end_matches(" (*)").trim_end_matches(" (proc-macro)"))
        .filter(|line| !line.is_empty() && !line.contains(" ("))
        .map(str::to_owned)
        .collect()
}

/// The page as it should be.
fn ledger() -> String {
    let (reasons, refusals) = reasons(&workspace::read("Cargo.toml"));
    assert!(refusals.is_empty(), "\n{}\n", refusals.join("\n"));
    let packages = workspace::packages();
    let mut page = String::from(
        "# Dependencies\n\n\
         This page is made by `ci/dependencies --write` and compared by a test. The reasons come from the\n\
         comments in the root `Cargo.toml`; add a dependency there, with its reason, and run the command.\n\n\
         ## Direct dependencies\n\n| crate | used by | reason |\n| --- | --- | --- |\n",
    );
    for (name, reason) in &reasons {
        let users = packages.iter().filter(|package| package.dependencies.iter().any(|used| used.0 == *name));
        let users: Vec<&str> = users.map(|package| package.name.as_str()).collect();
        assert!(!users.is_empty(), "{name} is listed in the root Cargo.toml and nobody uses it; take it out");
        page += &format!("| {name} | {} | {reason} |\n", users.join(", "));
    }
    page += &format!(
        "\n## Crates brought along\n\n\
         Different crates from elsewhere that each of ours needs when it is built for {TARGET},\n\
         direct and indirect, without those for tests only.\n\n| ours | crates |\n| --- | --- |\n"
    );
    for package in &packages {
        page += &format!("| {} | {} |\n", package.name, tree(&package.name).len());
    }
    page
}

#[test]
fn the_ledger_tells_what_cargo_tree_tells() {
    let ledger = ledger();
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        let path = workspace::root().join(LEDGER);
        std::fs::write(&path, ledger).unwrap_or_else(|error| panic!("{LEDGER} can't be written: {error}"));
        return;
    }
    let recorded = workspace::read(LEDGER);
    let changed = |old: &str, new: &str, sign: char| -> Vec<String> {
        let lines = old.lines().filter(|line| !new.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    let mut differences = changed(&recorded, &ledger, '-');
    differences.extend(changed(&ledger, &recorded, '+'));
    assert!(
        recorded == ledger,
        "\nThe dependencies are not those recorded in {LEDGER}:\n{}\n\
         If that is meant, run `ci/dependencies --write` and commit the page.\n",
        differences.join("\n")
    );
}

#[test]
fn every_dependency_is_listed_in_the_root_manifest() {
    let manifests = workspace::packages().into_iter().map(|package| format!("{}/Cargo.toml", package.folder));
    let refusals: Vec<String> = manifests.flat_map(|path| unlisted(&path, &workspace::read(&path))).collect();
    assert!(refusals.is_empty(), "\n{}\n", refusals.join("\n"));
}

#[test]
fn no_second_runtime_and_no_tls_in_c_is_in_the_tree() {
    let lock = workspace::read("Cargo.lock");
    let names: BTreeSet<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    assert!(
        names.contains("\"libm\""),
        "Cargo.lock is not as expected: no libm among {} crates",
        names.len()
    );
    for refused in REFUSED {
        assert!(
            !names.contains(format!("\"{refused}\"").as_str()),
            "{refused} is in Cargo.lock; see CONTRIBUTING.md"
        );
    }
}

#[test]
fn a_dependency_without_a_reason_is_refused() {
    let manifest = "[workspace.dependencies]\nours = { path = \"ours\" }\n\n\
                    # Because.\n# Really.\na = \"1\"\nb = \"2\"\n\
                    # Away from it.\n\nc = { version = \"3\" }\n\
                    [profile.dev]\nopt-level = 1\n";
    let (reasons, refusals) = reasons(manifest);
    assert_eq!(reasons.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(reasons["a"], "Because. Really.");
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(refusals[0].starts_with("b has no reason") && refusals[1].starts_with("c has no reason"));
}

#[test]
fn a_dependency_past_the_workspace_list_is_refused() {
    let manifest = "[dependencies]\na = { workspace = true }\nb = \"2\"\n\n\
                    [dev-dependencies]\nc = \"3\"\n[[test]]\nname = \"d\"\n";
    let refusals = unlisted("x/Cargo.toml", manifest);
    assert_eq!(refusals.len(), 2, "{refusals:?}");
}
