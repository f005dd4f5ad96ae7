//! Threads that stay between passes.
//!
//! A pass through a model is hundreds of products of a few microseconds each, so a thread must be there at
//! once: it spins for the gap between two products and sleeps when there is nothing more. Tasks are taken one
//! by one from a counter, so a thread that lost its core holds up no more than the task it has; the caller
//! works too, and returns without waiting for threads that never came.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Parallel;
use crate::limits::{SPIN_US_MAX, THREADS_MAX};

/// A task whose lifetime is not told; who follows a pointer to one keeps to it.
type Task = dyn Fn(usize) + Sync;

/// What `run` was called with, for as long as the call lasts.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    task: *const Task,
}

struct Shared {
    /// Written by the caller while `open` is false and `inside` is zero, read by threads inside an open job.
    job: UnsafeCell<Option<Job>>,
    /// Whether threads may enter the job.
    open: AtomicBool,
    /// Counts jobs, so that a thread enters each one once.
    generation: AtomicUsize,
    /// Threads that are using `job`.
    inside: AtomicUsize,
    next: AtomicUsize,
    stopping: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is only written while nobody may read it: `open` is false and `inside` is zero. A thread adds
// itself to `inside` before it looks at `open`, the caller clears `open` before it looks at `inside`, both in
// one total order (SeqCst), so at least one of them sees the other. The task itself is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed under the same rule.
unsafe impl Send for Shared {}

/// A fixed number of threads, the caller counted.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held by the call that has the threads; another call, or one from inside a task, runs alone.
    busy: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads, the calling one counted; at least one, at most [`THREADS_MAX`]. Threads
    /// that the system refuses are done without.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            open: AtomicBool::new(false),
            generation: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let threads = (1..threads.min(THREADS_MAX))
            .map_while(|index| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("compute-{index}")).spawn(move || shared.work()).ok()
            })
            .collect();
        Pool { shared, threads, busy: Mutex::new(()) }
    }
}

impl Parallel for Pool {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let busy = match self.busy.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        };
        if tasks <= 1 || self.threads.is_empty() || busy.is_none() {
            return (0..tasks).for_each(task);
        }
        self.shared.run(tasks, task);
    }

    fn threads(&self) -> usize {
        self.threads.len() + 1
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(self.shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Publishes a job, works on it, and returns when nobody uses it any more.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime is erased; the pointer is forgotten before this call returns.
        let task: *const Task = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), _>(task) };
        // SAFETY: no job is open and nobody is inside: the last `run` waited for that, and `busy` admits one
        // at a time.
        unsafe { *self.job.get() = Some(Job { tasks, task }) };
        self.next.store(0, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.open.store(true, Ordering::SeqCst);
        if *self.sleepers.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            self.wake.notify_all();
        }
        // SAFETY: the pointer comes from a reference that outlives this call.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.take_tasks(tasks, unsafe { &*task })));
        self.open.store(false, Ordering::SeqCst);
        let mut spin = Spin::new();
        while self.inside.load(Ordering::SeqCst) != 0 {
            if !spin.again() {
                std::thread::yield_now();
            }
        }
        // SAFETY: as above, nobody can be reading.
        unsafe { *self.job.get() = None };
        let other = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
        if let Some(panic) = other {
            resume_unwind(panic);
        }
    }

    fn take_tasks(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            task(index);
        }
    }

    /// What a thread does all its life.
    fn work(&self) {
        let mut seen = 0;
        while self.wait(seen) {
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) {
                seen = self.generation.load(Ordering::SeqCst);
                // SAFETY: the job was seen open after this thread entered `inside`, so it is not written
                // until it leaves.
                let job = unsafe { *self.job.get() };
                if let Some(Job { tasks, task }) = job {
                    // SAFETY: the caller of `run` doesn't return while this thread is inside.
                    let task = unsafe { &*task };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_tasks(tasks, task))) {
                        // The others need not go on.
                        self.next.store(tasks, Ordering::Relaxed);
                        self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                    }
                }
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn has_news(&self, seen: usize) -> bool {
        self.open.load(Ordering::SeqCst) && self.generation.load(Ordering::SeqCst) != seen
    }

    /// Waits for a job other than `seen`; false when the pool ends.
    fn wait(&self, seen: usize) -> bool {
        let mut spin = Spin::new();
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                return false;
            }
            if self.has_news(seen) {
                return true;
            }
            if !spin.again() {
                let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
                *sleepers += 1;
                while !self.has_news(seen) && !self.stopping.load(Ordering::SeqCst) {
                    sleepers = self.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
                }
                *sleepers -= 1;
            }
        }
    }
}

/// Spinning with an end.
struct Spin {
    turns: u32,
    end: Option<Instant>,
}

impl Spin {
    fn new() -> Self {
        Spin { turns: 0, end: None }
    }

    /// Waits a moment; false when it is time to give the core away.
    fn again(&mut self) -> bool {
        self.turns += 1;
        if self.turns.is_multiple_of(32) {
            // The clock is read now and then only: on some boards it costs as much as the wait.
            let now = Instant::now();
            let end = *self.end.get_or_insert(now + Duration::from_micros(SPIN_US_MAX));
            if now >= end {
                return false;
            }
        }
        std::hint::spin_loop();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 17] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 3, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|index| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_lose_nothing() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..20_000 {
            pool.run(4, &|index| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
            if round % 5000 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(sum.load(Ordering::Relaxed), 20_000 * 6);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        for _ in 0..50 {
            let outcome =
                catch_unwind(AssertUnwindSafe(|| pool.run(64, &|index| assert!(index != 40, "task 40"))));
            assert!(outcome.is_err());
        }
        let count = AtomicUsize::new(0);
        pool.run(10, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn a_run_from_inside_a_task_runs_alone() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(5, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.load(Ordering::Relaxed), 20);
    }
}
