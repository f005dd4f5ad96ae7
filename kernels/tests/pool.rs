//! The pool of threads: every task once, whatever happens.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kwaainet_kernels::Parallel;
use kwaainet_kernels::limits::THREADS_MAX;
use kwaainet_kernels::pool::Pool;

fn counts(tasks: usize) -> Vec<AtomicUsize> {
    (0..tasks).map(|_| AtomicUsize::new(0)).collect()
}

fn count(counter: &AtomicUsize, tasks: usize) {
    counter.fetch_add(tasks, Ordering::Relaxed);
}

#[test]
fn every_task_runs_exactly_once() {
    for threads in [1, 2, 3, 16] {
        let pool = Pool::new(threads);
        for tasks in [0, 1, 2, 3, 100, 1000] {
            let done = counts(tasks);
            pool.run(tasks, &|task| count(&done[task], 1));
            assert!(
                done.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                "{threads} threads, {tasks} tasks"
            );
        }
    }
}

#[test]
fn many_short_runs_after_each_other_lose_no_task() {
    let pool = Pool::new(4);
    let total = AtomicUsize::new(0);
    for _ in 0..20_000 {
        pool.run(3, &|task| count(&total, task + 1));
    }
    assert_eq!(total.load(Ordering::Relaxed), 20_000 * 6);
}

#[test]
fn sleeping_threads_wake_for_the_next_run() {
    let pool = Pool::new(3);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        let done = counts(50);
        pool.run(50, &|task| count(&done[task], 1));
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn a_panic_in_a_task_reaches_the_caller_and_the_pool_goes_on() {
    let pool = Pool::new(3);
    for broken in [0, 7, 99] {
        let done = counts(100);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, &|task| {
                done[task].fetch_add(1, Ordering::Relaxed);
                assert_ne!(task, broken, "task {broken} is broken");
            });
        }));
        let message = *result.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("is broken"), "{message}");
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1), "the others were done");
    }
    let total = AtomicUsize::new(0);
    pool.run(10, &|_| count(&total, 1));
    assert_eq!(total.load(Ordering::Relaxed), 10);
}

#[test]
fn a_run_within_a_task_is_done_by_its_caller() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    pool.run(8, &|_| pool.run(8, &|_| count(&total, 1)));
    assert_eq!(total.load(Ordering::Relaxed), 64);
}

#[test]
fn two_callers_at_once_both_get_their_tasks_done() {
    let pool = Pool::new(2);
    let done = counts(2);
    std::thread::scope(|scope| {
        for (caller, done) in done.iter().enumerate() {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..2000 {
                    pool.run(caller + 3, &|_| count(done, 1));
                }
            });
        }
    });
    assert_eq!(done[0].load(Ordering::Relaxed), 6000);
    assert_eq!(done[1].load(Ordering::Relaxed), 8000);
}

/// Tasks of a run that others than the caller did, each sleeping as it is told.
fn done_by_others(pool: &Pool, tasks: usize, sleep: &(dyn Fn(bool) -> Duration + Sync)) -> usize {
    let caller = std::thread::current().id();
    let others = AtomicUsize::new(0);
    pool.run(tasks, &|_| {
        let is_other = std::thread::current().id() != caller;
        count(&others, usize::from(is_other));
        std::thread::sleep(sleep(is_other));
    });
    others.into_inner()
}

#[test]
fn a_thread_that_made_the_caller_wait_sits_out_and_comes_back() {
    let pool = Pool::new(2);
    let short = |_| Duration::from_micros(200);
    // Tries, because the system may freeze this process for longer than a thread sits out.
    let sat_out = (0..50).any(|_| {
        let late = |is_other| Duration::from_millis(if is_other { 20 } else { 1 });
        done_by_others(&pool, 2, &late) == 1 && done_by_others(&pool, 64, &short) == 0
    });
    assert!(sat_out, "a late thread got a share at once");
    let came_back = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        done_by_others(&pool, 64, &short) > 0
    });
    assert!(came_back, "a late thread never got a share again");
}

#[test]
fn more_tasks_than_a_share_can_count_run_once_each() {
    let pool = Pool::new(2);
    let tasks = 3 * usize::from(u16::MAX) + 1;
    let done = counts(tasks);
    pool.run(tasks, &|task| count(&done[task], 1));
    assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}

#[test]
fn each_thread_but_the_caller_starts_with_its_number() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let pool = Pool::with_start(4, move |thread| sender.send(thread).expect("the test listens"));
    drop(pool);
    let mut started: Vec<usize> = receiver.iter().collect();
    started.sort_unstable();
    assert_eq!(started, [1, 2, 3]);
}

#[test]
fn dropping_the_pool_ends_its_threads() {
    struct Ended<'a>(&'a AtomicUsize);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    thread_local! {
        static MARK: std::cell::RefCell<Option<Ended<'static>>> = const { std::cell::RefCell::new(None) };
    }
    let ended: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let met = std::sync::Barrier::new(4);
    let pool = Pool::new(4);
    let caller = std::thread::current().id();
    // Each thread waits for the other three, so every one of them takes exactly one task.
    pool.run(4, &|_| {
        met.wait();
        if std::thread::current().id() != caller {
            MARK.set(Some(Ended(ended)));
        }
    });
    drop(pool);
    assert_eq!(ended.load(Ordering::SeqCst), 3, "all threads have ended when drop returns");
}

#[test]
fn the_number_of_threads_is_held_within_its_limit() {
    assert_eq!(Pool::new(0).threads(), 1);
    assert_eq!(Pool::new(2).threads(), 2);
    assert_eq!(Pool::new(THREADS_MAX).threads(), THREADS_MAX);
    assert_eq!(Pool::new(THREADS_MAX + 1).threads(), THREADS_MAX);
}
