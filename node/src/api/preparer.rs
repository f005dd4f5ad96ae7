//! The thread that parses, renders and tokenises.
//!
//! A megabyte of messages takes longer than the executor may be kept. One thread does it for all connections,
//! one request at a time, which also bounds what parsed JSON can take of memory: one body's worth.

use std::io;
use std::thread;

use smol::channel::{Sender, bounded};

use crate::limits::PREPARING_MAX;

type Job = Box<dyn FnOnce() + Send>;

/// The thread's inbox. Dropping it ends the thread.
pub struct Preparer(Sender<Job>);

impl Preparer {
    /// Starts the thread.
    pub fn start() -> io::Result<Preparer> {
        let (sender, receiver) = bounded::<Job>(PREPARING_MAX);
        thread::Builder::new().name("prepare".into()).spawn(move || {
            while let Ok(job) = receiver.recv_blocking() {
                job();
            }
        })?;
        Ok(Preparer(sender))
    }

    /// Has `work` done there. Work whose caller left before its turn is not done. `None` if the thread is
    /// gone.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = bounded(1);
        let job = Box::new(move || {
            if !sender.is_closed() {
                // The caller may leave meanwhile; then nobody wants the result.
                let _ = sender.try_send(work());
            }
        });
        self.0.send(job).await.ok()?;
        receiver.recv().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn work_is_done_elsewhere_and_its_result_comes_back() {
        let preparer = Preparer::start().unwrap();
        let name = smol::block_on(preparer.run(|| thread::current().name().map(str::to_owned)));
        assert_eq!(name.flatten().as_deref(), Some("prepare"));
    }

    #[test]
    fn work_whose_caller_left_is_not_done() {
        let preparer = Preparer::start().unwrap();
        let (hold, held) = bounded::<()>(1);
        let done = Arc::new(AtomicBool::new(false));
        smol::block_on(async {
            let first = preparer.run(move || held.recv_blocking().is_err());
            let flag = done.clone();
            let second = preparer.run(move || flag.store(true, Ordering::SeqCst));
            let mut first = Box::pin(first);
            let mut second = Box::pin(second);
            assert!(smol::future::poll_once(&mut first).await.is_none());
            assert!(smol::future::poll_once(&mut second).await.is_none());
            drop(second);
            drop(hold);
            assert_eq!(first.await, Some(true));
            assert_eq!(preparer.run(|| 7).await, Some(7));
        });
        assert!(!done.load(Ordering::SeqCst));
    }
}
