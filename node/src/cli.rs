//! The command line: what was asked for, and who does it.
//!
//! Standard output carries the answer and nothing else; all that is said about it goes to standard error.

mod benchmark;
mod chat;
mod config;
mod generate;
mod identity;
mod inspect;
mod logs;
mod p2p;
mod perplexity;
mod run;
mod serve;
mod service;
mod setup;
mod start;
mod stats;
mod status;
mod sweep;
mod tokenize;

use std::io::{self, Write};

use argh::FromArgs;

use crate::exit::{Exit, Failure};

/// A node for decentralised AI: runs language models, and finds others of its kind.
#[derive(FromArgs)]
struct Arguments {
    /// print the version
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(run::Run),
    Serve(serve::Serve),
    Setup(setup::Setup),
    Start(start::Start),
    Stop(start::Stop),
    Restart(start::Restart),
    Status(status::Status),
    Logs(logs::Logs),
    P2p(p2p::P2p),
    Announce(p2p::Announce),
    Identity(identity::IdentityCommand),
    Config(config::ConfigCommand),
    Service(service::Service),
    Inspect(inspect::Inspect),
    Benchmark(benchmark::Benchmark),
    Perplexity(perplexity::Perplexity),
    Tokenize(tokenize::Tokenize),
}

/// Does what the command line says; a failure is told on standard error.
pub fn main() -> Exit {
    match command_line() {
        Ok(exit) => exit,
        Err(failure) => {
            if failure.exit != Exit::Success {
                eprintln!("kwaainet: {failure}");
            }
            failure.exit
        }
    }
}

fn command_line() -> Result<Exit, Failure> {
    let mut words = Vec::new();
    for word in std::env::args_os() {
        let word = word
            .into_string()
            .map_err(|word| Failure::usage(format!("the argument {} is no Unicode", word.display())))?;
        words.push(word);
    }
    let words = plain_words(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let name = words.first().copied().unwrap_or("kwaainet");
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let arguments = match Arguments::from_args(&[name], words.get(1..).unwrap_or_default()) {
        Ok(arguments) => arguments,
        Err(early) if early.status.is_ok() => {
            writeln!(io::stdout(), "{}", early.output.trim_end())?;
            return Ok(Exit::Success);
        }
        Err(early) => return Err(Failure::usage(early.output.trim_end())),
    };
    if arguments.version {
        writeln!(io::stdout(), "kwaainet {}", env!("CARGO_PKG_VERSION"))?;
        return Ok(Exit::Success);
    }
    match arguments.command {
        Some(Command::Run(command)) => command.execute(),
        Some(Command::Serve(command)) => command.execute(),
        Some(Command::Setup(command)) => command.execute(),
        Some(Command::Start(command)) => command.execute(),
        Some(Command::Stop(command)) => command.execute(),
        Some(Command::Restart(command)) => command.execute(),
        Some(Command::Status(command)) => command.execute(),
        Some(Command::Logs(command)) => command.execute(),
        Some(Command::P2p(command)) => command.execute(),
        Some(Command::Announce(command)) => command.execute(),
        Some(Command::Identity(command)) => command.execute(),
        Some(Command::Config(command)) => command.execute(),
        Some(Command::Service(command)) => command.execute(),
        Some(Command::Inspect(command)) => command.execute(),
        Some(Command::Benchmark(command)) => command.execute(),
        Some(Command::Perplexity(command)) => command.execute(),
        Some(Command::Tokenize(command)) => command.execute(),
        None => Err(Failure::usage(format!("say what to do; `{name} --help` tells what there is"))),
    }
}

/// What the word `-`, standard input, becomes before argh sees it, which would take it for an option. No
/// argument of a process can hold this character.
pub const STANDARD_INPUT: &str = "\0";

/// `-` becomes [`STANDARD_INPUT`], and `--name=value` becomes `--name value`, the only form that argh knows.
/// Nothing after `--` is touched.
fn plain_words(words: Vec<String>) -> Vec<String> {
    let mut out = Vec::with_capacity(words.len());
    let mut is_open = true;
    for word in words {
        is_open &= word != "--";
        match word.split_once('=') {
            Some((name, value)) if is_open && is_option(name) => out.extend([name.into(), value.into()]),
            _ if word == "-" => out.push(STANDARD_INPUT.into()),
            _ => out.push(word),
        }
    }
    out
}

fn is_option(word: &str) -> bool {
    let letters = word.strip_prefix("--").unwrap_or_default();
    !letters.is_empty()
        && letters.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_stand_behind_an_equals_sign_and_a_dash_is_standard_input() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(plain_words(words("k run --seed=3 a=b --x=-1")), words("k run --seed 3 a=b --x -1"));
        assert_eq!(plain_words(words("k -- --seed=3")), words("k -- --seed=3"));
        assert_eq!(plain_words(words("k --=3")), words("k --=3"));
        assert_eq!(plain_words(words("k -")), ["k", STANDARD_INPUT]);
    }

    #[test]
    fn the_command_line_is_sound() {
        let help = Arguments::from_args(&["kwaainet"], &["--help"]).map(|_| ()).unwrap_err();
        for command in [
            "run",
            "serve",
            "setup",
            "start",
            "stop",
            "restart",
            "status",
            "logs",
            "p2p",
            "identity",
            "config",
            "service",
            "inspect",
            "benchmark",
            "perplexity",
            "tokenize",
        ] {
            assert!(help.output.contains(command), "{}", help.output);
            let help = Arguments::from_args(&["kwaainet"], &[command, "--help"]).map(|_| ()).unwrap_err();
            assert!(help.status.is_ok());
        }
    }
}
