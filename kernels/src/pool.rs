//! Threads that are kept between the products of a pass.
//!
//! A pass of a small model is hundreds of products of ten microseconds each, so starting one must cost about
//! one: idle threads watch one word for a bounded time and then sleep, and tasks are taken one by one, so
//! that a thread whose core was taken by another process delays only the task in its hands.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::limits::{SPIN_US_MAX, THREADS_MAX};
use crate::parallel::{Parallel, Sequential};

/// Spins between two looks at the clock.
const SPINS_PER_LOOK: usize = 64;

/// A fixed number of threads, the caller of [`Parallel::run`] among them.
///
/// A panic in a task is passed on to the caller once all tasks are done. A run that comes while the pool is
/// busy, from within a task or from another thread, is done by its caller alone. Dropping the pool joins its
/// threads.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// The tasks of one run, on the stack of its caller.
struct Run<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
}

struct Shared {
    /// Number of the run in the upper half, tasks not yet taken in the lower. Taking a task is a compare and
    /// swap, so one that succeeds proves that its run is still on, and with it the pointer read before.
    untaken: AtomicU64,
    run: AtomicPtr<Run<'static>>,
    /// Tasks not yet finished.
    unfinished: AtomicUsize,
    /// Whether a run is on.
    busy: AtomicBool,
    stopping: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Threads that sleep until there are tasks.
    idle: Sleepers,
    /// The caller that sleeps until all tasks are finished.
    caller: Sleepers,
}

/// A place to sleep; waking costs nothing while nobody sleeps.
#[derive(Default)]
struct Sleepers {
    count: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Sleepers {
    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spins for a bounded time and then sleeps until `ready`.
    fn wait(&self, ready: impl Fn() -> bool) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(SPIN_US_MAX) {
            for _ in 0..SPINS_PER_LOOK {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut guard = self.guard();
        // Counted before the last look, as the waker changes the state before it looks at the count: one sees
        // the other.
        self.count.fetch_add(1, Ordering::SeqCst);
        while !ready() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes all, after the state that they wait for was changed (sequentially consistent).
    fn wake(&self) {
        if self.count.load(Ordering::SeqCst) > 0 {
            drop(self.guard());
            self.wake.notify_all();
        }
    }
}

impl Shared {
    /// Takes tasks until there are none.
    fn work(&self) {
        let mut state = self.untaken.load(Ordering::SeqCst);
        while state as u32 > 0 {
            let run = self.run.load(Ordering::Acquire);
            let taken = self.untaken.compare_exchange(state, state - 1, Ordering::SeqCst, Ordering::SeqCst);
            if let Err(now) = taken {
                state = now;
                continue;
            }
            // SAFETY: a task of this run was untaken until now, so its caller still waits and `run` is its
            // pointer: the state changes with every run, and the pointer only while no task is untaken.
            let run = unsafe { &*run };
            let index = run.tasks - state as u32 as usize;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (run.task)(index))) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
            // From here on the run may be over.
            if self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.caller.wake();
            }
            state = self.untaken.load(Ordering::SeqCst);
        }
    }

    fn serve(&self) {
        while !self.stopping.load(Ordering::SeqCst) {
            self.work();
            self.idle.wait(|| {
                self.untaken.load(Ordering::SeqCst) as u32 > 0 || self.stopping.load(Ordering::SeqCst)
            });
        }
    }
}

impl Pool {
    /// A pool of `threads` threads including the caller, at least one and at most [`THREADS_MAX`]; fewer if
    /// the system gives fewer.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            untaken: AtomicU64::new(0),
            run: AtomicPtr::new(std::ptr::null_mut()),
            unfinished: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            panic: Mutex::new(None),
            idle: Sleepers::default(),
            caller: Sleepers::default(),
        });
        let spawn = |index: usize| {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name(format!("kernels-{index}"));
            builder.spawn(move || shared.serve()).ok()
        };
        let threads = (1..threads.clamp(1, THREADS_MAX)).map_while(spawn).collect();
        Pool { shared, threads }
    }
}

impl Parallel for Pool {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let alone = tasks <= 1 || self.threads.is_empty() || u32::try_from(tasks).is_err();
        if alone || shared.busy.swap(true, Ordering::Acquire) {
            return Sequential.run(tasks, task);
        }
        let run = Run { task, tasks };
        shared.run.store((&raw const run).cast_mut().cast(), Ordering::Release);
        shared.unfinished.store(tasks, Ordering::SeqCst);
        let number = (shared.untaken.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.untaken.store(number << 32 | tasks as u64, Ordering::SeqCst);
        shared.idle.wake();
        shared.work();
        if shared.unfinished.load(Ordering::SeqCst) > 0 {
            shared.caller.wait(|| shared.unfinished.load(Ordering::SeqCst) == 0);
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        shared.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn threads(&self) -> usize {
        self.threads.len() + 1
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.idle.wake();
        for thread in self.threads.drain(..) {
            // Tasks' panics were caught, so a thread ends by itself.
            let _ = thread.join();
        }
    }
}
