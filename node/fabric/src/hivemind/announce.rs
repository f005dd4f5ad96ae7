//! Telling the network what a node serves, again and again, and that it stops.
//!
//! Wire protocols, sections 5.2, 6.3 and 8. Each round goes to the nodes nearest to the keys and to every
//! bootstrap peer, because those of KwaaiNet keep what they are told to themselves and the map reads there.
//! Rounds come well inside the records' life, with jitter; one comes at once when the node has something new
//! to say. At the end a last round says that the node is gone.

use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use libp2p::PeerId;
use smol::channel::{self, Receiver, Sender};
use smol::{Task, Timer};

use super::Malformed;
use super::dht::{Dht, jittered};
use super::limits::{ANNOUNCE_LIFE_SECONDS, ANNOUNCE_PERIOD, BOOTSTRAPS_MAX};
use super::petals::{Announcement, Notice};
use super::records::Record;

/// How a round went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Records in it.
    pub records: usize,
    /// Those that at least one node keeps.
    pub kept: usize,
    /// Bootstrap peers asked.
    pub bootstraps: usize,
    /// Those that keep every record.
    pub bootstraps_keeping: usize,
}

/// Tells `notice` until it is stopped.
pub struct Announcer {
    dht: Dht,
    bootstraps: Vec<PeerId>,
    notice: Notice,
    news: Sender<()>,
    task: Task<()>,
}

impl Announcer {
    /// Begins with a round at once.
    pub fn start(dht: Dht, bootstraps: &[PeerId], notice: Notice) -> Announcer {
        let bootstraps: Vec<PeerId> = bootstraps.iter().copied().take(BOOTSTRAPS_MAX).collect();
        let (news, heard) = channel::bounded(1);
        let task = smol::spawn(rounds(dht.clone(), bootstraps.clone(), notice.clone(), heard));
        Announcer { dht, bootstraps, notice, news, task }
    }

    /// Says something new, at once.
    ///
    /// # Errors
    ///
    /// Says what readers would refuse; then what was said before stays.
    pub fn say(&self, announcement: Announcement) -> Result<(), Malformed> {
        self.notice.set(announcement)?;
        // If a round is due already, it will say this.
        let _ = self.news.try_send(());
        Ok(())
    }

    /// Says that the node is gone, and stops.
    pub async fn stop(self) -> Round {
        self.task.cancel().await;
        let gone = self.notice.get().gone();
        let round = announce(&self.dht, &self.bootstraps, &gone).await;
        // It was said before, so it is well-formed.
        round.unwrap_or_default()
    }
}

async fn rounds(dht: Dht, bootstraps: Vec<PeerId>, notice: Notice, heard: Receiver<()>) {
    loop {
        // A notice is checked when it is set, so a round can't be refused.
        let _ = announce(&dht, &bootstraps, &notice.get()).await;
        let pause = jittered(ANNOUNCE_PERIOD);
        futures::select! {
            _ = FutureExt::fuse(Timer::after(pause)) => {}
            news = heard.recv().fuse() => {
                if news.is_err() {
                    return;
                }
            }
        }
    }
}

/// One round: stores what `announcement` says near its keys and at each bootstrap peer.
///
/// # Errors
///
/// Says what readers would refuse.
pub async fn announce(
    dht: &Dht,
    bootstraps: &[PeerId],
    announcement: &Announcement,
) -> Result<Round, Malformed> {
    let records = announcement.records(dht.peer_id(), dht.now() + ANNOUNCE_LIFE_SECONDS)?;
    if records.is_empty() {
        return Ok(Round::default());
    }
    let at_bootstraps = join_all(bootstraps.iter().map(|peer| store_all(dht, *peer, &records)));
    let (stored, at_bootstraps) = futures::join!(dht.store_many(&records), at_bootstraps);
    let mut kept: Vec<bool> = stored.iter().map(|stored| stored.kept > 0).collect();
    let mut round = Round { records: records.len(), bootstraps: bootstraps.len(), ..Round::default() };
    for results in at_bootstraps {
        round.bootstraps_keeping += usize::from(!results.is_empty() && results.iter().all(|kept| *kept));
        kept.iter_mut().zip(results).for_each(|(kept, here)| *kept |= here);
    }
    round.kept = kept.into_iter().filter(|kept| *kept).count();
    Ok(round)
}

/// What a bootstrap peer keeps. A record that is there already, because it is one of the nearest as well, is
/// stored by the same round and counts as kept.
async fn store_all(dht: &Dht, peer: PeerId, records: &[Record]) -> Vec<bool> {
    let again: Vec<Record> = records
        .iter()
        .map(|record| Record { expiration: record.expiration + TIE_BREAK.as_secs_f64(), ..record.clone() })
        .collect();
    dht.store_at(peer, &again).await.unwrap_or_default()
}

/// Only a strictly later record is kept, so one sent twice to the same node is sent with a later end.
const TIE_BREAK: Duration = Duration::from_millis(1);
