//! Ctrl-C and SIGTERM as flags.
//!
//! The first asks for a clean end, the second ends the process at once with exit code 130.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use smol::Timer;

use crate::exit::{Exit, Failure};

/// How often a wait looks at the flags: quick for a person, nothing for a processor.
const LOOK: Duration = Duration::from_millis(50);

/// Which signals came.
#[derive(Clone, Default)]
pub struct Signals {
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on; before, signals end the process as usual.
    pub fn listen() -> Result<Signals, Failure> {
        let signals = Signals::default();
        let failed =
            |error| Failure::new(Exit::Failure, format!("the system lets no signal be caught: {error}"));
        for (signal, flag) in [(SIGINT, &signals.interrupted), (SIGTERM, &signals.terminated)] {
            let code = Exit::Interrupted as i32;
            flag::register_conditional_shutdown(signal, code, flag.clone()).map_err(failed)?;
            flag::register(signal, flag.clone()).map_err(failed)?;
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
    pub async fn arrival(&self) {
        while !self.came() {
            Timer::after(LOOK).await;
        }
    }
}
