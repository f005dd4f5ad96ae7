//! What the node counts, as Prometheus reads it (text format 0.0.4).
//!
//! Each room tells its own numbers when it is asked, so nothing is counted twice and idle nodes count
//! nothing. A room joins with [`Metrics::add`].

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A named number with its values by label.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its name without `kwaainet_`; counters end in `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it tells, in a sentence.
    pub help: &'static str,
    /// Labels (none for a bare number) and values.
    pub values: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Metric {
    /// A bare number.
    pub fn one(name: &'static str, kind: Kind, help: &'static str, value: f64) -> Metric {
        Metric { name, kind, help, values: vec![(Vec::new(), value)] }
    }

    /// A number for each value of one label.
    pub fn by(
        name: &'static str,
        kind: Kind,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (String, f64)>,
    ) -> Metric {
        let values = values.into_iter().map(|(text, value)| (vec![(label, text)], value)).collect();
        Metric { name, kind, help, values }
    }

    fn write(&self, out: &mut String) {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let name = self.name;
        // Writing to a String never fails.
        let _ = writeln!(out, "# HELP kwaainet_{name} {}\n# TYPE kwaainet_{name} {kind}", self.help);
        for (labels, value) in &self.values {
            let labels: Vec<String> =
                labels.iter().map(|(name, text)| format!("{name}=\"{}\"", escaped(text))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(out, "kwaainet_{name}{labels} {value}");
        }
    }
}

/// A label's text as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

type Telling = Pin<Box<dyn Future<Output = Vec<Metric>>>>;
type Room = Box<dyn Fn() -> Telling>;

/// All rooms that tell numbers.
#[derive(Clone, Default)]
pub struct Metrics(Rc<RefCell<Vec<Room>>>);

impl Metrics {
    /// Has a room asked at each look.
    pub fn add<F: Future<Output = Vec<Metric>> + 'static>(&self, tell: impl Fn() -> F + 'static) {
        self.0.borrow_mut().push(Box::new(move || Box::pin(tell())));
    }

    /// All numbers as text.
    pub async fn text(&self) -> String {
        let tellings: Vec<Telling> = self.0.borrow().iter().map(|tell| tell()).collect();
        let mut out = String::new();
        for telling in tellings {
            for metric in telling.await {
                metric.write(&mut out);
            }
        }
        out
    }
}

/// What the front door counts.
#[derive(Default)]
pub struct DoorCounts {
    /// Connections that came in.
    pub connections: Cell<u64>,
    /// Connections that are open.
    pub open: Cell<u64>,
    /// Connections that found no place.
    pub turned_away: Cell<u64>,
    /// Answers by hundreds of their status: 2xx at 2.
    pub answers: [Cell<u64>; 6],
}

impl DoorCounts {
    /// Notes an answer.
    pub fn answered(&self, status: u16) {
        if let Some(count) = self.answers.get(usize::from(status / 100)) {
            add(count);
        }
    }

    /// As metrics.
    pub fn metrics(&self) -> Vec<Metric> {
        let answers = self.answers.iter().enumerate().skip(1);
        let answers = answers.map(|(hundred, count)| (format!("{hundred}xx"), count.get() as f64));
        vec![
            Metric::one(
                "http_connections_total",
                Kind::Counter,
                "Connections to the HTTP API.",
                self.connections.get() as f64,
            ),
            Metric::one(
                "http_connections",
                Kind::Gauge,
                "Connections that are open.",
                self.open.get() as f64,
            ),
            Metric::one(
                "http_turned_away_total",
                Kind::Counter,
                "Connections that found no place.",
                self.turned_away.get() as f64,
            ),
            Metric::by("http_answers_total", Kind::Counter, "Answers by status.", "status", answers),
        ]
    }
}

/// Counts one more.
pub fn add(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.add(|| async { vec![Metric::one("peers", Kind::Gauge, "Peers.", 3.0)] });
        metrics.add(|| async {
            let values = [("a\"b\\\n".to_owned(), 1.0), ("c".to_owned(), 0.5)];
            vec![Metric::by("x_total", Kind::Counter, "X.", "name", values)]
        });
        let expected = "# HELP kwaainet_peers Peers.\n# TYPE kwaainet_peers gauge\nkwaainet_peers 3\n\
            # HELP kwaainet_x_total X.\n# TYPE kwaainet_x_total counter\n\
            kwaainet_x_total{name=\"a\\\"b\\\\\\n\"} 1\nkwaainet_x_total{name=\"c\"} 0.5\n";
        assert_eq!(smol::block_on(metrics.text()), expected);
    }

    #[test]
    fn answers_are_counted_by_their_hundreds() {
        let counts = DoorCounts::default();
        for status in [200, 204, 404, 503, 999] {
            counts.answered(status);
        }
        let answers = counts.metrics().pop().unwrap().values;
        let answers: Vec<f64> = answers.into_iter().map(|(_, value)| value).collect();
        assert_eq!(answers, [0.0, 2.0, 0.0, 1.0, 1.0]);
    }
}
