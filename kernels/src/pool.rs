//! Threads that are kept between the products of a pass.
//!
//! A pass of a small model is hundreds of products of ten microseconds each, so starting one must cost well
//! below one. Each thread has a lane: a word of its own with the tasks that are its share. It takes them one
//! by one from the front, which nobody disturbs until another has nothing left and steals half of what
//! remains from the back. So fast cores do more, the pieces shrink towards the end, and a thread whose core
//! was taken by another process delays only the task in its hands. A thread that made the others wait all
//! the same sits out for a while, longer each time that it is late again soon. Idle threads watch their lane
//! for a bounded time and then sleep.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::limits::{LATE_TASKS, LATE_US_MIN, SIT_OUT_MS_MAX, SIT_OUT_MS_MIN, SPIN_US_MAX, THREADS_MAX};
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
    /// Tasks that are taken together: one, unless there are more than a share can count.
    together: usize,
}

impl Run<'_> {
    fn unit(&self, unit: usize) {
        let first = unit * self.together;
        (first..self.tasks.min(first + self.together)).for_each(self.task);
    }
}

/// What lies in a lane: the number of the run and the range of its units that nobody took yet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Share {
    run: u32,
    first: u16,
    end: u16,
}

impl Share {
    /// Units of a run at most.
    const UNITS_MAX: usize = u16::MAX as usize;

    fn is_empty(self) -> bool {
        self.first >= self.end
    }

    fn to_word(self) -> u64 {
        u64::from(self.run) << 32 | u64::from(self.first) << 16 | u64::from(self.end)
    }

    fn from_word(word: u64) -> Self {
        Share { run: (word >> 32) as u32, first: (word >> 16) as u16, end: word as u16 }
    }
}

/// One thread's share, alone on its cache lines (two, as CPUs fetch them in pairs).
#[repr(align(128))]
#[derive(Default)]
struct Lane {
    share: AtomicU64,
    /// The thread, while it has nothing to do.
    sleep: Sleep,
}

impl Lane {
    fn share(&self) -> Share {
        Share::from_word(self.share.load(Ordering::SeqCst))
    }

    fn set(&self, share: Share) {
        self.share.store(share.to_word(), Ordering::SeqCst);
    }

    /// Replaces what was seen there, if it still is.
    fn replace(&self, seen: Share, by: Share) -> bool {
        let (seen, by) = (seen.to_word(), by.to_word());
        self.share.compare_exchange(seen, by, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

struct Shared {
    /// The caller's lane and those of the threads.
    lanes: Vec<Lane>,
    run: AtomicPtr<Run<'static>>,
    /// Units not yet finished, and below, who finished last.
    unfinished: AtomicUsize,
    last: AtomicUsize,
    /// Whether a run is on.
    busy: AtomicBool,
    stopping: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The caller, while others finish what they hold.
    caller: Sleep,
    /// Touched by the caller of a run alone, while the pool is busy with it.
    roster: Mutex<Roster>,
}

/// Who takes part.
struct Roster {
    /// Number of the last run.
    run: u32,
    /// The last absence of the caller and of each thread.
    absences: Vec<Option<Absence>>,
}

/// A time for which a thread sits out.
#[derive(Clone, Copy)]
struct Absence {
    until: Instant,
    length: Duration,
}

impl Roster {
    fn is_out(&self, lane: usize, now: Instant) -> bool {
        self.absences[lane].is_some_and(|absence| absence.until > now)
    }

    /// Sends a late thread out: twice as long as the last time if it came back only as long ago as it was
    /// out.
    fn send_out(&mut self, lane: usize, now: Instant) {
        let (shortest, longest) =
            (Duration::from_millis(SIT_OUT_MS_MIN), Duration::from_millis(SIT_OUT_MS_MAX));
        let again = self.absences[lane].filter(|last| now < last.until + last.length);
        let length = again.map_or(shortest, |last| longest.min(2 * last.length));
        self.absences[lane] = Some(Absence { until: now + length, length });
    }
}

/// A place to sleep; waking costs nothing while nobody sleeps.
#[derive(Default)]
struct Sleep {
    asleep: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Sleep {
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
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while !ready() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes whoever sleeps, after the state that is waited for was changed (sequentially consistent).
    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) > 0 {
            drop(self.guard());
            self.wake.notify_all();
        }
    }
}

impl Shared {
    /// Takes units, the lane's own and then others', until there are none. Gives back how many were done.
    fn work(&self, lane: usize) -> usize {
        let mut done = 0;
        loop {
            let share = self.lanes[lane].share();
            let taken = if share.is_empty() {
                self.steal(lane)
            } else {
                let run = self.run.load(Ordering::Acquire);
                let rest = Share { first: share.first + 1, ..share };
                self.lanes[lane].replace(share, rest).then_some((run, share.first))
            };
            match taken {
                Some((run, unit)) => {
                    // SAFETY: `run` was read after a share of its run and before a unit was taken from it, so
                    // until then that unit was untaken and its caller waits for it: `run` is that caller's
                    // pointer and lives until the unit is counted as finished. That a share of an earlier run
                    // was seen is excluded by the run's number in it, which comes back after 2^32 runs.
                    let run = unsafe { &*run };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run.unit(unit as usize))) {
                        self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                    }
                    done += 1;
                }
                None if self.lanes[lane].share().is_empty() => return done,
                None => {}
            }
        }
    }

    /// Moves half of what another lane has left, from its back, to this empty one, and takes the first of it.
    fn steal(&self, lane: usize) -> Option<(*mut Run<'static>, u16)> {
        let others = (lane + 1..self.lanes.len()).chain(0..lane);
        for other in others {
            loop {
                let share = self.lanes[other].share();
                if share.is_empty() {
                    break;
                }
                let run = self.run.load(Ordering::Acquire);
                let kept = (share.end - share.first) / 2;
                let middle = share.first + kept;
                if self.lanes[other].replace(share, Share { end: middle, ..share }) {
                    self.lanes[lane].set(Share { first: middle + 1, ..share });
                    return Some((run, middle));
                }
            }
        }
        None
    }

    /// Tells that `units` are finished; after the last one the run may be over.
    fn finished(&self, lane: usize, units: usize) {
        if units > 0 {
            self.last.store(lane, Ordering::Relaxed);
            if self.unfinished.fetch_sub(units, Ordering::SeqCst) == units {
                self.caller.wake();
            }
        }
    }

    fn serve(&self, lane: usize) {
        while !self.stopping.load(Ordering::SeqCst) {
            self.finished(lane, self.work(lane));
            let own = &self.lanes[lane];
            own.sleep.wait(|| !own.share().is_empty() || self.stopping.load(Ordering::SeqCst));
        }
    }

    /// Hands out the units of a run in equal shares to the caller and to those that don't sit out.
    fn hand_out(&self, roster: &mut Roster, units: usize, now: Instant) {
        roster.run = roster.run.wrapping_add(1);
        let here = || (0..roster.absences.len()).rev().filter(|&lane| !roster.is_out(lane, now));
        let (mut first, mut left) = (0, here().count());
        // The caller's share comes last, so that the others begin while it is still handing out; which units
        // lie in whose share changes nothing.
        for lane in here() {
            let end = first + (units - first).div_ceil(left);
            // At most `Share::UNITS_MAX`, as `run` grouped the tasks.
            self.lanes[lane].set(Share { run: roster.run, first: first as u16, end: end as u16 });
            if end > first {
                self.lanes[lane].sleep.wake();
            }
            (first, left) = (end, left - 1);
        }
    }
}

impl Pool {
    /// A pool of `threads` threads including the caller, at least one and at most [`THREADS_MAX`]; fewer if
    /// the system gives fewer.
    pub fn new(threads: usize) -> Pool {
        Pool::with_start(threads, |_| ())
    }

    /// As [`Pool::new`]; each thread but the caller first calls `start` with its number, from 1 on.
    pub fn with_start(threads: usize, start: impl Fn(usize) + Clone + Send + 'static) -> Pool {
        let threads = threads.clamp(1, THREADS_MAX);
        let shared = Arc::new(Shared {
            lanes: (0..threads).map(|_| Lane::default()).collect(),
            run: AtomicPtr::new(std::ptr::null_mut()),
            unfinished: AtomicUsize::new(0),
            last: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            panic: Mutex::new(None),
            caller: Sleep::default(),
            roster: Mutex::new(Roster { run: 0, absences: Vec::new() }),
        });
        let spawn = |lane: usize| {
            let (shared, start) = (shared.clone(), start.clone());
            let builder = std::thread::Builder::new().name(format!("kernels-{lane}"));
            let work = move || {
                start(lane);
                shared.serve(lane);
            };
            builder.spawn(work).ok()
        };
        let threads: Vec<JoinHandle<()>> = (1..threads).map_while(spawn).collect();
        let absences = vec![None; threads.len() + 1];
        shared.roster.lock().unwrap_or_else(PoisonError::into_inner).absences = absences;
        Pool { shared, threads }
    }
}

impl Parallel for Pool {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let alone = tasks <= 1 || self.threads.is_empty();
        if alone || shared.busy.swap(true, Ordering::Acquire) {
            return Sequential.run(tasks, task);
        }
        let mut roster = shared.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let together = tasks.div_ceil(Share::UNITS_MAX);
        let units = tasks.div_ceil(together);
        let run = Run { task, tasks, together };
        shared.run.store((&raw const run).cast_mut().cast(), Ordering::Release);
        shared.unfinished.store(units, Ordering::SeqCst);
        shared.hand_out(&mut roster, units, start);
        let done = shared.work(0);
        if shared.unfinished.fetch_sub(done, Ordering::SeqCst) > done {
            let waiting = Instant::now();
            shared.caller.wait(|| shared.unfinished.load(Ordering::SeqCst) == 0);
            let task_time = (waiting - start) / done.max(1) as u32;
            let late = Duration::from_micros(LATE_US_MIN).max(LATE_TASKS * task_time);
            let now = Instant::now();
            if now - waiting > late {
                roster.send_out(shared.last.load(Ordering::Relaxed), now);
            }
        }
        drop(roster);
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
        for lane in &self.shared.lanes {
            lane.sleep.wake();
        }
        for thread in self.threads.drain(..) {
            // Tasks' panics were caught, so a thread ends by itself.
            let _ = thread.join();
        }
    }
}
