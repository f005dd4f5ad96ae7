//! What a node says about the blocks it serves, in Petals' and KwaaiNet's words.
//!
//! Wire protocols, sections 5.1 to 5.5 and 8.1 to 8.3. [`Announcement`] is the plain description; from it come
//! the records of the DHT and the answer to `rpc_info`, by which the public health monitor counts a node as
//! reachable. Python's readers are strict: rates are floats, block numbers are integers.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;

use super::Malformed;
use super::dht::Dht;
use super::dictionary::Subkey;
use super::id::Id;
use super::limits::{
    ADAPTERS_MAX, ANNOUNCED_BLOCKS_MAX, ANSWER_TIME_MAX, CALLS_MAX, CALLS_PER_PEER_MAX, INFO_BYTES_MAX,
    NAME_BYTES_MAX, NEXT_PINGS_MAX,
};
use super::messages::{decode_uid, encode_info};
use super::msgpack::{TENSOR, Value, map};
use super::records::Record;
use crate::call::{CallHandler, CallLimits, Served};

/// Asks what a server of blocks is and takes.
pub const INFO: &str = "TransformerConnectionHandler.rpc_info";
/// The key under which every model has an entry.
pub const MODELS_KEY: &str = "_petals.models";
/// The key under which every KwaaiNet node that serves blocks has an entry.
pub const INFERENCE_NODES_KEY: &str = "_kwaai.inference.nodes";
/// The key under which every KwaaiNet node that stores sealed knowledge has an entry.
pub const VPK_NODES_KEY: &str = "_kwaai.vpk.nodes";

/// How far a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Gone, or about to be.
    #[default]
    Offline,
    /// Loading its blocks.
    Joining,
    /// Serving them.
    Online,
}

/// A model of which a node serves some blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedModel {
    /// What its keys begin with: [`prefix_of_llama`] and its like give it.
    pub prefix: String,
    /// Blocks that the whole model has.
    pub blocks: u32,
    /// Those that are served here.
    pub served: Range<u32>,
    /// Where the model comes from, such as `https://huggingface.co/...`; the monitor lists only such models.
    pub repository: Option<String>,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Type of activations, such as `float32`.
    pub dtype: String,
}

/// A store of sealed knowledge that a node offers.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedKnowledge {
    /// `bob`, `eve` or `both`.
    pub mode: String,
    /// Room in it, in gigabytes.
    pub capacity_gb: f64,
    /// How many use it.
    pub tenants: u32,
    /// The version of its software.
    pub version: String,
}

/// All that a node says about itself in the DHT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Announcement {
    /// How far it is.
    pub state: State,
    /// The model, if it serves one.
    pub model: Option<ServedModel>,
    /// Its sealed knowledge, if it offers any.
    pub knowledge: Option<SealedKnowledge>,
    /// What people see.
    pub public_name: Option<String>,
    /// The version of its software.
    pub version: Option<String>,
    /// Tokens a second through all its blocks, by which clients choose.
    pub throughput: f64,
    /// Tokens a second that its link carries.
    pub network_rps: Option<f64>,
    /// Tokens a second and block in a batch.
    pub forward_rps: Option<f64>,
    /// Tokens a second and block one by one.
    pub inference_rps: Option<f64>,
    /// Fine-tuned adapters at hand.
    pub adapters: Vec<String>,
    /// How its weights are kept: `none`, `int8` or `nf4`.
    pub quantization: Option<String>,
    /// Whether it is reached over a relay.
    pub using_relay: bool,
    /// Tokens that still find room in its attention cache.
    pub cache_tokens_left: Option<u32>,
    /// Round-trip times to servers of the blocks that come next, in seconds; infinite where there is none.
    pub next_pings: Vec<(PeerId, f64)>,
}

/// The prefix of a Llama's keys, by Petals' rule: the name's last part, dots made dashes, ending with `-hf`.
pub fn prefix_of_llama(model: &str) -> String {
    let name = model.rsplit('/').next().unwrap_or(model).replace('.', "-");
    if name.ends_with("-hf") { name } else { name + "-hf" }
}

impl Announcement {
    /// Whether readers will take it.
    ///
    /// # Errors
    ///
    /// Says what they would refuse.
    pub fn check(&self) -> Result<(), Malformed> {
        let refuse = |what: String| Err(Malformed(what));
        let mut names =
            vec![("public name", self.public_name.as_deref()), ("version", self.version.as_deref())];
        if let Some(model) = &self.model {
            names.push(("model prefix", Some(&model.prefix)));
            names.push(("repository", model.repository.as_deref()));
            if model.prefix.is_empty() || model.prefix.contains(['.', ' ']) {
                return refuse(format!(
                    "the model prefix \"{}\" is empty or holds a dot or a space, which part blocks",
                    model.prefix
                ));
            }
            if model.served.is_empty() || model.served.end > model.blocks {
                return refuse(format!(
                    "blocks {} to {} are announced of a model that has {}",
                    model.served.start, model.served.end, model.blocks
                ));
            }
            if model.served.len() > ANNOUNCED_BLOCKS_MAX as usize {
                return refuse(format!("{} blocks are more than may be announced", model.served.len()));
            }
        }
        names.extend(self.adapters.iter().map(|adapter| ("adapter", Some(&adapter[..]))));
        if let Some((what, name)) = names.into_iter().find(|(_, name)| name.is_some_and(is_too_long)) {
            let bytes = name.map_or(0, str::len);
            return refuse(format!("the {what} has {bytes} bytes; it has at most {NAME_BYTES_MAX}"));
        }
        let rates = [Some(self.throughput), self.network_rps, self.forward_rps, self.inference_rps];
        if let Some(rate) = rates.into_iter().flatten().find(|rate| !(rate.is_finite() && *rate >= 0.0)) {
            return refuse(format!("the rate {rate} is not a number of zero or more"));
        }
        if let Some((_, seconds)) =
            self.next_pings.iter().find(|(_, seconds)| seconds.is_nan() || *seconds < 0.0)
        {
            return refuse(format!("the round-trip time {seconds} s is not a number of zero or more"));
        }
        if self.adapters.len() > ADAPTERS_MAX || self.next_pings.len() > NEXT_PINGS_MAX {
            return refuse(format!("there are more than {ADAPTERS_MAX} adapters or {NEXT_PINGS_MAX} times"));
        }
        Ok(())
    }

    /// The records that say it in the DHT, all until `expiration`.
    ///
    /// # Errors
    ///
    /// As [`Announcement::check`].
    pub fn records(&self, peer: PeerId, expiration: f64) -> Result<Vec<Record>, Malformed> {
        self.check()?;
        let name = Subkey::text(&peer.to_base58())?;
        let record = |key: &str, subkey: &Subkey, value: &Value| Record {
            key: Id::of_key(key),
            subkey: Some(subkey.clone()),
            value: value.encode(),
            expiration,
        };
        let mut records = Vec::new();
        if let Some(model) = &self.model {
            let info = self.server_info(model, peer);
            records.extend(
                model.served.clone().map(|block| record(&format!("{}.{block}", model.prefix), &name, &info)),
            );
            // A prefix with an underscore is a private model: known to those who were told of it.
            if !model.prefix.starts_with('_') && self.state != State::Offline {
                let value = map([
                    ("num_blocks", model.blocks.into()),
                    ("repository", model.repository.clone().into()),
                ]);
                records.push(record(MODELS_KEY, &Subkey::text(&model.prefix)?, &value));
            }
            records.push(record(INFERENCE_NODES_KEY, &name, &info));
        }
        if let Some(knowledge) = &self.knowledge {
            // These entries have no state, so one of a node that is gone holds nothing.
            let is_gone = self.state == State::Offline;
            let value = if is_gone { Value::Nil } else { self.knowledge_value(knowledge) };
            records.push(record(VPK_NODES_KEY, &name, &value));
        }
        Ok(records)
    }

    /// The three parts of a block record.
    fn server_info(&self, model: &ServedModel, peer: PeerId) -> Value {
        let state = match self.state {
            State::Offline => 0,
            State::Joining => 1,
            State::Online => 2,
        };
        let adapters = self.adapters.iter().map(|adapter| adapter.as_str().into()).collect();
        let pings =
            self.next_pings.iter().map(|(peer, seconds)| (peer.to_base58().into(), (*seconds).into()));
        let next_pings = if self.state == State::Offline { Value::Nil } else { Value::Map(pings.collect()) };
        let info = map([
            ("start_block", model.served.start.into()),
            ("end_block", model.served.end.into()),
            ("public_name", self.public_name.clone().into()),
            ("version", self.version.clone().into()),
            ("network_rps", self.network_rps.into()),
            ("forward_rps", self.forward_rps.into()),
            ("inference_rps", self.inference_rps.into()),
            ("adapters", Value::Tuple(adapters)),
            ("torch_dtype", model.dtype.as_str().into()),
            ("quant_type", self.quantization.clone().into()),
            ("using_relay", self.using_relay.into()),
            ("cache_tokens_left", self.cache_tokens_left.into()),
            ("next_pings", next_pings),
            // Not Petals', whose readers pass by what they don't know.
            ("peer_id", peer.to_base58().into()),
        ]);
        Value::Tuple(vec![Value::Integer(state), self.throughput.into(), info])
    }

    fn knowledge_value(&self, knowledge: &SealedKnowledge) -> Value {
        map([
            ("mode", knowledge.mode.as_str().into()),
            ("capacity_gb", knowledge.capacity_gb.into()),
            ("tenant_count", knowledge.tenants.into()),
            ("vpk_version", knowledge.version.as_str().into()),
            ("public_name", self.public_name.clone().into()),
        ])
    }

    /// The same, gone: what is written when a node stops, since the DHT knows no deleting.
    pub fn gone(&self) -> Announcement {
        Announcement {
            state: State::Offline,
            throughput: 0.0,
            cache_tokens_left: self.cache_tokens_left.map(|_| 0),
            next_pings: Vec::new(),
            ..self.clone()
        }
    }

    /// What `rpc_info` is answered with: about the node, and about blocks if `uid` names any.
    fn info(&self, uid: &str, client_only: bool) -> Result<Value, Malformed> {
        let text = |text: &str| Value::from(text);
        let mut pairs = vec![
            (text("version"), self.version.clone().unwrap_or_default().into()),
            (text("dht_client_mode"), client_only.into()),
            (text("cache_tokens_available"), self.cache_tokens_left.unwrap_or(0).into()),
        ];
        if uid.is_empty() {
            return Ok(Value::Map(pairs));
        }
        let model = self.model.as_ref().filter(|model| uid.split(' ').all(|block| model.serves(block)));
        let model = model.ok_or_else(|| Malformed(format!("Remote peer does not serve {uid}")))?;
        let none = || Value::Map(Vec::new());
        let hidden = || {
            let shape = [Value::Nil, Value::Integer(1), Value::Integer(2048), model.hidden.into()];
            descriptor(shape.to_vec(), &model.dtype)
        };
        let one = |dtype| descriptor(vec![Value::Nil], dtype);
        let tuple = |values: Vec<Value>| Value::Tuple(values);
        pairs.extend([
            (text("forward_schema"), tuple(vec![tuple(vec![hidden()]), none()])),
            (text("outputs_schema"), tuple(vec![hidden()])),
            (text("keyword_names"), tuple(vec![])),
            (
                text("inference_schema"),
                tuple(vec![tuple(vec![hidden(), one(&model.dtype), one("int64")]), none()]),
            ),
        ]);
        Ok(Value::Map(pairs))
    }
}

impl ServedModel {
    fn serves(&self, uid: &str) -> bool {
        let block = uid.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('.'));
        block.and_then(|block| block.parse().ok()).is_some_and(|block| self.served.contains(&block))
    }
}

fn is_too_long(name: &str) -> bool {
    name.len() > NAME_BYTES_MAX
}

/// A tensor's description (section 5.6), without compression.
fn descriptor(shape: Vec<Value>, dtype: &str) -> Value {
    let parts = map([
        ("size", Value::Tuple(shape)),
        ("dtype", format!("torch.{dtype}").into()),
        ("layout", "torch.strided".into()),
        ("requires_grad", false.into()),
        ("pin_memory", false.into()),
        ("compression", Value::Integer(0)),
        ("device_type", Value::Nil),
        ("device_index", Value::Nil),
    ]);
    Value::Extension(TENSOR, parts.encode())
}

/// An announcement that changes while it is being told.
#[derive(Clone, Default)]
pub struct Notice(Arc<Mutex<Announcement>>);

impl Notice {
    /// What is said from now on.
    ///
    /// # Errors
    ///
    /// As [`Announcement::check`]; then what was said before stays.
    pub fn set(&self, announcement: Announcement) -> Result<(), Malformed> {
        announcement.check()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = announcement;
        Ok(())
    }

    /// The answer to `rpc_info`, an `ExpertInfo`, for a request of these bytes.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the request, or that the blocks it names are not served.
    pub fn answer(&self, request: &[u8], client_only: bool) -> Result<Vec<u8>, Malformed> {
        let uid = decode_uid(request)?;
        Ok(encode_info(&self.get().info(&uid, client_only)?.encode()))
    }

    /// What is said.
    pub fn get(&self) -> Announcement {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers `rpc_info` with what `notice` says.
pub fn info_handler(dht: &Dht, notice: Notice) -> Served {
    let limits = CallLimits {
        request_bytes_max: INFO_BYTES_MAX,
        answer_bytes_max: INFO_BYTES_MAX,
        calls_max: CALLS_MAX,
        calls_per_peer_max: CALLS_PER_PEER_MAX,
        deadline: ANSWER_TIME_MAX,
    };
    (INFO, limits, Arc::new(InfoHandler { client_only: dht.client_only_flag(), notice }))
}

struct InfoHandler {
    client_only: Arc<AtomicBool>,
    notice: Notice,
}

impl CallHandler for InfoHandler {
    fn answer(&self, _from: PeerId, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let client_only = self.client_only.load(Ordering::Relaxed);
        let answer = self.notice.answer(&request, client_only);
        std::future::ready(answer.map_err(|malformed| malformed.to_string())).boxed()
    }
}

#[cfg(test)]
mod tests;
