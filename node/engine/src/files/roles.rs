//! Which tensor of a file plays which part in a block.
//!
//! Files of the two kinds name the same matrices differently, and some store several in one. Here each name
//! is matched to a role and to the rows that belong to it, with the shape that the model's description
//! demands. A tensor of a block that matches nothing is refused: a step that is left out would give wrong
//! text, not an error.

use std::collections::HashMap;

use kwaainet_kernels::Format;

use super::TensorInfo;
use crate::Error;
use crate::spec::ModelSpec;

/// The part that a tensor plays. Vectors (norms and biases) have one row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// `[vocabulary, hidden]`.
    Embedding,
    /// `[1, hidden]`.
    OutputNorm,
    /// `[vocabulary, hidden]`; absent if the embedding serves.
    Output,
    /// `[1, hidden]`, before attention.
    AttentionNorm,
    /// `[heads * head_width, hidden]`.
    Query,
    /// `[kv_heads * head_width, hidden]`.
    Key,
    /// `[kv_heads * head_width, hidden]`.
    Value,
    /// `[1, heads * head_width]`; optional.
    QueryBias,
    /// `[1, kv_heads * head_width]`; optional.
    KeyBias,
    /// `[1, kv_heads * head_width]`; optional.
    ValueBias,
    /// `[1, head_width]`, for each head; Qwen 3 and Gemma 3.
    QueryNorm,
    /// `[1, head_width]`, for each head; Qwen 3 and Gemma 3.
    KeyNorm,
    /// `[hidden, heads * head_width]`.
    AttentionOutput,
    /// `[1, hidden]`; optional.
    AttentionOutputBias,
    /// `[1, hidden]`, after attention, before the residual; Gemma 3.
    PostAttentionNorm,
    /// `[1, hidden]`, before the feed-forward network.
    FeedForwardNorm,
    /// `[feed_forward, hidden]`.
    Gate,
    /// `[feed_forward, hidden]`.
    Up,
    /// `[hidden, feed_forward]`.
    Down,
    /// `[1, hidden]`, after the feed-forward network, before the residual; Gemma 3.
    PostFeedForwardNorm,
}

/// Rows of one tensor of the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Index in the table of all tensors.
    pub(crate) tensor: usize,
    /// The first row, for tensors that hold several matrices.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// Where the parts of a model lie.
pub(crate) type Slots = HashMap<(Role, Option<usize>), Slot>;

/// How a kind of file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    Gguf,
    /// With the prefix of the text model, such as `model.` or `language_model.model.`.
    HuggingFace {
        prefix: &'static str,
    },
}

/// Prefixes of text models of Hugging Face: alone, and inside models that also see (two generations of
/// names).
const PREFIXES: [&str; 3] = ["model.", "language_model.model.", "model.language_model."];

impl Naming {
    /// The naming of a SafeTensors model, by where its embedding is.
    pub(crate) fn of_safetensors(tensors: &[TensorInfo]) -> Naming {
        let has = |prefix: &str| {
            tensors.iter().any(|tensor| tensor.name.strip_prefix(prefix) == Some("embed_tokens.weight"))
        };
        let prefix = PREFIXES.into_iter().find(|prefix| has(prefix)).unwrap_or(PREFIXES[0]);
        Naming::HuggingFace { prefix }
    }

    /// Where the blocks' tensors begin in name: `blk.` or `model.layers.`.
    fn block_prefix(self) -> String {
        match self {
            Naming::Gguf => "blk.".to_owned(),
            Naming::HuggingFace { prefix } => format!("{prefix}layers."),
        }
    }

    /// The roles outside blocks with their names.
    fn outside(self) -> [(String, Role); 3] {
        match self {
            Naming::Gguf => [
                ("token_embd.weight".to_owned(), Role::Embedding),
                ("output_norm.weight".to_owned(), Role::OutputNorm),
                ("output.weight".to_owned(), Role::Output),
            ],
            Naming::HuggingFace { prefix } => {
                // The head stands beside the text model: `lm_head` and `model.`, `language_model.lm_head` and
                // so on.
                let parent = prefix.strip_suffix("model.").filter(|_| prefix == "language_model.model.");
                [
                    (format!("{prefix}embed_tokens.weight"), Role::Embedding),
                    (format!("{prefix}norm.weight"), Role::OutputNorm),
                    (format!("{}lm_head.weight", parent.unwrap_or("")), Role::Output),
                ]
            }
        }
    }

    /// The roles that a tensor of a block holds, by the rest of its name, in the order of their rows.
    fn inside(self, rest: &str, sandwich: bool) -> &'static [Role] {
        use Role::*;
        match self {
            Naming::Gguf => match rest {
                "attn_norm.weight" => &[AttentionNorm],
                "attn_q.weight" => &[Query],
                "attn_k.weight" => &[Key],
                "attn_v.weight" => &[Value],
                "attn_qkv.weight" => &[Query, Key, Value],
                "attn_q.bias" => &[QueryBias],
                "attn_k.bias" => &[KeyBias],
                "attn_v.bias" => &[ValueBias],
                "attn_q_norm.weight" => &[QueryNorm],
                "attn_k_norm.weight" => &[KeyNorm],
                "attn_output.weight" => &[AttentionOutput],
                "attn_output.bias" => &[AttentionOutputBias],
                "post_attention_norm.weight" => &[PostAttentionNorm],
                "ffn_norm.weight" => &[FeedForwardNorm],
                "ffn_gate.weight" => &[Gate],
                "ffn_up.weight" => &[Up],
                "ffn_down.weight" => &[Down],
                "post_ffw_norm.weight" => &[PostFeedForwardNorm],
                _ => &[],
            },
            Naming::HuggingFace { .. } => match rest {
                "input_layernorm.weight" => &[AttentionNorm],
                "self_attn.q_proj.weight" => &[Query],
                "self_attn.k_proj.weight" => &[Key],
                "self_attn.v_proj.weight" => &[Value],
                "self_attn.qkv_proj.weight" => &[Query, Key, Value],
                "self_attn.q_proj.bias" => &[QueryBias],
                "self_attn.k_proj.bias" => &[KeyBias],
                "self_attn.v_proj.bias" => &[ValueBias],
                "self_attn.q_norm.weight" => &[QueryNorm],
                "self_attn.k_norm.weight" => &[KeyNorm],
                "self_attn.o_proj.weight" => &[AttentionOutput],
                "self_attn.o_proj.bias" => &[AttentionOutputBias],
                // The same name means two things: with four norms a block, it follows attention.
                "post_attention_layernorm.weight" if sandwich => &[PostAttentionNorm],
                "post_attention_layernorm.weight" => &[FeedForwardNorm],
                "pre_feedforward_layernorm.weight" => &[FeedForwardNorm],
                "mlp.gate_proj.weight" => &[Gate],
                "mlp.up_proj.weight" => &[Up],
                "mlp.gate_up_proj.weight" => &[Gate, Up],
                "mlp.down_proj.weight" => &[Down],
                "post_feedforward_layernorm.weight" => &[PostFeedForwardNorm],
                _ => &[],
            },
        }
    }
}

impl Role {
    /// True for the roles outside blocks.
    pub fn is_outside(self) -> bool {
        matches!(self, Role::Embedding | Role::OutputNorm | Role::Output)
    }

    /// The shape `[rows, columns]` that a model's description demands.
    pub fn shape(self, spec: &ModelSpec) -> (usize, usize) {
        let (hidden, query, kv) = (spec.hidden, spec.query_width(), spec.kv_width());
        match self {
            Role::Embedding | Role::Output => (spec.vocabulary, hidden),
            Role::Query => (query, hidden),
            Role::Key | Role::Value => (kv, hidden),
            Role::QueryBias => (1, query),
            Role::KeyBias | Role::ValueBias => (1, kv),
            Role::QueryNorm | Role::KeyNorm => (1, spec.head_width),
            Role::AttentionOutput => (hidden, query),
            Role::Gate | Role::Up => (spec.feed_forward, hidden),
            Role::Down => (hidden, spec.feed_forward),
            Role::OutputNorm
            | Role::AttentionNorm
            | Role::AttentionOutputBias
            | Role::PostAttentionNorm
            | Role::FeedForwardNorm
            | Role::PostFeedForwardNorm => (1, hidden),
        }
    }

    /// True for norms and biases.
    fn is_vector(self) -> bool {
        !matches!(
            self,
            Role::Embedding
                | Role::Output
                | Role::Query
                | Role::Key
                | Role::Value
                | Role::AttentionOutput
                | Role::Gate
                | Role::Up
                | Role::Down
        )
    }
}

/// The roles that every block of a family has to have.
fn required(architecture: &str) -> Vec<Role> {
    use Role::*;
    let mut roles = vec![AttentionNorm, Query, Key, Value, AttentionOutput, FeedForwardNorm, Gate, Up, Down];
    match architecture {
        "qwen2" => roles.extend([QueryBias, KeyBias, ValueBias]),
        "qwen3" => roles.extend([QueryNorm, KeyNorm]),
        "gemma3" => roles.extend([QueryNorm, KeyNorm, PostAttentionNorm, PostFeedForwardNorm]),
        _ => {}
    }
    roles
}

/// Roles that a family may have beyond those.
fn optional(architecture: &str, role: Role) -> bool {
    use Role::*;
    matches!(architecture, "llama" | "mistral" | "qwen3")
        && matches!(role, QueryBias | KeyBias | ValueBias | AttentionOutputBias)
}

/// Finds every part of the model and checks its shape.
///
/// # Errors
///
/// [`Error::Broken`] if a part is missing or has another shape; [`Error::Unsupported`] if a block holds a
/// tensor that the family's arithmetic here does not use, or one of a type without kernels.
pub(crate) fn resolve(
    file: &str,
    spec: &ModelSpec,
    naming: Naming,
    tensors: &[TensorInfo],
) -> Result<Slots, Error> {
    let sandwich = spec.architecture == "gemma3";
    let block_prefix = naming.block_prefix();
    let required = required(&spec.architecture);
    let mut slots = Slots::new();
    let outside = naming.outside();
    for (index, tensor) in tensors.iter().enumerate() {
        if let Some((_, role)) = outside.iter().find(|(name, _)| *name == tensor.name) {
            if *role == Role::Output && spec.tied_head {
                continue; // some files repeat the embedding
            }
            place(file, spec, &mut slots, &[*role], None, index, tensor)?;
        } else if let Some(rest) = tensor.name.strip_prefix(&block_prefix) {
            let unused = || {
                Error::unsupported(format!(
                    "{file} holds the tensor {}, which a block of family {} does not have here; running \
                    without it \
                     would give wrong text. Models with experts, adapters or extra heads can't be run",
                    tensor.name, spec.architecture
                ))
            };
            let (number, rest) = rest.split_once('.').ok_or_else(unused)?;
            // Old Llama files carry the rotary frequencies, which follow from the config.
            if rest == "self_attn.rotary_emb.inv_freq" {
                continue;
            }
            let block: usize = number.parse().map_err(|_| unused())?;
            if block >= spec.blocks {
                let what =
                    format!("it holds the tensor {}, but says it has {} blocks", tensor.name, spec.blocks);
                return Err(Error::broken(file, what));
            }
            let mut roles = naming.inside(rest, sandwich);
            // Phi-3 in GGUF keeps gate and up in one tensor under the name of up.
            if spec.architecture == "phi3" && roles == [Role::Up] {
                roles = &[Role::Gate, Role::Up];
            }
            if roles.is_empty()
                || !roles.iter().all(|role| required.contains(role) || optional(&spec.architecture, *role))
            {
                return Err(unused());
            }
            place(file, spec, &mut slots, roles, Some(block), index, tensor)?;
        } else if ["output.bias", "lm_head.bias"].contains(&tensor.name.as_str()) {
            return Err(Error::unsupported(format!(
                "{file} holds the tensor {}; heads with a bias can't be run",
                tensor.name
            )));
        }
    }

    let missing = |role: Role, block: Option<usize>| {
        let place = block.map_or(String::new(), |block| format!(" of block {block}"));
        Error::broken(file, format!("the tensor for {role:?}{place} is missing"))
    };
    let head = if spec.tied_head { &[][..] } else { &[Role::Output] };
    for role in [Role::Embedding, Role::OutputNorm].iter().chain(head) {
        if !slots.contains_key(&(*role, None)) {
            return Err(missing(*role, None));
        }
    }
    for block in 0..spec.blocks {
        if let Some(role) = required.iter().find(|role| !slots.contains_key(&(**role, Some(block)))) {
            return Err(missing(*role, Some(block)));
        }
    }
    Ok(slots)
}

/// Gives the rows of one tensor to its roles, in order.
fn place(
    file: &str,
    spec: &ModelSpec,
    slots: &mut Slots,
    roles: &[Role],
    block: Option<usize>,
    index: usize,
    tensor: &TensorInfo,
) -> Result<(), Error> {
    let name = &tensor.name;
    let Some(format) = tensor.format else {
        return Err(Error::unsupported(format!(
            "{file} stores the tensor {name} as {}; F32, F16 and BF16 can be read",
            tensor.type_name
        )));
    };
    // The limits of the specification keep these sums small.
    let rows: usize = roles.iter().map(|role| role.shape(spec).0).sum();
    let columns = roles[0].shape(spec).1;
    let wanted: &[u64] =
        if roles[0].is_vector() { &[columns as u64] } else { &[rows as u64, columns as u64] };
    if tensor.shape != wanted {
        let what = format!(
            "the tensor {name} has the shape {:?}, but the model's description demands {wanted:?}",
            tensor.shape
        );
        return Err(Error::broken(file, what));
    }
    if roles[0].is_vector() && !format.is_float() {
        return Err(Error::unsupported(format!(
            "{file} stores the tensor {name} as {}; norms and biases have to be F32, F16 or BF16",
            format.name()
        )));
    }
    let mut first_row = 0;
    for role in roles {
        let rows = role.shape(spec).0;
        let slot = Slot { tensor: index, first_row, rows, columns };
        if slots.insert((*role, block), slot).is_some() {
            return Err(Error::broken(file, format!("the tensor {name} brings {role:?} a second time")));
        }
        first_row += rows;
    }
    Ok(())
}

/// Bytes of one row of a slot's tensor. Cannot fail: the tensor's length was computed from it when the header
/// was read.
pub(crate) fn row_bytes(format: Format, columns: usize) -> usize {
    format.row_bytes(columns).expect("the header's reader computed the tensor's length from this")
}
