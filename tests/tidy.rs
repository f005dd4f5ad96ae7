//! Style as a test, not as a remark in a review.
//!
//! Each rule is a function from a file to the lines that break it, and each has a sample that it must refuse:
//! a rule that never fires is found out. Formatting is rustfmt's, documentation of public items is the
//! compiler's (`missing_docs`); what they do not see is here.

mod workspace;

/// Characters in a line at most (architecture, section 7).
const LINE_CHARACTERS_MAX: usize = 110;
/// Lines in a file at most: a longer one is a room that wants walls.
const FILE_LINES_MAX: usize = 800;

/// What must not be left behind. Cut in two, so that this file does not refuse itself.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("db", "g!"),
    concat!("#[ign", "ore"),
];

/// Words that are not used, in text or as a part of a name, with what to write instead.
const WORDS: &[(&str, &str)] = &[
    (concat!("id", "x"), "index"),
    (concat!("ct", "x"), "context"),
    (concat!("cn", "t"), "count"),
    (concat!("ms", "g"), "message"),
    (concat!("pre", "v"), "previous, or what it is"),
    (concat!("cur", "r"), "current, or what it is"),
    (concat!("par", "ams"), "parameters, or what they are"),
    (concat!("ut", "il"), "what is in it"),
    (concat!("ut", "ils"), "what is in it"),
    (concat!("hel", "pers"), "what they do"),
    (concat!("white", "list"), "allowed"),
    (concat!("black", "list"), "refused"),
    (concat!("san", "ity"), "check"),
    (concat!("uti", "lize"), "use"),
    (concat!("lever", "age"), "use"),
    (concat!("seam", "less"), "say what happens"),
    (concat!("ha", "ck"), "say what it does and why"),
];

/// Where `unsafe` may be written: arithmetic with vector registers and threads, mapping files into memory,
/// and calling ggml to compare with it.
const UNSAFE_PLACES: &[&str] = &["kernels/", "node/engine/src/files/map.rs", "bench/src/ggml.rs"];
const UNSAFE: &str = concat!("uns", "afe");
const BOARD: &str = concat!("bo", "ard");
/// So many lines above an unsafe block are searched for its reason: it may stand above the statement.
const SAFETY_LINES: usize = 6;

/// A file of the repository, or a sample of one.
struct File<'a> {
    path: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn is(&self, extensions: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
    }

    fn is_rust(&self) -> bool {
        self.is(&["rs"])
    }

    /// Code that people write. Pages of text have long table rows and speak about the rules.
    fn is_code(&self) -> bool {
        self.is(&["rs", "toml", "sh", "py", "c", "h", "cu", "nix"]) || self.text.starts_with("#!/")
    }

    /// Lines with their numbers from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// Runs of letters, digits and underscores.
fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).filter(|name| !name.is_empty())
}

/// The line without its comment, for rules about code. (A `//` in a string cuts it as well, which does no
/// harm here.)
fn code(line: &str) -> &str {
    line.split("//").next().expect("a split has a first part")
}

/// A broken rule: the line and what is wrong with it.
type Refusal = (usize, String);

fn long_lines(file: &File) -> Vec<Refusal> {
    let long = file.lines().map(|(number, line)| (number, line.chars().count()));
    let long = long.filter(|&(_, count)| file.is_code() && count > LINE_CHARACTERS_MAX);
    long.map(|(number, count)| (number, format!("{count} characters, at most {LINE_CHARACTERS_MAX}")))
        .collect()
}

fn long_file(file: &File) -> Vec<Refusal> {
    let count = file.text.lines().count();
    let refused = file.is_code() && count > FILE_LINES_MAX;
    let refused =
        refused.then(|| (count, format!("{count} lines, at most {FILE_LINES_MAX}; divide the file")));
    refused.into_iter().collect()
}

fn leftovers(file: &File) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (number, line) in file.lines().filter(|_| file.is_code()) {
        for leftover in LEFTOVERS.iter().filter(|leftover| line.contains(**leftover)) {
            refusals.push((number, format!("{leftover} is left over: do it, or open an issue")));
        }
    }
    refusals
}

fn banned_words(file: &File) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (number, line) in file.lines().filter(|_| file.is_code()) {
        for part in names(line).flat_map(|name| name.split('_')) {
            for (word, instead) in WORDS.iter().filter(|(word, _)| part.eq_ignore_ascii_case(word)) {
                refusals.push((number, format!("\"{word}\" is not used; write: {instead}")));
            }
        }
    }
    refusals
}

fn module_head(file: &File) -> Vec<Refusal> {
    if !file.is_rust() {
        return Vec::new();
    }
    let mut lines = file.text.lines();
    let subtitle = lines.next().unwrap_or_default();
    let second = lines.next().unwrap_or_default();
    if !subtitle.starts_with("//! ") {
        vec![(1, "a file begins with `//!` and one line that says what it is".to_owned())]
    } else if second.starts_with("//!") && second != "//!" {
        vec![(2, "the second line of a module's head is blank, so that the first is its subtitle".to_owned())]
    } else {
        Vec::new()
    }
}

fn misplaced_unsafe(file: &File) -> Vec<Refusal> {
    if !file.is_rust() || UNSAFE_PLACES.iter().any(|place| file.path.starts_with(place)) {
        return Vec::new();
    }
    let lines = file.lines().filter(|(_, line)| names(code(line)).any(|name| name == UNSAFE));
    lines
        .map(|(number, _)| (number, format!("{UNSAFE} is only for {}", UNSAFE_PLACES.join(" and "))))
        .collect()
}

fn unsafe_without_reason(file: &File) -> Vec<Refusal> {
    if !file.is_rust() {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let opens = [format!("{UNSAFE} {{"), format!("{UNSAFE} impl")];
    let unexplained = |index: &usize| {
        let opened = opens.iter().any(|open| code(lines[*index]).contains(open));
        let above = &lines[index.saturating_sub(SAFETY_LINES)..=*index];
        opened && !above.iter().any(|line| line.contains("SAFETY:"))
    };
    let found = (0..lines.len()).filter(unexplained);
    found.map(|index| (index + 1, format!("{UNSAFE} without a `// SAFETY:` comment above it"))).collect()
}

fn board_in_code(file: &File) -> Vec<Refusal> {
    let chooses = |line: &str| line.contains("cfg") && names(line).any(|name| name == BOARD);
    let lines = file.lines().filter(|(_, line)| file.is_rust() && chooses(code(line)));
    lines
        .map(|(number, _)| {
            (number, "no code is chosen by a board; boards choose features and limits".to_owned())
        })
        .collect()
}

fn blanks_at_line_ends(file: &File) -> Vec<Refusal> {
    let blank = |line: &str| line.ends_with([' ', '\t', '\r']);
    let lines = file.lines().filter(|(_, line)| file.is_code() && blank(line));
    lines.map(|(number, _)| (number, "a blank at the end of the line".to_owned())).collect()
}

/// A rule with its name and a sample file that it must refuse.
struct Rule {
    name: &'static str,
    check: fn(&File) -> Vec<Refusal>,
    bad_path: &'static str,
    bad_text: String,
    bad_lines: &'static [usize],
}

fn rules() -> Vec<Rule> {
    let rule = |name, check, bad_path, bad_text: String, bad_lines| Rule {
        name,
        check,
        bad_path,
        bad_text,
        bad_lines,
    };
    let task = LEFTOVERS[0];
    let chosen = format!("#[cfg({BOARD} = \"pi5\")]\nfn a() {{}}\n#[cfg_attr({BOARD}, inline)]\n");
    vec![
        rule(
            "long_lines",
            long_lines,
            "ci/x.sh",
            format!("ä{}\n{}\n", "x".repeat(109), "x".repeat(111)),
            &[2],
        ),
        rule("long_file", long_file, "a.toml", "\n".repeat(801), &[801]),
        rule(
            "leftovers",
            leftovers,
            "a.rs",
            format!("fn a() {{}}\n// {task}: b\n{}]\n", LEFTOVERS[6]),
            &[2, 3],
        ),
        rule(
            "banned_words",
            banned_words,
            "a.c",
            format!("int index;\nint row_{};\n// {}\n", WORDS[0].0, WORDS[11].0),
            &[2, 3],
        ),
        rule("module_head", module_head, "a.rs", "//! Subtitle\n//! that goes on.\n".to_owned(), &[2]),
        rule("module_head", module_head, "a.rs", "use std::fmt;\n".to_owned(), &[1]),
        rule(
            "misplaced_unsafe",
            misplaced_unsafe,
            "node/src/a.rs",
            format!("// {UNSAFE} in a comment\n{UNSAFE}_name();\n{UNSAFE} {{ a() }}\n"),
            &[3],
        ),
        rule(
            "unsafe_without_reason",
            unsafe_without_reason,
            "kernels/src/a.rs",
            format!("// SAFETY: proven.\nlet a =\n    {UNSAFE} {{ a() }};\n\n\n\n\n{UNSAFE} {{ b() }}\n"),
            &[8],
        ),
        rule("board_in_code", board_in_code, "a.rs", chosen, &[1, 3]),
        rule("blanks_at_line_ends", blanks_at_line_ends, "a.py", "a = 1 \nb = 2\n".to_owned(), &[1]),
    ]
}

#[test]
fn every_file_keeps_the_rules() {
    let mut refusals = Vec::new();
    let mut code_files = 0;
    for path in workspace::files() {
        // Models and other bytes that are no text have no style.
        let Ok(text) = std::fs::read_to_string(workspace::root().join(&path)) else { continue };
        let file = File { path: &path, text: &text };
        code_files += usize::from(file.is_code());
        let mut checked: Vec<&str> = Vec::new();
        for rule in rules() {
            if !checked.contains(&rule.name) {
                checked.push(rule.name);
                let found = (rule.check)(&file);
                refusals.extend(found.into_iter().map(|(line, what)| format!("{path}:{line}: {what}")));
            }
        }
    }
    assert!(
        code_files > 10,
        "only {code_files} files of code were found below {}",
        workspace::root().display()
    );
    assert!(refusals.is_empty(), "\n{}\n", refusals.join("\n"));
}

#[test]
fn every_rule_refuses_its_bad_sample_and_nothing_else_in_it() {
    for rule in rules() {
        let found = (rule.check)(&File { path: rule.bad_path, text: &rule.bad_text });
        let lines: Vec<usize> = found.iter().map(|refusal| refusal.0).collect();
        assert_eq!(lines, rule.bad_lines, "{} on its sample: {found:?}", rule.name);
    }
}

#[test]
fn each_leftover_and_each_banned_word_is_refused() {
    for leftover in LEFTOVERS {
        assert_eq!(leftovers(&File { path: "a.rs", text: leftover }).len(), 1, "{leftover}");
    }
    for (word, _) in WORDS {
        for text in [word.to_string(), word.to_uppercase(), format!("a_{word}_b"), format!("\"{word}\"")] {
            assert_eq!(banned_words(&File { path: "a.rs", text: &text }).len(), 1, "{text}");
        }
        assert!(
            banned_words(&File { path: "a.rs", text: &format!("x{word}x") }).is_empty(),
            "{word} in a longer word"
        );
    }
}
