//! Every bound of the front door, of the API and of the node's own files, with unit and reason.
//!
//! Nothing that a client sends makes the node grow past these: the worst case of the door is
//! `CONNECTIONS_MAX * (HEAD_BYTES_MAX + BODY_BYTES_MAX)`, 33 MB, and it takes clients that really send those
//! bytes.

use std::time::Duration;

/// Request line and header fields together, in bytes. Browsers and SDKs send below 2 KiB; servers usually
/// allow 8.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Header fields of one request.
pub const HEADERS_MAX: usize = 64;
/// From the first byte of a request to the end of its head; a half-open request costs one connection no
/// longer.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// A request's body, in bytes: more text than any context here holds.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The whole of a body; one MiB in this time is 35 kB/s.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Connections at once: each may hold a body, and more clients than this can't be served by a board anyway.
pub const CONNECTIONS_MAX: usize = 32;
/// Connections at once from one address that is not this machine, so that one client leaves room for others.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 16;
/// A kept connection without a request.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(30);
/// Requests on one kept connection; then it is closed, so that no client stays for ever.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 1000;
/// One write of an answer or an event; a reader slower than this is let go.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(20);
/// Silence in a stream of events after which a comment is sent, so that nobody between takes it for dead.
pub const STREAM_SILENCE_MAX: Duration = Duration::from_secs(15);
/// A refused client may go on sending for this long while it reads the refusal.
pub const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
/// What a refused client may go on sending, in bytes; all of it is thrown away.
pub const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Connections over `CONNECTIONS_MAX` that are told so at once; beyond these they are closed without a word.
pub const TURNED_AWAY_MAX: usize = 16;
/// After a failed `accept` (no descriptors left) the door waits this long and goes on.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Running answers get this long to finish after SIGTERM.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Values in one JSON body: bounds the parsed form (80 bytes a value) where the body is all commas.
pub const JSON_VALUES_MAX: usize = 128 * 1024;
/// Answers to one request (`n` times the number of prompts): each takes a session or a place in the queue.
pub const CHOICES_MAX: usize = 8;
/// Stop strings of one request, as OpenAI has it.
pub const STOP_STRINGS_MAX: usize = 4;
/// Length of a stop string, in bytes: this much text may be held back.
pub const STOP_BYTES_MAX: usize = 256;
/// Entries of `logit_bias`.
pub const LOGIT_BIAS_MAX: usize = 1024;
/// Alternatives a token in `top_logprobs` of a chat.
pub const CHAT_TOP_LOGPROBS_MAX: u64 = 20;
/// Alternatives a token in `logprobs` of a completion.
pub const COMPLETION_LOGPROBS_MAX: u64 = 5;
/// Tokens of a completion that doesn't say `max_tokens`, as OpenAI has it.
pub const COMPLETION_TOKENS_DEFAULT: usize = 16;
/// Requests that are being prepared (JSON, template, tokens) at once; more wait at the door.
pub const PREPARING_MAX: usize = 8;
/// Requests that wait for a session; the next one gets 429.
pub const WAITING_MAX: usize = 32;
/// Bytes of an API key.
pub const API_KEY_BYTES_MAX: usize = 512;
/// A prompt that comes from standard input, in bytes.
pub const PROMPT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// `config.toml`, in bytes: all settings with a page of comment each.
pub const CONFIG_BYTES_MAX: u64 = 64 * 1024;
/// Entries of a list in the settings: more bootstrap peers or origins than these help nobody.
pub const CONFIG_LIST_MAX: usize = 64;
/// A text in the settings, in bytes; paths are the longest.
pub const CONFIG_TEXT_BYTES_MAX: usize = 4096;

/// The log, in bytes, before a new one is begun: a week of a quiet node, and nothing for an SD card.
pub const LOG_BYTES_MAX: u64 = 1024 * 1024;
/// Logs that are kept, the one that is written included.
pub const LOG_FILES_MAX: usize = 3;
/// One line of it, in bytes; the rest is cut, since parts of lines come from peers.
pub const LOG_LINE_BYTES_MAX: usize = 2048;
/// Lines that `logs` shows at most; all logs together hold no more of usual length.
pub const LOG_LINES_MAX: usize = 100_000;

/// A question on the control socket, in bytes: a word and an address.
pub const QUESTION_BYTES_MAX: usize = 8 * 1024;
/// An answer on it, in bytes: as many peers as a node can know.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Questions at once; they come from this user's own commands.
pub const QUESTIONS_MAX: usize = 16;
/// From the connection to the whole question.
pub const QUESTION_TIME_MAX: Duration = Duration::from_secs(5);
/// From the question to the answer: longer than any call over the network may take.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(90);
/// Pings of one `p2p peers ping`.
pub const PINGS_MAX: u64 = 1000;

/// The first wait before a failed part is started again.
pub const RESTART_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest; doubling from the first, it is reached after six failures.
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A part that ran for so long is sound, and its next failure counts as its first.
pub const RESTART_FORGIVEN_AFTER: Duration = Duration::from_secs(120);
/// A node that starts waits so long for its model before it calls itself ready without it.
pub const READY_PATIENCE: Duration = Duration::from_secs(2);
/// `start --daemon` waits so long for the node to be ready; a board may pack and hash for a while.
pub const START_TIME_MAX: Duration = Duration::from_secs(60);
/// `stop` waits so long for the node to end: running answers and the farewell to peers, and some.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// The network gets so long to say farewell.
pub const FAREWELL_TIME_MAX: Duration = Duration::from_secs(3);
/// How often the supervisor looks whether the network is there.
pub const NETWORK_LOOK: Duration = Duration::from_secs(10);
/// Peers by which the DHT is joined at once: each is asked, and each answers with its neighbours.
pub const JOIN_PEERS_MAX: usize = 32;
/// Between the answer to `stop` and the stop.
pub const LAST_WORD_TIME: Duration = Duration::from_millis(50);
