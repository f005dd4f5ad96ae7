//! Every bound of the engine, with unit and reason.
//!
//! What a file, a prompt or a request can ask for is checked against these before anything is allocated.

// Model files.

/// Most tensors in one file or one set of files. The largest dense models have under two thousand.
pub const TENSORS_MAX: u64 = 65_536;
/// Most dimensions of a tensor; ggml knows no more.
pub const TENSOR_DIMENSIONS_MAX: usize = 4;
/// Most metadata entries of a GGUF. Real ones have under a hundred.
pub const GGUF_METADATA_MAX: u64 = 65_536;
/// Longest metadata key, in bytes; the format's own limit.
pub const GGUF_KEY_BYTES_MAX: u64 = 65_535;
/// Longest tensor name, in bytes; the format's own limit.
pub const GGUF_TENSOR_NAME_BYTES_MAX: u64 = 64;
/// Longest metadata string, in bytes: room for any chat template or licence.
pub const GGUF_STRING_BYTES_MAX: u64 = 16 << 20;
/// Most elements of a metadata array: sixteen times the merges of the largest vocabulary known.
pub const GGUF_ARRAY_ELEMENTS_MAX: u64 = 1 << 24;
/// Deepest nesting of metadata arrays. Real files have one level.
pub const GGUF_ARRAY_DEPTH_MAX: usize = 4;
/// Largest alignment of tensor data, in bytes. Real files have 32; 2^16 serves pages of every kind.
pub const GGUF_ALIGNMENT_BYTES_MAX: u64 = 1 << 16;
/// Largest header of a SafeTensors file, in bytes. Real ones stay under one million; the format would allow a
/// hundred.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 16 << 20;
/// Largest `config.json` or `generation_config.json`, in bytes. Real ones have a few thousand.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Largest `tokenizer_config.json` or chat template file, in bytes. Real ones have up to 1.2 MB.
pub const TOKENIZER_CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Largest `tokenizer.json`, in bytes. Gemma 3's has 33 MB.
pub const TOKENIZER_BYTES_MAX: u64 = 128 << 20;
/// Largest `model.safetensors.index.json`, in bytes: some 200 for each tensor.
pub const INDEX_BYTES_MAX: u64 = 16 << 20;
/// Most files that one model is spread over.
pub const MODEL_FILES_MAX: usize = 1024;
/// Most ids that end a text.
pub const STOP_IDS_MAX: usize = 64;

// Shapes of models. Together they keep every product of two widths, and bytes of it, far inside 63 bits.

/// Widest residual stream.
pub const HIDDEN_MAX: usize = 1 << 16;
/// Most transformer blocks; the deepest dense model known has 126.
pub const BLOCKS_MAX: usize = 1024;
/// Largest vocabulary, in tokens; the largest known has 262 thousand.
pub const VOCABULARY_MAX: usize = 1 << 21;
/// Longest trained context, in tokens; the longest known is ten million.
pub const CONTEXT_TOKENS_MAX: usize = 1 << 24;
/// Most attention heads.
pub const HEADS_MAX: usize = 1024;
/// Widest attention head; the widest known is 256.
pub const HEAD_WIDTH_MAX: usize = 1024;
/// Widest feed-forward network.
pub const FEED_FORWARD_MAX: usize = 1 << 18;

// The engine.

/// Context of a session when none is asked for, in tokens: what a board's memory allows for every family.
pub const CONTEXT_TOKENS_DEFAULT: usize = 4096;
/// Most sessions of one engine, kept prefixes included.
pub const SESSIONS_MAX: usize = 1024;
/// Most rows in one pass: beyond it longer batches gain nothing, and scratch memory is proportional to it.
pub const BATCH_TOKENS_MAX: usize = 512;
/// Prompt tokens that go into a pass beside answers being written: keeps the step of the others short.
pub const PREFILL_CHUNK_TOKENS: usize = 64;
/// Most compute threads.
pub const THREADS_MAX: usize = kwaainet_kernels::limits::THREADS_MAX;
/// Logits that one pass may give, in bytes, if the sessions' own rows are less.
pub const LOGITS_BYTES_MIN: usize = 8 << 20;
/// Memory of the process itself (code, stacks, tokenizer, buffers of files), in bytes: an allowance.
pub const PROCESS_OVERHEAD_BYTES: u64 = 24 << 20;
/// Alignment of matrices in packed files, in bytes: a cache line.
pub const PACK_ALIGNMENT_BYTES: usize = 64;
/// Buffer through which packed files are written, in bytes.
pub const PACK_BUFFER_BYTES: usize = 1 << 20;
/// Requests that may wait for a slot unless the caller says otherwise.
pub const WAITING_MAX: usize = 64;
/// The longest wait that a refused client is told, in seconds.
pub const RETRY_AFTER_S_MAX: u32 = 60;
