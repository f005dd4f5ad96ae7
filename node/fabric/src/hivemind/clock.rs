//! DHT time: seconds since 1970 as a float, by which records expire.
//!
//! It can be replaced, so that tests let hours pass in no time.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Tells DHT time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> f64 + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock::new(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0.0, |since| since.as_secs_f64())
        })
    }

    /// A clock that tells what `seconds` returns.
    pub fn new(seconds: impl Fn() -> f64 + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(seconds))
    }

    /// Seconds since 1970.
    pub fn now(&self) -> f64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "Clock({})", self.now())
    }
}
