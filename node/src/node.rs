//! A running node: the HTTP part first, and beside it what belongs to a home folder.
//!
//! One thread runs all of it; computing and the network have theirs. What failed and can be tried again is
//! the supervisor's ([`Parts`]); what can't ends the node with a sentence and its exit code.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use kwaainet_engine::memory;
use serde_json::{Value, json};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{self, FutureExt, zip};
use smol::{LocalExecutor, Timer};

use crate::api::Api;
use crate::config::{Config, keys};
use crate::control::{Answer, Answerer, Control};
use crate::door::Door;
use crate::exit::{Exit, Failure};
use crate::http::{self, Port};
use crate::limits::{LAST_WORD_TIME, READY_PATIENCE};
use crate::lock::Lock;
use crate::log;
use crate::metrics::{DoorCounts, Kind, Metric, Metrics};
use crate::model::{EMBEDDED_NAME, Model, file_name};
use crate::network::Network;
use crate::notify;
use crate::parts::{Parts, State};
use crate::signals::Signals;

/// What `start` has beyond the HTTP part.
pub struct Whole {
    /// Kept so that no second node runs.
    pub _lock: Lock,
    /// How commands ask.
    pub control: Control,
    /// The way to other nodes.
    pub network: Rc<Network>,
    /// The flags of the command line, for `restart`.
    pub flags: Vec<String>,
    /// The home folder.
    pub home: PathBuf,
    /// Hears once, with `status`, that the node is ready.
    pub ready: fn(&Value),
}

/// What is asked while the node runs.
struct Node {
    start: Instant,
    address: String,
    parts: Parts,
    api: Rc<Api>,
    stop: Sender<()>,
    whole: Whole,
}

/// Runs a node until a signal, a command or a failure ends it. Without `whole` it is the HTTP part alone.
pub fn run(config: &Config, port: Port, signals: &Signals, whole: Option<Whole>) -> Result<Exit, Failure> {
    let path = config.path(&keys::MODEL_PATH);
    let id = config.text(&keys::MODEL_NAME).map_or_else(|| file_name(path.as_deref()), str::to_owned);
    let mut aliases = vec!["default".to_owned()];
    aliases.extend(path.is_none().then(|| EMBEDDED_NAME.to_owned()));
    let metrics = Metrics::default();
    let api = Api::new(id, aliases, metrics.clone())?;
    let models = http::load(config)?;
    let counts = Rc::<DoorCounts>::default();
    let door = Door::new(port.guard, api.service(), counts.clone());
    count_http(&metrics, counts, api.clone());
    log::say(&format!("Listening at http://{}.", port.address));

    let parts = Parts::default();
    parts.set("http", State::Running(Instant::now()));
    parts.set("model", State::Starting);
    let (stop, stopped) = bounded(1);
    let (knows, model_known) = bounded(1);
    let node = whole.map(|whole| {
        let address = format!("http://{}", port.address);
        let (parts, api) = (parts.clone(), api.clone());
        Rc::new(Node { start: Instant::now(), address, parts, api, stop: stop.clone(), whole })
    });
    if let Some(node) = &node {
        count_network(&metrics, node.whole.network.clone());
    }
    let executor = LocalExecutor::new();
    let mut failure = None;
    let end = async {
        let load = async {
            match models.recv().await {
                Ok(Ok(model)) => {
                    show_model(&api, &parts, model);
                    // Nobody waits for it in the HTTP part alone.
                    let _ = knows.try_send(());
                    future::pending().await
                }
                Ok(Err(refused)) => failure = Some(refused),
                Err(_) => {
                    let message = "the model's loading ended without a result";
                    failure = Some(Failure::new(Exit::Failure, message));
                }
            }
        };
        let asked = async {
            // `stop` lives as long as this future, so the channel stays open.
            let _ = stopped.recv().await;
            // The one who asked hears the answer first.
            Timer::after(LAST_WORD_TIME).await;
        };
        signals.arrival().or(load).or(asked).await;
        notify::say("STOPPING=1");
        if signals.came() {
            log::say("Finishing what is running; once more ends at once.");
        }
    };
    let beside = async {
        match &node {
            Some(node) => node.run(&executor, model_known).await,
            None => future::pending().await,
        }
    };
    smol::block_on(executor.run(door.run(port.listener, &executor, end).or(beside)));
    if let Some(node) = &node {
        smol::block_on(node.whole.network.farewell());
        log::say("Ended.");
    }
    match failure {
        Some(failure) => Err(failure),
        None if signals.is_interrupted() => Ok(Exit::Interrupted),
        None => Ok(Exit::Success),
    }
}

fn show_model(api: &Api, parts: &Parts, model: Model) {
    if let Some(warning) = model.text.template.warning() {
        log::say(&format!("kwaainet: {warning}"));
    }
    log::say(&format!("Ready after {:.0} ms.", model.load_s * 1e3));
    api.set_model(model);
    parts.set("model", State::Running(Instant::now()));
}

fn count_http(metrics: &Metrics, counts: Rc<DoorCounts>, api: Rc<Api>) {
    metrics.add(move || future::ready(counts.metrics()));
    metrics.add(move || future::ready(api.metrics()));
    metrics.add(|| future::ready(process_metrics()));
}

fn count_network(metrics: &Metrics, network: Rc<Network>) {
    metrics.add(move || {
        let network = network.clone();
        async move { network.metrics().await }
    });
}

fn process_metrics() -> Vec<Metric> {
    let mut metrics = Vec::new();
    if let Some(time_s) = processor_s() {
        let help = "Processor time of all threads, in seconds.";
        metrics.push(Metric::one("process_cpu_seconds_total", Kind::Counter, help, time_s));
    }
    if let Some(resident) = memory::resident() {
        let help = "Memory of the process, mapped files included, in bytes.";
        metrics.push(Metric::one("process_resident_bytes", Kind::Gauge, help, resident.total_bytes as f64));
    }
    metrics
}

/// Processor time of all threads since the process began, in seconds; `None` where the system doesn't tell.
fn processor_s() -> Option<f64> {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
    }
    #[cfg(not(unix))]
    None
}

impl Node {
    /// Runs what stands beside the door, for ever.
    async fn run(self: &Rc<Self>, executor: &LocalExecutor<'static>, model_known: Receiver<()>) {
        let answerer: Answerer = {
            let node = self.clone();
            Rc::new(move |word, question| {
                let (node, word) = (node.clone(), word.to_owned());
                Box::pin(async move { node.answer(&word, question).await })
            })
        };
        let ready = async {
            let network = self.whole.network.begun();
            let up = async {
                // The sender is gone only when the node ends.
                let _ = zip(network, model_known.recv()).await;
            };
            let late = async {
                Timer::after(READY_PATIENCE).await;
            };
            up.or(late).await;
            notify::say("READY=1");
            (self.whole.ready)(&self.status().await);
        };
        let serve = self.whole.control.run(executor, answerer);
        let network = self.whole.network.keep(&self.parts);
        zip(zip(serve, network), zip(ready, notify::stay_alive())).await;
    }

    async fn answer(&self, word: &str, question: Value) -> Answer {
        match word {
            "status" => Ok(self.status().await),
            "stop" => {
                // A second wish to stop changes nothing.
                let _ = self.stop.try_send(());
                Ok(json!({"process": std::process::id()}))
            }
            _ => self.whole.network.answer(word, &question).await,
        }
    }

    /// All that `status` shows.
    async fn status(&self) -> Value {
        let uptime_s = self.start.elapsed().as_secs_f64();
        let resident = memory::resident();
        json!({
            "running": true,
            "version": env!("CARGO_PKG_VERSION"),
            "process": std::process::id(),
            "home": self.whole.home,
            "uptime_s": uptime_s.floor(),
            "processor_s": processor_s(),
            "resident_bytes": resident.map(|resident| resident.total_bytes),
            "anonymous_bytes": resident.map(|resident| resident.anonymous_bytes),
            "managed_by": manager(),
            "flags": self.whole.flags,
            "http": self.address,
            "model": self.api.health(),
            "parts": self.parts.to_json(),
            "network": self.whole.network.status().await,
        })
    }
}

/// What starts the node again when it ends; none for one that a person started.
fn manager() -> Option<&'static str> {
    let is_systemd =
        std::env::var_os("INVOCATION_ID").is_some() && std::env::var_os("NOTIFY_SOCKET").is_some();
    is_systemd.then_some("systemd")
}
