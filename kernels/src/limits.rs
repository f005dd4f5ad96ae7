//! Every bound and tile of the kernels, with unit and reason.
//!
//! None of them changes a result: work may be cut anywhere and gives the same bits.

/// Widest attention head in values: the scratch row of decoded keys lies on the stack (4 bytes a value).
/// The widest model of the supported families has 256.
pub const HEAD_WIDTH_MAX: usize = 1024;

/// Threads of one pool; more than any board has, and a bound on what a configuration can ask for.
pub const THREADS_MAX: usize = 256;

/// Tasks for each thread in one product: at its end all wait for the last of them, so for up to a sixteenth
/// of the product's time.
pub(crate) const TASKS_PER_THREAD: usize = 16;

/// Weight bytes in one task at least: half a microsecond of reading; taking a task from one's own lane costs
/// some tens of nanoseconds.
pub(crate) const TASK_WEIGHT_BYTES_MIN: usize = 8 * 1024;

/// Weight bytes in one task at most: what a core reads in about twenty microseconds, so that the last thread
/// to finish a matrix-vector product does not let the others fall asleep (waking one takes tens of
/// microseconds).
pub(crate) const TASK_WEIGHT_BYTES_MAX: usize = 128 * 1024;

/// Weight bytes in one task at most when many tokens share them: a task then takes far longer than reading,
/// and longer walks reread the activations less often.
pub(crate) const TASK_SHARED_WEIGHT_BYTES_MAX: usize = 512 * 1024;

/// Weight bytes that are walked together over all tokens: half the second-level cache share of a small core.
pub(crate) const CHUNK_WEIGHT_BYTES_MAX: usize = 64 * 1024;

/// Activation bytes in one tile of tokens: stays in the second-level cache beside a chunk of weights.
pub(crate) const TILE_ACTIVATION_BYTES_MAX: usize = 128 * 1024;

/// Tokens in one tile at most: its results (32 bytes a token and panel) lie on the stack.
pub(crate) const TILE_TOKENS_MAX: usize = 64;

/// Tokens in one tile at least, and what its tokens are a multiple of: those that are interleaved.
pub(crate) const TILE_TOKENS_MIN: usize = crate::INTERLEAVED_TOKENS;

/// Values below which quantising is not handed to other threads: waking them costs more (about 3 us).
pub(crate) const QUANTIZE_VALUES_ALONE_MAX: usize = 16 * 1024;

/// Time for which an idle thread spins before it sleeps, in microseconds: longer than the gap between two
/// products of one pass, shorter than anything a user or a battery notices.
#[cfg(feature = "std")]
pub(crate) const SPIN_US_MAX: u64 = 40;

/// A thread is late if the others had to wait for it for longer than this, in microseconds (about what waking
/// a sleeping thread takes at worst) ...
#[cfg(feature = "std")]
pub(crate) const LATE_US_MIN: u64 = 200;

/// ... and longer than this many tasks take: stealing leaves each thread one task at the end of a run, and a
/// slow core takes some times as long for it.
#[cfg(feature = "std")]
pub(crate) const LATE_TASKS: u32 = 8;

/// Time for which a late thread gets no share at first, in milliseconds: a hiccup costs no more than some
/// turns of the system's scheduler (3 to 4 ms each) ...
#[cfg(feature = "std")]
pub(crate) const SIT_OUT_MS_MIN: u64 = 10;

/// ... and at most: with a neighbour that stays, one such turn is lost in so long; when it has left, the
/// thread is back unnoticed.
#[cfg(feature = "std")]
pub(crate) const SIT_OUT_MS_MAX: u64 = 320;

/// Values of an elementwise operation below which one thread does it alone.
pub(crate) const ROW_VALUES_ALONE_MAX: usize = 16 * 1024;

/// Panels that a kernel takes at once, at most: 32 rows fill two registers of 512 bits.
pub(crate) const PANELS_TOGETHER_MAX: usize = 4;

/// Tokens in one tile of float activations at most: their lanes (512 bytes a token) lie on the stack.
pub(crate) const FLOAT_TILE_TOKENS_MAX: usize = 48;

/// Tokens in one tile of float activations at least, and what they are a multiple of: whole tiles of
/// registers for every set.
pub(crate) const FLOAT_TILE_TOKENS_MIN: usize = 12;

/// Bytes of float activations in one tile: beside a chunk of weights in a second-level cache of half a
/// megabyte.
pub(crate) const FLOAT_TILE_BYTES_MAX: usize = 384 * 1024;

/// Float weight bytes that are walked together over all tokens: they and the activations come from beyond the
/// second-level cache in turn, and this much makes both rare beside the arithmetic.
pub(crate) const FLOAT_CHUNK_BYTES_MAX: usize = 512 * 1024;
