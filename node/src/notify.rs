//! Word to systemd: that the node is ready, that it ends, and that it is alive (sd_notify(3)).
//!
//! A datagram of text to the socket that systemd names. Without one nothing is said. The sign of life comes
//! from the executor's own thread, so that a stuck node is noticed.

use std::env;
use std::time::Duration;

use smol::Timer;

/// Says `state`, such as `READY=1`, if systemd listens.
pub fn say(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    // A manager that does not listen is none of the node's business.
    let _ = send(&name, state);
}

#[cfg(unix)]
fn send(name: &std::ffi::OsStr, state: &str) -> std::io::Result<usize> {
    use std::os::unix::net::UnixDatagram;
    let socket = UnixDatagram::unbound()?;
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::net::SocketAddr;
        if let Some(name) = name.as_bytes().strip_prefix(b"@") {
            return socket.send_to_addr(state.as_bytes(), &SocketAddr::from_abstract_name(name)?);
        }
    }
    socket.send_to(state.as_bytes(), name)
}

#[cfg(not(unix))]
fn send(_name: &std::ffi::OsStr, _state: &str) -> std::io::Result<usize> {
    Ok(0)
}

/// Gives signs of life for ever, twice as often as systemd asks; waits for ever if it does not ask.
pub async fn stay_alive() {
    let Some(step) =
        watchdog(env::var("WATCHDOG_USEC").ok().as_deref(), env::var("WATCHDOG_PID").ok().as_deref())
    else {
        return std::future::pending().await;
    };
    loop {
        say("WATCHDOG=1");
        Timer::after(step).await;
    }
}

/// Half of the time that systemd waits for a sign of life; `None` if it asks another process, or none.
fn watchdog(microseconds: Option<&str>, process: Option<&str>) -> Option<Duration> {
    let is_for_us = process.is_none_or(|process| process == std::process::id().to_string());
    let time = microseconds?.parse().ok().filter(|&time: &u64| time > 0)?;
    is_for_us.then(|| Duration::from_micros(time) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_come_twice_as_often_as_asked() {
        assert_eq!(watchdog(Some("30000000"), None), Some(Duration::from_secs(15)));
        assert_eq!(
            watchdog(Some("2000000"), Some(&std::process::id().to_string())),
            Some(Duration::from_secs(1))
        );
        assert_eq!(watchdog(Some("2000000"), Some("1")), None);
        assert_eq!(watchdog(Some("0"), None), None);
        assert_eq!(watchdog(Some("soon"), None), None);
        assert_eq!(watchdog(None, None), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_word_reaches_sockets_with_and_without_a_path() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};
        let heard = |socket: &UnixDatagram| {
            let mut bytes = [0; 64];
            let count = socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        };
        let name = format!("kwaainet-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(format!("@{name}").as_ref(), "READY=1").unwrap();
        assert_eq!(heard(&socket), "READY=1");
        let path = env::temp_dir().join(name);
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "STOPPING=1").unwrap();
        assert_eq!(heard(&socket), "STOPPING=1");
        std::fs::remove_file(path).unwrap();
    }
}
