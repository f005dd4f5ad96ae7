//! Ctrl-C and SIGTERM, as flags and as something to wait for.
//!
//! The first asks for a clean end, the second ends the process at once with exit code 130.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::{Exit, Failure};

/// Which signals came.
#[derive(Clone)]
pub struct Signals {
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
    /// A byte comes out of it at each signal, so that waiting takes no processor.
    #[cfg(unix)]
    wake: Arc<std::os::unix::net::UnixStream>,
}

impl Signals {
    /// Listens from now on; before, signals end the process as usual.
    pub fn listen() -> Result<Signals, Failure> {
        Signals::register().map_err(|error| {
            Failure::new(Exit::Failure, format!("the system lets no signal be caught: {error}"))
        })
    }

    fn register() -> std::io::Result<Signals> {
        #[cfg(unix)]
        let (wake, sender) = std::os::unix::net::UnixStream::pair()?;
        let signals = Signals {
            interrupted: Arc::default(),
            terminated: Arc::default(),
            #[cfg(unix)]
            wake: Arc::new(wake),
        };
        for (signal, flag) in [(SIGINT, &signals.interrupted), (SIGTERM, &signals.terminated)] {
            flag::register_conditional_shutdown(signal, Exit::Interrupted as i32, flag.clone())?;
            flag::register(signal, flag.clone())?;
            #[cfg(unix)]
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(signals)
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Whether either signal came.
    pub fn came(&self) -> bool {
        self.is_interrupted() || self.terminated.load(Ordering::Relaxed)
    }

    /// Forgets a Ctrl-C that was heeded.
    pub fn clear(&self) {
        self.interrupted.store(false, Ordering::Relaxed);
    }

    /// Ends when either signal comes.
    #[cfg(unix)]
    pub async fn arrival(&self) {
        use smol::io::AsyncReadExt;
        let wake = self.wake.try_clone().and_then(smol::Async::new);
        let mut wake = wake.expect("a socket of this process can be copied and waited for");
        while !self.came() {
            // Bytes of signals that were cleared are read as well.
            if !matches!(wake.read(&mut [0; 16]).await, Ok(1..)) {
                return;
            }
        }
    }

    /// Ends when either signal comes.
    #[cfg(not(unix))]
    pub async fn arrival(&self) {
        while !self.came() {
            smol::Timer::after(std::time::Duration::from_millis(50)).await;
        }
    }
}
