//! The packets of LAN discovery (libp2p's specification of mDNS).
//!
//! Writing and reading without a socket, so that hostile packets are tested as they are.

use libp2p::{Multiaddr, PeerId};
use simple_dns::rdata::{PTR, RData, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, TYPE};

use super::Seen;
use crate::limits::{
    ADDRESS_BYTES_MAX, LAN_ADDRESSES_PER_PACKET_MAX, LAN_PACKET_BYTES_MAX, LAN_TIME_TO_LIVE,
};
use crate::settings::peer_of;

/// One text of a TXT record, in bytes: its length is one byte.
const TEXT_BYTES_MAX: usize = 255;
const KEY: &[u8] = b"dnsaddr";

/// What a packet says to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Somebody looks for peers.
    Question,
    /// Peers and their addresses, everything about one peer together.
    Peers(Vec<Seen>),
    /// Nothing that concerns the service.
    Nothing,
}

/// The question for everyone who offers `service`.
pub(super) fn query(service: &str) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(0);
    let name = Name::new(service).ok()?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::PTR), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().ok()
}

/// The answer of the peer `own`, or nothing when it has no address to tell.
pub(super) fn answer(
    service: &str,
    own: PeerId,
    addresses: impl Iterator<Item = Multiaddr>,
) -> Option<Vec<u8>> {
    let texts = addresses.filter_map(|address| address.with_p2p(own).ok());
    let texts = texts.map(|address| format!("dnsaddr={address}"));
    let texts: Vec<String> =
        texts.filter(|text| text.len() <= TEXT_BYTES_MAX).take(LAN_ADDRESSES_PER_PACKET_MAX).collect();
    if texts.is_empty() {
        return None;
    }
    let name = format!("{}.{service}", instance(own));
    let seconds = LAN_TIME_TO_LIVE.as_secs() as u32;
    let (service, name) = (Name::new(service).ok()?, Name::new(&name).ok()?);
    let mut packet = Packet::new_reply(0);
    packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    let pointer = RData::PTR(PTR(name.clone()));
    packet.answers.push(ResourceRecord::new(service, CLASS::IN, seconds, pointer));
    for text in &texts {
        let record = RData::TXT(TXT::new().with_string(text).ok()?);
        packet.additional_records.push(ResourceRecord::new(name.clone(), CLASS::IN, seconds, record));
    }
    packet.build_bytes_vec_compressed().ok()
}

/// The name under which a peer's records stand: any that no other peer has. It says nothing of the peer,
/// whose id stands in each address.
fn instance(own: PeerId) -> String {
    // Lower-case hexadecimal, since names do not tell capitals apart; the id's last bytes are its key's.
    let bytes = own.to_bytes();
    let last = &bytes[bytes.len().saturating_sub(20)..];
    last.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `packet` says about `service`.
pub(super) fn heard(packet: &[u8], service: &str) -> Heard {
    if packet.len() > LAN_PACKET_BYTES_MAX {
        return Heard::Nothing;
    }
    let (Ok(packet), Ok(service)) = (Packet::parse(packet), Name::new(service)) else {
        return Heard::Nothing;
    };
    if !packet.has_flags(PacketFlag::RESPONSE) {
        let asked = packet.questions.iter().any(|question| {
            let of_kind = matches!(question.qtype, QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY);
            of_kind && is_same(&question.qname, &service)
        });
        return if asked { Heard::Question } else { Heard::Nothing };
    }
    let pointers = packet.answers.iter().filter(|record| is_same(&record.name, &service));
    let names: Vec<&Name> = pointers
        .filter_map(|record| match &record.rdata {
            RData::PTR(PTR(name)) => Some(name),
            _ => None,
        })
        .take(LAN_ADDRESSES_PER_PACKET_MAX)
        .collect();
    let records = packet.additional_records.iter().chain(&packet.answers);
    let texts = records.filter(|record| names.iter().any(|name| is_same(name, &record.name)));
    let addresses = texts.flat_map(|record| match &record.rdata {
        RData::TXT(text) => text.iter_raw().filter_map(address_in).collect(),
        _ => Vec::new(),
    });
    let mut peers: Vec<Seen> = Vec::new();
    for (peer, address) in addresses.take(LAN_ADDRESSES_PER_PACKET_MAX) {
        match peers.iter_mut().find(|seen| seen.peer == peer) {
            Some(seen) => seen.addresses.push(address),
            None => peers.push(Seen { peer, addresses: vec![address] }),
        }
    }
    if peers.is_empty() { Heard::Nothing } else { Heard::Peers(peers) }
}

/// Names of DNS do not tell capitals apart.
fn is_same(a: &Name, b: &Name) -> bool {
    a == b || a.to_string().eq_ignore_ascii_case(&b.to_string())
}

fn address_in((key, value): (&[u8], Option<&[u8]>)) -> Option<(PeerId, Multiaddr)> {
    let value = value.filter(|value| key == KEY && value.len() <= ADDRESS_BYTES_MAX)?;
    let address: Multiaddr = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some((peer_of(&address)?, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "_p2p._udp.local";

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/192.168.1.2/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_question_is_heard_for_its_own_service_alone() {
        let packet = query(SERVICE).unwrap();
        assert_eq!(heard(&packet, SERVICE), Heard::Question);
        assert_eq!(heard(&packet, "_p2p-other._udp.local"), Heard::Nothing);
    }

    #[test]
    fn an_answer_is_heard_with_all_its_addresses() {
        let own = PeerId::random();
        let addresses = [address(1), address(2)];
        let packet = answer(SERVICE, own, addresses.iter().cloned()).unwrap();
        let with_peer = addresses.map(|address| address.with_p2p(own).unwrap()).to_vec();
        assert_eq!(heard(&packet, SERVICE), Heard::Peers(vec![Seen { peer: own, addresses: with_peer }]));
        assert_eq!(heard(&packet, "_p2p-other._udp.local"), Heard::Nothing);
    }

    #[test]
    fn a_node_without_an_address_says_nothing() {
        assert_eq!(answer(SERVICE, PeerId::random(), std::iter::empty()), None);
    }

    #[test]
    fn a_packet_gives_so_many_addresses_and_no_more() {
        let own = PeerId::random();
        let name = "x._p2p._udp.local";
        for (count, kept) in [
            (LAN_ADDRESSES_PER_PACKET_MAX, LAN_ADDRESSES_PER_PACKET_MAX),
            (LAN_ADDRESSES_PER_PACKET_MAX + 1, LAN_ADDRESSES_PER_PACKET_MAX),
        ] {
            let texts: Vec<String> =
                (0..count).map(|port| format!("dnsaddr={}", address(port).with_p2p(own).unwrap())).collect();
            let mut packet = Packet::new_reply(0);
            let pointer = RData::PTR(PTR(Name::new(name).unwrap()));
            packet.answers.push(ResourceRecord::new(Name::new(SERVICE).unwrap(), CLASS::IN, 1, pointer));
            for text in &texts {
                let record = RData::TXT(TXT::new().with_string(text).unwrap());
                let record = ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, 1, record);
                packet.additional_records.push(record);
            }
            let Heard::Peers(peers) = heard(&packet.build_bytes_vec().unwrap(), SERVICE) else {
                panic!("{count} addresses were not heard")
            };
            assert_eq!(peers[0].addresses.len(), kept);
        }
    }

    #[test]
    fn garbage_is_nothing() {
        let good = answer(SERVICE, PeerId::random(), [address(1)].into_iter()).unwrap();
        for length in 0..good.len() {
            // Whatever a cut packet still says, it must not break anything.
            let _ = heard(&good[..length], SERVICE);
        }
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 24) as u8;
            }
            let _ = heard(&bytes, SERVICE);
        }
        assert_eq!(heard(&[0; LAN_PACKET_BYTES_MAX + 1], SERVICE), Heard::Nothing);
    }
}
