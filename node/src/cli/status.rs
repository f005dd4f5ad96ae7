//! `kwaainet status`: how the running node is.

use std::fmt::Write as _;
use std::io::Write;

use argh::FromArgs;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::{control, home};

/// tell how the running node is; exit code 3 if none runs
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// answer with one JSON object
    #[argh(switch)]
    json: bool,
}

impl Status {
    /// Asks the node.
    pub fn execute(self) -> Result<Exit, Failure> {
        let answer = control::ask(&home::path()?, &json!({"ask": "status"}));
        let mut out = std::io::stdout();
        match answer {
            Ok(status) if self.json => writeln!(out, "{status}")?,
            Ok(status) => write!(out, "{}", text(&status))?,
            Err(failure) if self.json && failure.exit == Exit::NotRunning => {
                writeln!(out, "{}", json!({"running": false}))?;
                return Ok(Exit::NotRunning);
            }
            Err(failure) => return Err(failure),
        }
        Ok(Exit::Success)
    }
}

/// The status as a person reads it.
fn text(status: &Value) -> String {
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let uptime_s = number(&status["uptime_s"]);
    let mut out = String::new();
    // Writing to a String never fails.
    let _ = writeln!(
        out,
        "kwaainet {} runs as process {}, up {}{}",
        string(&status["version"]),
        status["process"],
        duration(uptime_s as u64),
        status["managed_by"].as_str().map_or(String::new(), |manager| format!(", kept by {manager}")),
    );
    let _ = writeln!(out, "Identity  {}", string(&status["network"]["peer_id"]));
    let _ = writeln!(out, "Home      {}", string(&status["home"]));
    let _ = writeln!(out, "HTTP      {}", string(&status["http"]));
    let model = &status["model"];
    let _ = match model["status"].as_str() {
        Some("ok") => writeln!(
            out,
            "Model     {}: {} of {} answers running, {} waiting, {} requests since the start",
            string(&model["model"]),
            model["active"],
            model["active_max"],
            model["waiting"],
            model["requests_total"],
        ),
        _ => writeln!(out, "Model     {} is loading", string(&model["model"])),
    };
    let _ = writeln!(out, "Network   {}", network(&status["parts"]["network"], &status["network"]));
    for address in status["network"]["listen"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "          {}", string(address));
    }
    let _ = writeln!(
        out,
        "Memory    {:.1} MB resident, {:.1} MB of its own; processor {:.2} % since the start",
        number(&status["resident_bytes"]) / 1e6,
        number(&status["anonymous_bytes"]) / 1e6,
        100.0 * number(&status["processor_s"]) / uptime_s.max(1.0),
    );
    out
}

fn network(part: &Value, network: &Value) -> String {
    match part["state"].as_str() {
        Some("running") => {
            let peers = &network["peers"];
            format!(
                "runs: {} connections; peers: {} useful, {} authenticated, {} dialled, {} seen; \
                 DHT: {} nodes; reachability {}",
                network["connections"],
                peers["useful"],
                peers["authenticated"],
                peers["dialled"],
                peers["seen"],
                network["dht"]["nodes"],
                network["reachability"].as_str().unwrap_or("unknown"),
            )
        }
        Some("failed") => format!(
            "failed {} times: {}; again in {} s",
            part["failures"],
            part["reason"].as_str().unwrap_or_default(),
            part["again_in_s"]
        ),
        Some("off") => format!("off: {}", part["reason"].as_str().unwrap_or_default()),
        _ => "starts".to_owned(),
    }
}

/// Such as `2 d 3 h`: the two largest units.
fn duration(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown: Vec<String> =
        parts[first..].iter().take(2).map(|(count, unit)| format!("{count} {unit}")).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_661, "1 h 1 min"), (200_000, "2 d 7 h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
