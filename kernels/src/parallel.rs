//! How the kernels ask for threads without knowing them.

use crate::disjoint::Disjoint;
use crate::limits::{ROW_VALUES_ALONE_MAX, TASKS_PER_THREAD};

/// Runs tasks, perhaps on several threads.
pub trait Parallel: Sync {
    /// Runs `task(i)` for every `i` in `0..tasks`, in any order and perhaps at once; returns when all are
    /// done.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));

    /// Threads that may work at once, at least one.
    fn threads(&self) -> usize;
}

/// Everything on the caller, in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequential;

impl Parallel for Sequential {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }

    fn threads(&self) -> usize {
        1
    }
}

/// Calls `task(index, row)` for every row of `width` values, on several threads where there are enough values
/// to pay for them.
///
/// # Panics
/// If `rows` is not whole rows.
pub fn for_each_row<T: Send>(
    pool: &dyn Parallel,
    rows: &mut [T],
    width: usize,
    task: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    assert!(width > 0 && rows.len().is_multiple_of(width), "{} values are no rows of {width}", rows.len());
    if rows.len() <= ROW_VALUES_ALONE_MAX {
        return rows.chunks_exact_mut(width).enumerate().for_each(|(index, row)| task(index, row));
    }
    let count = rows.len() / width;
    let shared = Disjoint::new(rows);
    let each = count.div_ceil(pool.threads() * TASKS_PER_THREAD).max(1);
    pool.run(count.div_ceil(each), &|part| {
        for row in part * each..count.min((part + 1) * each) {
            // SAFETY: rows don't overlap, and each belongs to one task.
            task(row, unsafe { shared.part(row * width..(row + 1) * width) });
        }
    });
}
