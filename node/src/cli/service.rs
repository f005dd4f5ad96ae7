//! `kwaainet service`: the node under the system's own supervisor.
//!
//! A unit is written and what to do with it is told; nothing is enabled or started behind anyone's back.
//! Under systemd the node says when it is ready and gives signs of life, and what it does not need is shut to
//! it.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use argh::FromArgs;
use kwaainet_trust::disk::{self, Readers};

use crate::exit::{Exit, Failure};
use crate::home;

/// the node as a service of the system: systemd, or launchd on macOS
#[derive(FromArgs)]
#[argh(subcommand, name = "service")]
pub struct Service {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Install(Install),
    Uninstall(Uninstall),
    Status(Status),
}

/// write the unit, and tell how to enable it
#[derive(FromArgs)]
#[argh(subcommand, name = "install")]
#[argh(note = "--system writes /etc/systemd/system/kwaainet.service for a user of its own, kwaainet.")]
struct Install {
    /// for the whole machine, from boot on; needs root
    #[argh(switch)]
    system: bool,
    /// print the unit instead of writing it
    #[argh(switch)]
    print: bool,
}

/// remove the unit
#[derive(FromArgs)]
#[argh(subcommand, name = "uninstall")]
struct Uninstall {
    /// that of the whole machine; needs root
    #[argh(switch)]
    system: bool,
}

/// tell where the unit is and what the system says of it
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
struct Status {
    /// that of the whole machine
    #[argh(switch)]
    system: bool,
}

/// A unit of one of the supervisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    SystemdSystem,
    SystemdUser,
    Launchd,
}

impl Service {
    /// Does what was asked.
    pub fn execute(self) -> Result<Exit, Failure> {
        match self.command {
            Command::Install(command) => command.execute(),
            Command::Uninstall(command) => command.execute(),
            Command::Status(command) => command.execute(),
        }
    }
}

impl Unit {
    fn choose(system: bool) -> Result<Unit, Failure> {
        if cfg!(target_os = "macos") {
            if system {
                return Err(Failure::usage("on macOS the service is the user's; leave --system out"));
            }
            return Ok(Unit::Launchd);
        }
        if !cfg!(target_os = "linux") {
            return Err(Failure::new(Exit::Failure, "services are written for systemd and launchd only"));
        }
        Ok(if system { Unit::SystemdSystem } else { Unit::SystemdUser })
    }

    fn path(self) -> Result<PathBuf, Failure> {
        let user = |inside: &str| {
            let home = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
            let home = home
                .ok_or_else(|| Failure::new(Exit::Failure, "HOME is not set, so there is no user's unit"));
            home.map(|home| home.join(inside))
        };
        match self {
            Unit::SystemdSystem => Ok(PathBuf::from("/etc/systemd/system/kwaainet.service")),
            Unit::SystemdUser => match env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()) {
                Some(folder) => Ok(PathBuf::from(folder).join("systemd/user/kwaainet.service")),
                None => user(".config/systemd/user/kwaainet.service"),
            },
            Unit::Launchd => user("Library/LaunchAgents/ai.kwaai.kwaainet.plist"),
        }
    }

    /// The unit's text for a binary and a home folder.
    fn text(self, binary: &Path, home: &Path) -> Result<String, Failure> {
        match self {
            // In command lines a dollar begins a variable.
            Unit::SystemdSystem => Ok(systemd(&quoted(binary)?.replace('$', "$$"), None)),
            Unit::SystemdUser => Ok(systemd(&quoted(binary)?.replace('$', "$$"), Some(&quoted(home)?))),
            Unit::Launchd => Ok(launchd(&escaped(binary), &escaped(home))),
        }
    }

    /// What enables it, a command a line.
    fn enable(self, path: &Path) -> String {
        match self {
            Unit::SystemdSystem => "  systemctl daemon-reload\n  systemctl enable --now kwaainet".into(),
            Unit::SystemdUser => {
                "  systemctl --user daemon-reload\n  systemctl --user enable --now kwaainet\n  \
                 loginctl enable-linger        # so that it runs without a login"
                    .into()
            }
            Unit::Launchd => format!("  launchctl bootstrap gui/$(id -u) {}", path.display()),
        }
    }

    /// What disables it.
    fn disable(self) -> &'static str {
        match self {
            Unit::SystemdSystem => "systemctl disable --now kwaainet",
            Unit::SystemdUser => "systemctl --user disable --now kwaainet",
            Unit::Launchd => "launchctl bootout gui/$(id -u)/ai.kwaai.kwaainet",
        }
    }

    /// What asks the system about it.
    fn ask(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Unit::SystemdSystem => ("systemctl", &["is-active", "kwaainet"]),
            Unit::SystemdUser => ("systemctl", &["--user", "is-active", "kwaainet"]),
            Unit::Launchd => ("launchctl", &["list", "ai.kwaai.kwaainet"]),
        }
    }
}

impl Install {
    fn execute(self) -> Result<Exit, Failure> {
        let unit = Unit::choose(self.system)?;
        let text = unit.text(&env::current_exe()?, &home::path()?)?;
        let mut out = std::io::stdout();
        if self.print {
            write!(out, "{text}")?;
            return Ok(Exit::Success);
        }
        let path = unit.path()?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| {
                Failure::new(Exit::Failure, format!("the folder {} can't be made: {error}", folder.display()))
            })?;
        }
        disk::replace(&path, text.as_bytes(), Readers::Anyone)?;
        writeln!(out, "Wrote {}. Nothing runs yet; this enables it:", path.display())?;
        if unit == Unit::SystemdSystem {
            writeln!(out, "  useradd --system --user-group kwaainet")?;
        }
        writeln!(out, "{}", unit.enable(&path))?;
        Ok(Exit::Success)
    }
}

impl Uninstall {
    fn execute(self) -> Result<Exit, Failure> {
        let unit = Unit::choose(self.system)?;
        let path = unit.path()?;
        let mut out = std::io::stdout();
        match fs::remove_file(&path) {
            Ok(()) => {
                writeln!(out, "Removed {}. What still runs is ended by:", path.display())?;
                writeln!(out, "  {}", unit.disable())?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                writeln!(out, "There is no {}.", path.display())?;
            }
            Err(error) => {
                let message = format!("{} can't be removed: {error}", path.display());
                return Err(Failure::new(Exit::Failure, message));
            }
        }
        Ok(Exit::Success)
    }
}

impl Status {
    fn execute(self) -> Result<Exit, Failure> {
        let unit = Unit::choose(self.system)?;
        let path = unit.path()?;
        let mut out = std::io::stdout();
        if !path.exists() {
            writeln!(out, "Not installed: there is no {}.", path.display())?;
            return Ok(Exit::NotRunning);
        }
        let (program, arguments) = unit.ask();
        let said = std::process::Command::new(program).args(arguments).output();
        let (state, is_active) = match said {
            Ok(said) => (String::from_utf8_lossy(&said.stdout).trim().to_owned(), said.status.success()),
            Err(error) => (format!("{program} can't be asked: {error}"), false),
        };
        let state = if state.is_empty() { "unknown" } else { &state };
        writeln!(out, "Installed as {}: {state}", path.display())?;
        Ok(if is_active { Exit::Success } else { Exit::NotRunning })
    }
}

/// A path as systemd's units take it (systemd.syntax(7), and %% of systemd.unit(5)).
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control)).ok_or_else(|| {
        Failure::new(Exit::Failure, format!("the path {} can't stand in a unit", path.display()))
    })?;
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    Ok(format!("\"{text}\""))
}

/// A path as XML takes it.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Exit codes that another start would give again: wrong settings, processor, model, identity.
const HOPELESS: &str = "2 4 64 65 77 78";

/// The unit; `home` is the user's own folder, none for a user of its own under `/var/lib`.
fn systemd(binary: &str, home: Option<&str>) -> String {
    // What hides files needs namespaces, which many systems give root's units only.
    let (folder, hiding, target) = match home {
        Some(home) => (format!("Environment=KWAAINET_HOME={home}\n"), "", "default.target"),
        None => (
            "User=kwaainet\nGroup=kwaainet\nStateDirectory=kwaainet\nStateDirectoryMode=0700\n\
             Environment=KWAAINET_HOME=/var/lib/kwaainet\n"
                .to_owned(),
            "CapabilityBoundingSet=\nPrivateDevices=yes\nPrivateTmp=yes\nProtectClock=yes\n\
             ProtectControlGroups=yes\nProtectHome=read-only\nProtectHostname=yes\nProtectKernelLogs=yes\n\
             ProtectKernelModules=yes\nProtectKernelTunables=yes\nProtectProc=invisible\n\
             ProtectSystem=strict\n",
            "multi-user.target",
        ),
    };
    format!(
        "\
# Written by `kwaainet service install`.
[Unit]
Description=kwaainet, a node for decentralised AI
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=600
StartLimitBurst=10

[Service]
Type=notify
NotifyAccess=main
ExecStart={binary} start
Restart=on-failure
RestartSec=5
RestartPreventExitStatus={HOPELESS}
SuccessExitStatus=130
TimeoutStartSec=120
TimeoutStopSec=30
WatchdogSec=60
{folder}
UMask=0077
LimitCORE=0
LimitNOFILE=4096
NoNewPrivileges=yes
{hiding}\
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy={target}
"
    )
}

/// The property list of launchd; written after its manual, not tried on a Mac.
fn launchd(binary: &str, home: &str) -> String {
    format!(
        "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<plist version=\"1.0\">
<dict>
  <key>Label</key><string>ai.kwaai.kwaainet</string>
  <key>ProgramArguments</key><array><string>{binary}</string><string>start</string></array>
  <key>EnvironmentVariables</key><dict><key>KWAAINET_HOME</key><string>{home}</string></dict>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <key>ThrottleInterval</key><integer>10</integer>
  <key>Umask</key><integer>63</integer>
</dict>
</plist>
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit as Code;

    #[test]
    fn paths_with_signs_stand_quoted_in_a_unit() {
        let text = quoted(Path::new("/home/a b/100%$x\"\\")).unwrap();
        assert_eq!(text, "\"/home/a b/100%%$x\\\"\\\\\"");
        assert!(quoted(Path::new("/a\nExecStart=/bin/x")).is_err());
        assert_eq!(escaped(Path::new("/a&<b>")), "/a&amp;&lt;b&gt;");
    }

    #[test]
    fn hopeless_codes_are_those_that_do_not_mend_themselves() {
        for exit in [
            Code::Usage,
            Code::AlreadyRunning,
            Code::WrongProcessor,
            Code::BrokenModel,
            Code::NoIdentity,
            Code::Config,
        ] {
            assert!(HOPELESS.split(' ').any(|code| code == (exit as u8).to_string()), "{exit:?}");
        }
        assert_eq!(HOPELESS.split(' ').count(), 6);
    }

    #[test]
    fn each_unit_names_binary_and_home() {
        let (binary, home) = (Path::new("/opt/kwaainet"), Path::new("/home/a/.kwaainet"));
        let user = Unit::SystemdUser.text(binary, home).unwrap();
        assert!(user.contains("ExecStart=\"/opt/kwaainet\" start\n"), "{user}");
        assert!(user.contains("KWAAINET_HOME=\"/home/a/.kwaainet\"\n") && !user.contains("User="), "{user}");
        let system = Unit::SystemdSystem.text(binary, home).unwrap();
        assert!(system.contains("User=kwaainet\n") && !system.contains("/home/a"), "{system}");
        let launchd = Unit::Launchd.text(binary, home).unwrap();
        assert!(launchd.contains("<string>/opt/kwaainet</string>"), "{launchd}");
    }
}
