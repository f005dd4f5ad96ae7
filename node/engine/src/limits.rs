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
/// Rows in one pass unless the caller says otherwise: scratch memory is proportional to it, and with more the
/// weights are read from memory so rarely already that prompts gain nothing.
pub const BATCH_TOKENS_DEFAULT: usize = 128;
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
/// Bytes of a file that tell how fast its disk reads: a few seconds of an SD card.
pub const DISK_READ_BYTES_MAX: u64 = 256 << 20;
/// Buffer through which they are read, in bytes: beyond what systems read at once.
pub const DISK_READ_BUFFER_BYTES: usize = 4 << 20;
/// Requests that may wait for a slot unless the caller says otherwise.
pub const WAITING_MAX: usize = 64;
/// The longest wait that a refused client is told, in seconds.
pub const RETRY_AFTER_S_MAX: u32 = 60;

// Sampling: what a request may ask of `sampler` and `stop`.

/// Highest temperature. Far above it every distribution is flat, and OpenAI's own range ends at 2.
pub const TEMPERATURE_MAX: f32 = 100.0;
/// Highest repetition penalty: a factor, and by 10 no repeated token is left with a chance.
pub const REPETITION_PENALTY_MAX: f32 = 10.0;
/// Largest presence and frequency penalty, either sign, in logits (OpenAI's range).
pub const ADDED_PENALTY_MAX: f32 = 2.0;
/// Last tokens of a context that penalties look at, at most. They are sorted anew for each token: under a
/// millisecond.
pub const PENALTY_WINDOW_TOKENS_MAX: usize = 32_768;
/// Last tokens of a context that penalties look at, when the request does not say.
pub const PENALTY_WINDOW_TOKENS_DEFAULT: usize = 4_096;
/// Entries of a logit bias. More would be a second model; OpenAI takes 300.
pub const LOGIT_BIAS_COUNT_MAX: usize = 1_024;
/// Largest logit bias, either sign, in logits (OpenAI's range: it bans or forces a token).
pub const LOGIT_BIAS_MAX: f32 = 100.0;
/// Alternatives told for each token (OpenAI's limit).
pub const TOP_LOGPROBS_MAX: usize = 20;
/// Stop strings of one request. OpenAI takes 4; templates of some models need a few more.
pub const STOP_STRINGS_MAX: usize = 16;
/// Bytes of one stop string: so much text, less one byte, may be held back from a stream.
pub const STOP_STRING_BYTES_MAX: usize = 256;

// Tokenizers and chat templates.

/// Most pieces of a vocabulary; the largest in use have 262,144.
pub const VOCABULARY_PIECES_MAX: usize = 1 << 20;
/// Most merge rules; the largest in use have about 600,000.
pub const MERGES_MAX: usize = 1 << 21;
/// Longest piece, in bytes; runs of spaces and special tokens reach 256.
pub const PIECE_BYTES_MAX: usize = 4096;
/// All pieces, and all merge rules, together, in bytes, so that an offset fits in 32 bits.
pub const VOCABULARY_BYTES_MAX: usize = 1 << 28;
/// Most tokens that are matched in the text before it is split; Gemma has 6,414.
pub const ADDED_TOKENS_MAX: usize = 1 << 16;
/// Longest regular expression of a text split, in bytes; those in use have up to 700.
pub const SPLIT_PATTERN_BYTES_MAX: usize = 16 << 10;
/// Most normalizing and splitting steps of a tokenizer, each; those in use have up to 6.
pub const TOKENIZER_STEPS_MAX: usize = 64;
/// Deepest nesting of "Sequence" in a tokenizer.json; those in use have 2.
pub const TOKENIZER_NESTING_MAX: usize = 8;
/// Longest stretch of text that is merged as one word, in bytes; longer ones are cut.
pub const WORD_BYTES_MAX: usize = 16 << 20;
/// Steps back that one match of a split's regular expression may take.
pub const SPLIT_BACKTRACK_STEPS_MAX: usize = 1_000_000;
/// Matches that may run out of steps in one text before the rest is cut in equal stretches.
pub const SPLIT_FAILURES_MAX: usize = 8;
/// Stretch that is taken as a word where a split's regular expression ran out of steps, in bytes.
pub const SPLIT_FALLBACK_BYTES: usize = 1024;
/// Longest WordPiece word, in characters; longer ones are the unknown token, as in the reference.
pub const WORD_PIECE_CHARACTERS_MAX: usize = 100;
/// Longest chat template, in bytes; those in use have up to 25,000.
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Work that one rendering of a chat template may take, in minijinja's fuel: about an instruction or 64 bytes
/// each.
pub const TEMPLATE_FUEL_MAX: u64 = 4_000_000;
/// Deepest recursion of a chat template's macros.
pub const TEMPLATE_RECURSION_MAX: usize = 64;
/// Deepest nesting of the JSON that a chat template is given (tools, tool calls).
pub const TEMPLATE_JSON_NESTING_MAX: usize = 64;
