//! A node's life as its owner sees it: setup, identity, settings, start, status, stop.
//!
//! No test reaches beyond this machine: every home folder begins with settings that name no bootstrap peer.

#![cfg(unix)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{kwaainet, wait_until};
use serde_json::Value;

/// Settings that keep a node on this machine and out of others' ways.
const SETTINGS: &str = "\
# Of a test.
[http]
port = 0
[network]
bootstrap = [] # nobody
listen = [\"/ip4/127.0.0.1/tcp/0\"]
mdns = false
";

/// A home folder of a test; the node in it is killed when this is dropped.
struct Home(PathBuf);

impl Home {
    fn new(test: &str) -> Home {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.toml"), SETTINGS).unwrap();
        Home(folder)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = kwaainet();
        command.env("KWAAINET_HOME", &self.0).args(line.split_whitespace()).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("the binary starts")
    }

    /// Standard output of a command that succeeds.
    fn says(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.says(line)).unwrap()
    }

    /// Exit code and standard error of a command that fails.
    fn fails(&self, line: &str) -> (i32, String) {
        let output = self.run(line);
        (output.status.code().unwrap(), text(&output.stderr))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.run("stop --force");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn setup_makes_identity_and_settings_once() {
    let home = Home::new("setup_makes");
    fs::remove_dir_all(&home.0).unwrap();
    let made = home.json("setup --json");
    assert_eq!((&made["identity"]["made"], &made["config"]["made"]), (&true.into(), &true.into()));
    assert_eq!((mode(&home.0), mode(&home.file("identity.key"))), (0o700, 0o600));
    let key = fs::read(home.file("identity.key")).unwrap();
    assert_eq!((key.len(), &key[..4]), (68, &[8, 1, 18, 64][..]));
    let again = home.json("setup --json");
    assert_eq!((&again["identity"]["made"], &again["config"]["made"]), (&false.into(), &false.into()));
    assert_eq!(again["identity"]["peer_id"], made["identity"]["peer_id"]);
    assert_eq!(fs::read(home.file("identity.key")).unwrap(), key);
    assert!(home.says("setup").contains("was there"));
}

#[test]
fn identities_are_shown_taken_away_and_brought() {
    let home = Home::new("identities");
    home.says("setup");
    let shown = home.json("identity show --json");
    let peer_id = shown["peer_id"].as_str().unwrap().to_owned();
    assert!(peer_id.starts_with("12D3KooW"));
    assert!(shown["did"].as_str().unwrap().starts_with("did:key:z6Mk"));
    assert_eq!(shown["document"]["id"], shown["did"]);
    assert_eq!(home.json("identity show --document")["id"], shown["did"]);
    let export = home.file("export.key");
    home.says(&format!("identity export {}", export.display()));
    assert_eq!(mode(&export), 0o600);
    assert_eq!(fs::read(&export).unwrap(), fs::read(home.file("identity.key")).unwrap());
    assert_eq!(home.run("identity export").stdout, fs::read(&export).unwrap());
    // Nothing is overwritten.
    assert_eq!(home.fails(&format!("identity export {}", export.display())).0, 1);
    assert_eq!(home.fails("identity new").0, 1);
    assert_eq!(home.json("identity show --json")["peer_id"], peer_id.as_str());
    let new = home.json("identity new --force --json");
    assert_ne!(new["peer_id"], peer_id.as_str());
    assert!(fs::exists(new["kept"].as_str().unwrap()).unwrap());
    assert_eq!(
        home.json(&format!("identity import --force --json {}", export.display()))["peer_id"],
        peer_id.as_str()
    );
}

#[test]
fn a_key_of_hivemind_is_taken_over() {
    let home = Home::new("a_key_of_hivemind");
    let key = home.file("hivemind.key");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/trust/tests/data/rsa-2048.key"), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    let brought = home.json(&format!("identity import --json {}", key.display()));
    assert!(brought["peer_id"].as_str().unwrap().starts_with("Qm"));
    assert_eq!(brought["kind"], "RSA");
}

#[test]
fn a_sealed_key_opens_by_file_and_by_variable_only() {
    let home = Home::new("a_sealed_key");
    let secret = home.file("secret");
    fs::write(&secret, "open sesame\n").unwrap();
    let made = home.json(&format!("identity new --json --passphrase-file {}", secret.display()));
    assert!(fs::read(home.file("identity.key")).unwrap().starts_with(b"kwaainet sealed"));
    let show = |variable: &str| {
        let output =
            home.command("identity show --json").env("KWAAINET_PASSPHRASE", variable).output().unwrap();
        (output.status.code(), output.stdout)
    };
    assert_eq!(show("wrong").0, Some(77));
    let (code, shown) = show("open sesame");
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap()["peer_id"], made["peer_id"]);
    home.says(&format!("config set identity.passphrase_file {}", secret.display()));
    assert_eq!(home.json("identity show --json")["peer_id"], made["peer_id"]);
}

#[test]
fn settings_are_set_told_and_taken_back() {
    let home = Home::new("settings");
    home.says("config set model.sessions 2");
    assert_eq!(home.says("config get model.sessions"), "2\n");
    let file = fs::read_to_string(home.file("config.toml")).unwrap();
    assert!(file.starts_with(SETTINGS) && file.contains("[model]\nsessions = 2\n"), "{file}");
    home.says("config unset model.sessions");
    let list = home.json("config list --json");
    assert_eq!(list["model.sessions"]["source"], "default");
    assert_eq!(list["http.port"]["source"], "file");
    let mut command = home.command("config get --json http.port");
    let output = command.env("KWAAINET_HTTP_PORT", "7").output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["value"], &told["source"]), (&7.into(), &"environment".into()));
    home.says("config set http.cors https://a.example https://b.example");
    assert_eq!(home.says("config get http.cors"), "https://a.example,https://b.example\n");
    home.says("config set http.cors");
    assert_eq!(home.says("config get http.cors"), "\n");
    let (code, said) = home.fails("config set http.prot 1");
    assert!(code == 2 && said.contains("http.port"), "{said}");
    let (code, said) = home.fails("config set http.port 65536");
    assert!(code == 2 && said.contains("0 to 65535"), "{said}");
    assert_eq!(home.fails("config set http.port 1 2").0, 2);
}

#[test]
fn a_daemon_starts_with_its_flags_answers_restarts_and_stops() {
    let home = Home::new("a_daemon");
    let said = home.says("start --daemon --name story");
    assert!(said.contains("The node runs as process"), "{said}");
    let status = home.json("status --json");
    assert_eq!(status["model"]["model"], "story");
    assert_eq!(status["parts"]["http"]["state"], "running");
    wait_until("the network runs", || home.json("status --json")["parts"]["network"]["state"] == "running");
    let shown = home.says("status");
    assert!(shown.contains("story") && shown.contains("Network   runs"), "{shown}");
    assert_eq!(mode(&home.file("run/control.socket")), 0o600);
    assert_eq!(mode(&home.file("run")), 0o700);
    let (code, said) = home.fails("start --daemon");
    assert!(code == 4 && said.contains("runs already"), "{said}");
    assert_eq!(home.fails("start").0, 4);
    assert_eq!(home.fails("identity new --force").0, 4);
    assert!(home.says("logs -n 100").contains("Listening at http://127.0.0.1:"));
    home.says("restart");
    let again = home.json("status --json");
    assert_ne!(again["process"], status["process"]);
    assert_eq!(again["model"]["model"], "story");
    assert_eq!(again["network"]["peer_id"], status["network"]["peer_id"]);
    home.says("stop");
    assert_eq!(home.run("status").status.code(), Some(3));
    assert_eq!(home.run("status --json").stdout, b"{\"running\":false}\n");
    assert_eq!(home.fails("stop").0, 3);
    assert_eq!(home.fails("restart").0, 3);
    assert_eq!(home.fails("p2p info").0, 3);
    assert_eq!(home.run("logs -n 100000").status.code(), Some(0));
    assert_eq!(home.fails("logs -n 100001").0, 2);
    assert_eq!(home.fails("p2p peers ping -c 1000 12D3").0, 3);
    assert_eq!(home.fails("p2p peers ping -c 1001 12D3").0, 2);
    assert!(!home.file("run/control.socket").exists());
}

#[test]
fn a_daemon_that_can_not_start_says_why() {
    let home = Home::new("a_daemon_that_can_not");
    let (code, said) = home.fails("start --daemon --model /nonexistent.gguf");
    assert!(code == 1 && said.contains("/nonexistent.gguf"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (code, said) = home.fails(&format!("start --daemon --port {port}"));
    assert!(code == 1 && said.contains(&port.to_string()), "{said}");
    let (code, said) = home.fails("start --daemon --set http.prot=1");
    assert!(code == 2 && said.contains("http.port"), "{said}");
    let (code, said) =
        home.fails(&format!("start --daemon --identity-key {}", home.file("none.key").display()));
    assert!(code == 77 && said.contains("none.key"), "{said}");
    home.says("setup");
    fs::set_permissions(home.file("identity.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = home.fails("start --daemon");
    assert!(code == 77 && said.contains("chmod 600"), "{said}");
    fs::OpenOptions::new()
        .append(true)
        .open(home.file("config.toml"))
        .unwrap()
        .write_all(b"[oops\n")
        .unwrap();
    assert_eq!(home.fails("start --daemon").0, 78);
    assert_eq!(home.fails("start").0, 78);
    assert_eq!(home.run("status").status.code(), Some(3));
}

#[test]
fn a_killed_node_leaves_nothing_in_the_way_of_the_next() {
    let home = Home::new("a_killed_node");
    home.says("start --daemon");
    let process = home.json("status --json")["process"].to_string();
    assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
    wait_until("the node is gone", || home.run("status").status.code() == Some(3));
    assert!(home.file("run/control.socket").exists() && home.file("run/lock").exists());
    home.says("start --daemon");
    assert_ne!(home.json("status --json")["process"].to_string(), process);
    home.says("stop");
}

#[test]
fn metrics_are_told_as_prometheus_reads_them() {
    let home = Home::new("metrics");
    home.says("start --daemon");
    wait_until("the network runs", || home.json("status --json")["parts"]["network"]["state"] == "running");
    let address =
        home.json("status --json")["http"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let ask = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        std::io::read_to_string(stream).unwrap()
    };
    wait_until("the model is there", || ask("/health").starts_with("HTTP/1.1 200"));
    let metrics = ask("/metrics");
    assert!(metrics.contains("Content-Type: text/plain; version=0.0.4"), "{metrics}");
    for line in [
        "kwaainet_http_answers_total{status=\"2xx\"} ",
        "kwaainet_inference_requests_total 0",
        "kwaainet_process_resident_bytes ",
        "kwaainet_peers{state=\"useful\"} 0",
        "kwaainet_dht_records 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn two_nodes_find_each_other_by_bootstrap() {
    let (one, other) = (Home::new("two_nodes_one"), Home::new("two_nodes_other"));
    one.says("start --daemon");
    wait_until("the first listens", || one.json("status --json")["network"]["listen"][0].is_string());
    let info = one.json("p2p info --json");
    let (listen, id) = (info["listen"][0].as_str().unwrap(), info["peer_id"].as_str().unwrap());
    let address = if listen.contains("/p2p/") { listen.to_owned() } else { format!("{listen}/p2p/{id}") };
    other.says(&format!("config set network.bootstrap {address}"));
    other.says("start --daemon");
    let sees = |home: &Home, peer: &str| {
        let peers = home.json("p2p peers list --json");
        let found = peers.as_array().unwrap().iter().find(|found| found["peer_id"] == peer).cloned();
        found.is_some_and(|found| matches!(found["state"].as_str(), Some("authenticated" | "useful")))
    };
    wait_until("the second sees the first", || sees(&other, id));
    let second = other.json("p2p info --json")["peer_id"].as_str().unwrap().to_owned();
    wait_until("the first sees the second", || sees(&one, &second));
    assert!(other.says("p2p peers list").contains(id));
    assert!(other.says(&format!("p2p peers find {id}")).contains("/ip4/127.0.0.1/tcp/"));
    assert!(other.says(&format!("p2p peers ping -c 2 {id}")).contains("median"));
    assert_eq!(other.json(&format!("p2p peers connect --json {address}"))["peer_id"], id);
    let (code, said) = one.fails(&format!("p2p peers connect {address}"));
    assert!(code == 1 && said.contains("itself"), "{said}");
    let nobody = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
    assert_eq!(other.fails(&format!("p2p peers ping {nobody}")).0, 1);
    assert_eq!(other.fails("p2p peers ping nobody").0, 1);
}

#[test]
fn a_network_that_fails_is_a_state_and_no_end() {
    let home = Home::new("a_network_that_fails");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    home.says(&format!("start --daemon --set network.listen=/ip4/127.0.0.1/tcp/{port}"));
    wait_until("the network failed", || home.json("status --json")["parts"]["network"]["state"] == "failed");
    assert_eq!(home.json("status --json")["parts"]["http"]["state"], "running");
    assert!(home.says("status").contains("again in"));
    drop(taken);
    wait_until("the network runs", || home.json("status --json")["parts"]["network"]["state"] == "running");
}

#[test]
fn systemd_hears_that_the_node_is_ready_alive_and_ends() {
    let home = Home::new("systemd_hears");
    let path = home.file("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut command = home.command("start");
    command.env("NOTIFY_SOCKET", &path).env("INVOCATION_ID", "0").env("WATCHDOG_USEC", "100000");
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let hear = || {
        let mut bytes = [0; 64];
        let count = socket.recv(&mut bytes).expect("a word comes");
        text(&bytes[..count])
    };
    let hear_until = |word: &str| (0..1000).any(|_| hear() == word);
    assert!(hear_until("READY=1"));
    assert_eq!(home.json("status --json")["managed_by"], "systemd");
    assert!(home.fails("restart").1.contains("systemctl restart"));
    assert!((0..3).all(|_| hear_until("WATCHDOG=1")));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(hear_until("STOPPING=1"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_node_at_the_terminal_says_what_it_does_and_ends_by_interrupt() {
    let home = Home::new("a_node_at_the_terminal");
    let child = home.command("start --no-network").stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the node is ready", || {
        home.run("status --json").status.success() && home.says("logs").contains("The node is up as")
    });
    assert_eq!(home.json("status --json")["parts"]["network"]["state"], "off");
    assert_eq!(home.fails("p2p info").0, 1);
    assert!(Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = text(&output.stderr);
    assert!(said.starts_with("Made the identity") || said.starts_with("Listening at"), "{said}");
    assert!(said.contains("Ended."), "{said}");
}

#[test]
fn config_killed_at_any_moment_is_whole() {
    let home = Home::new("config_killed");
    for round in 0..200u64 {
        let mut child =
            home.command(&format!("config set model.sessions {}", 1 + round % 9)).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round * 53 % 8000));
        child.kill().unwrap();
        child.wait().unwrap();
        let file = fs::read_to_string(home.file("config.toml")).unwrap();
        assert!(file.starts_with(SETTINGS), "round {round}: {file}");
    }
    home.says("config set model.sessions 3");
    assert_eq!(home.says("config get model.sessions"), "3\n");
    assert_eq!(fs::read_dir(&home.0).unwrap().count(), 1);
}

#[test]
fn units_are_written_told_and_taken_away() {
    let home = Home::new("units");
    let mut told = Vec::new();
    for line in ["service status", "service install", "service status", "service uninstall"] {
        let output = home.command(line).env("XDG_CONFIG_HOME", &home.0).output().unwrap();
        told.push((output.status.code(), text(&output.stdout)));
        if line == "service install" && cfg!(target_os = "linux") {
            let unit = fs::read_to_string(home.file("systemd/user/kwaainet.service")).unwrap();
            assert!(unit.contains("Type=notify\n") && unit.contains("WatchdogSec="), "{unit}");
        }
    }
    if cfg!(target_os = "linux") {
        assert_eq!(told[0].0, Some(3));
        assert!(told[1].1.contains("systemctl --user enable --now kwaainet"), "{told:?}");
        assert!(told[2].1.starts_with("Installed as"), "{told:?}");
        assert!(told[3].1.starts_with("Removed"), "{told:?}");
        assert!(!home.file("systemd/user/kwaainet.service").exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let home = Home::new("systemd_finds");
    for (extent, line) in
        [("--user", "service install --print"), ("--system", "service install --system --print")]
    {
        let unit = home.file("kwaainet.service");
        let text_of_unit = home.says(line);
        fs::write(&unit, &text_of_unit).unwrap();
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", extent, "--man=no"]).arg(&unit).env("XDG_RUNTIME_DIR", &home.0);
        let Ok(output) = verify.output() else {
            println!("skipped: systemd_finds_nothing_wrong_with_the_units: no systemd-analyze");
            return;
        };
        let said = text(&output.stderr);
        assert!(
            output.status.success() && !said.contains("kwaainet.service:"),
            "{extent}: {said}\n{text_of_unit}"
        );
    }
}
