//! The listener: who gets in, how many at once, and how the house is closed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::net::TcpListener;
use smol::{LocalExecutor, Timer};

use crate::limits::{
    ACCEPT_PAUSE, CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, DRAIN_TIME_MAX, TURNED_AWAY_MAX,
};

use crate::metrics::{self, DoorCounts};

use super::Service;
use super::connection::Connection;
use super::guard::Guard;
use super::refusal::Refusal;

/// While the house is being closed, how often it is checked whether the last answer is out.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// A door with its rules, what answers behind it, and who is inside.
pub struct Door {
    guard: Guard,
    service: Box<dyn Service>,
    addresses: RefCell<HashMap<IpAddr, usize>>,
    open: Cell<usize>,
    turned_away: Cell<usize>,
    busy: Cell<usize>,
    draining: Cell<bool>,
    counts: Rc<DoorCounts>,
}

impl Door {
    /// A door that nobody knocks at yet.
    pub fn new(guard: Guard, service: Box<dyn Service>, counts: Rc<DoorCounts>) -> Rc<Self> {
        Rc::new(Door {
            guard,
            service,
            addresses: RefCell::default(),
            open: Cell::new(0),
            turned_away: Cell::new(0),
            busy: Cell::new(0),
            draining: Cell::new(false),
            counts,
        })
    }

    /// Serves until `stop` ends; then lets running answers finish for at most `DRAIN_TIME_MAX`. No failed
    /// `accept` ends it: without descriptors it waits a moment and goes on.
    pub async fn run(
        self: Rc<Self>,
        listener: TcpListener,
        executor: &LocalExecutor<'static>,
        stop: impl Future<Output = ()>,
    ) {
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        let connection = Connection::new(stream);
                        metrics::add(&self.counts.connections);
                        match self.place(peer.ip()) {
                            Some(place) => executor.spawn(async move {
                                connection.serve(&place.door).await;
                            }),
                            None => match self.crowd() {
                                Some(crowd) => executor.spawn(turn_away(connection, crowd)),
                                None => continue,
                            },
                        }
                        .detach();
                    }
                    Err(_) => {
                        Timer::after(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        accept.or(stop).await;
        drop(listener);
        self.draining.set(true);
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        while self.busy.get() > 0 && Instant::now() < deadline {
            Timer::after(DRAIN_STEP).await;
        }
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(super) fn service(&self) -> &dyn Service {
        &*self.service
    }

    pub(super) fn counts(&self) -> &DoorCounts {
        &self.counts
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether connections may be kept: not while more than half of the places are taken, or idle clients
    /// would lock out busy ones.
    pub(super) fn has_room(&self) -> bool {
        self.open.get() <= CONNECTIONS_MAX / 2
    }

    /// Marks a request as running while the result lives.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.busy.set(self.busy.get() + 1);
        Busy(&self.busy)
    }

    fn place(self: &Rc<Self>, address: IpAddr) -> Option<Place> {
        let mut addresses = self.addresses.borrow_mut();
        let here = addresses.get(&address).copied().unwrap_or(0);
        let is_crowd = !address.is_loopback() && here >= CONNECTIONS_PER_ADDRESS_MAX;
        if self.open.get() >= CONNECTIONS_MAX || is_crowd {
            return None;
        }
        addresses.insert(address, here + 1);
        self.open.set(self.open.get() + 1);
        self.counts.open.set(self.open.get() as u64);
        Some(Place { door: self.clone(), address })
    }

    fn crowd(self: &Rc<Self>) -> Option<Crowd> {
        metrics::add(&self.counts.turned_away);
        (self.turned_away.get() < TURNED_AWAY_MAX).then(|| {
            self.turned_away.set(self.turned_away.get() + 1);
            Crowd(self.clone())
        })
    }
}

/// Tells one client too many that it is.
async fn turn_away(mut connection: Connection, _crowd: Crowd) {
    let message = format!("All {CONNECTIONS_MAX} connections are taken.");
    connection.turn_away(Refusal::new(503, message).retry_after_s(1).into()).await;
}

/// One of the `CONNECTIONS_MAX` places, given back when dropped.
struct Place {
    door: Rc<Door>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.open.set(self.door.open.get() - 1);
        self.door.counts.open.set(self.door.open.get() as u64);
        let mut addresses = self.door.addresses.borrow_mut();
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// One of the `TURNED_AWAY_MAX` clients that are being told that there is no place.
struct Crowd(Rc<Door>);

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.turned_away.set(self.0.turned_away.get() - 1);
    }
}

/// A running request.
pub(super) struct Busy<'a>(&'a Cell<usize>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
