//! One slice that several tasks write at once, each its own part.
//!
//! The tasks of a product write interleaved parts of the result, which no safe split can express; this type
//! keeps the one promise that has to be made in one place.

use core::marker::PhantomData;
use core::ops::Range;

/// A mutable slice shared by tasks that never touch the same element.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    length: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts handed out are disjoint by the contract of `part`, so sharing this is like sending the
// parts.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: it is a mutable slice, which can be sent if its elements can.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint { start: slice.as_mut_ptr(), length: slice.len(), slice: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other part that is alive may overlap it.
    ///
    /// # Panics
    /// If the range is not within the slice.
    #[allow(clippy::mut_from_ref, reason = "the parts are disjoint by contract")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "a part lies outside the slice");
        // SAFETY: within the slice by the check above, not aliased by the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}
