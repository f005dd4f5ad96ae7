//! What a model is, in numbers: one description that covers every family by fields.
//!
//! Families differ in a handful of points (a norm more, a window, a bias, a scale). Each point is a field
//! here, set by the reader of the file, so that the code that runs a block asks the field and never the
//! family's name.

use kwaainet_kernels::{RopePairing, RopeScaling};

use crate::Error;
use crate::limits::{
    BLOCKS_MAX, CONTEXT_TOKENS_MAX, FEED_FORWARD_MAX, HEAD_WIDTH_MAX, HEADS_MAX, HIDDEN_MAX, VOCABULARY_MAX,
};

/// The gate of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up`.
    SiluGated,
    /// `gelu(gate) * up` with the tanh form of GELU.
    GeluTanhGated,
}

/// Rotary position encoding: the base of its frequencies and how they are stretched.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Pair i of n/2 turns by `position * theta^(-2i/n)` before scaling.
    pub theta: f32,
    /// How the frequencies are scaled.
    pub scaling: RopeScaling,
}

/// The shape and the arithmetic of one model. Checked by [`ModelSpec::check`] whenever one is read from a
/// file.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The model's own name, or else its file's or folder's.
    pub name: String,
    /// `llama`, `mistral`, `qwen2`, `qwen3`, `gemma3` or `phi3`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Count of transformer blocks.
    pub blocks: usize,
    /// Rows of the embedding matrix; may be a little more than the tokenizer knows.
    pub vocabulary: usize,
    /// The context the model was trained for, in tokens.
    pub context_tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of each head; `heads * head_width` need not be `hidden`.
    pub head_width: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Added to the mean of squares in every norm.
    pub norm_epsilon: f32,
    /// Added to every norm weight: 1.0 where they are stored minus one (Gemma from Hugging Face), else 0.0.
    pub norm_weight_offset: f32,
    /// Factor of the attention scores: `1 / sqrt(head_width)` unless the family says otherwise.
    pub query_scale: f32,
    /// The gate of the feed-forward network.
    pub activation: Activation,
    /// Factor of the embedding: `sqrt(hidden)` in f32 for Gemma, else 1.0.
    pub embedding_scale: f32,
    /// The first so many columns of each head are rotated; even, at most `head_width`.
    pub rotary_width: usize,
    /// Which columns of a head turn together.
    pub rope_pairing: RopePairing,
    /// Rotation in blocks of full attention, and in all blocks if `rope_local` is `None`.
    pub rope: Rope,
    /// Rotation in sliding blocks where it differs (Gemma 3).
    pub rope_local: Option<Rope>,
    /// Sliding window in tokens: position p sees `p - window + 1 ..= p`.
    pub window: Option<usize>,
    /// With a window, every n-th block (counted from 1) attends to everything; 0 means that all blocks slide.
    pub window_pattern: usize,
    /// No output matrix of its own: the embedding serves.
    pub tied_head: bool,
}

impl ModelSpec {
    /// The sliding window of a block (counted from 0) in tokens, or `None` for full attention.
    pub fn block_window(&self, block: usize) -> Option<usize> {
        let full = self.window_pattern != 0 && (block + 1).is_multiple_of(self.window_pattern);
        self.window.filter(|_| !full)
    }

    /// The rotation of a block (counted from 0).
    pub fn block_rope(&self, block: usize) -> &Rope {
        match (&self.rope_local, self.block_window(block)) {
            (Some(local), Some(_)) => local,
            _ => &self.rope,
        }
    }

    /// Rows of the query matrix: `heads * head_width`.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Rows of the key matrix and of the value matrix: `kv_heads * head_width`.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Checks every field against its limit and against the others, so that sizes computed from them cannot
    /// overflow and no count is zero where one is divided by.
    pub fn check(&self, file: &str) -> Result<(), Error> {
        let broken = |what: String| Err(Error::broken(file, what));
        let counts = [
            ("hidden width", self.hidden, HIDDEN_MAX),
            ("count of blocks", self.blocks, BLOCKS_MAX),
            ("vocabulary", self.vocabulary, VOCABULARY_MAX),
            ("context", self.context_tokens, CONTEXT_TOKENS_MAX),
            ("count of heads", self.heads, HEADS_MAX),
            ("count of key and value heads", self.kv_heads, HEADS_MAX),
            ("head width", self.head_width, HEAD_WIDTH_MAX),
            ("feed-forward width", self.feed_forward, FEED_FORWARD_MAX),
            ("rotary width", self.rotary_width, HEAD_WIDTH_MAX),
            ("sliding window", self.window.unwrap_or(1), usize::MAX),
        ];
        for (name, value, limit) in counts {
            if value == 0 || value > limit {
                return broken(format!("the {name} is {value}; 1 to {limit} are possible"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return broken(format!("{heads} heads can't share {kv_heads} key and value heads evenly"));
        }
        if !self.rotary_width.is_multiple_of(2) || self.rotary_width > self.head_width {
            let (rotary, head) = (self.rotary_width, self.head_width);
            return broken(format!(
                "the rotary width is {rotary}; it has to be even and at most the head width, {head}"
            ));
        }
        let reals = [
            ("norm epsilon", self.norm_epsilon),
            ("query scale", self.query_scale),
            ("embedding scale", self.embedding_scale),
            ("base of the rotary frequencies", self.rope.theta),
            ("local base of the rotary frequencies", self.rope_local.as_ref().map_or(1.0, |rope| rope.theta)),
        ];
        for (name, value) in reals {
            if !value.is_finite() || value <= 0.0 {
                return broken(format!("the {name} is {value}; it has to be finite and positive"));
            }
        }
        for rope in std::iter::once(&self.rope).chain(&self.rope_local) {
            check_scaling(&rope.scaling, self.rotary_width).or_else(broken)?;
        }
        Ok(())
    }
}

/// Every number of a scaling is finite and positive, and there are as many factors as frequencies.
fn check_scaling(scaling: &RopeScaling, rotary_width: usize) -> Result<(), String> {
    let numbers: Vec<f32> = match scaling {
        RopeScaling::None => Vec::new(),
        RopeScaling::Linear { factor } => vec![*factor],
        RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
            if high_frequency_factor <= low_frequency_factor {
                return Err(format!(
                    "the rotary scaling's high frequency factor is {high_frequency_factor}; it has to be \
                    more than the low one, {low_frequency_factor}"
                ));
            }
            vec![*factor, *low_frequency_factor, *high_frequency_factor, *original_context]
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor } => {
            vec![*factor, *original_context, *beta_fast, *beta_slow, *attention_factor]
        }
        RopeScaling::Factors(factors) => {
            if factors.len() != rotary_width / 2 {
                let (found, wanted) = (factors.len(), rotary_width / 2);
                return Err(format!("there are {found} rotary factors for {wanted} frequencies"));
            }
            factors.clone()
        }
    };
    match numbers.iter().find(|number| !number.is_finite() || **number <= 0.0) {
        Some(number) => {
            Err(format!("a number of the rotary scaling is {number}; all have to be finite and positive"))
        }
        None => Ok(()),
    }
}
