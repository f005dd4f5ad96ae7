//! Names in addresses, resolved when they are dialled.
//!
//! `/dns`, `/dns4` and `/dns6` go through the system's own resolver, which honours how the machine is set up.
//! `/dnsaddr` needs a TXT record, which that resolver can't ask for: one question over UDP to the name server
//! that the system uses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use libp2p::Multiaddr;
use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use smol::future::FutureExt;
use smol::net::UdpSocket;

use crate::limits::{NAME_ADDRESSES_MAX, NAME_ANSWER_BYTES_MAX, NAME_TIME_MAX};

/// Which addresses of a name are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

/// The addresses of a host's name.
pub(super) async fn resolve(name: &str, port: u16, family: Family) -> io::Result<Vec<SocketAddr>> {
    let found = within(NAME_TIME_MAX, smol::net::resolve((name, port))).await?;
    let wanted = found.into_iter().filter(|address| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    });
    Ok(wanted.take(NAME_ADDRESSES_MAX).collect())
}

/// The addresses that `_dnsaddr.NAME` lists in its TXT records.
pub(super) async fn resolve_dnsaddr(name: &str) -> io::Result<Vec<Multiaddr>> {
    let settings = smol::fs::read_to_string("/etc/resolv.conf").await.map_err(|error| {
        io::Error::new(error.kind(), format!("/dnsaddr needs the name server of /etc/resolv.conf: {error}"))
    })?;
    let server = name_server(&settings)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "/etc/resolv.conf names no name server"))?;
    let answer = within(NAME_TIME_MAX, ask(server, name)).await?;
    Ok(answer)
}

/// The first name server of a resolv.conf.
fn name_server(settings: &str) -> Option<SocketAddr> {
    let servers = settings.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|server| server.trim().parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, 53)).next()
}

async fn ask(server: SocketAddr, name: &str) -> io::Result<Vec<Multiaddr>> {
    let number = random_number()?;
    let question = question(number, name).map_err(invalid)?;
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that the system drops what others send.
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut buffer = vec![0; NAME_ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(addresses) = addresses_in(&buffer[..length], number, name)? {
            return Ok(addresses);
        }
    }
}

fn random_number() -> io::Result<u16> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u16::from_le_bytes(bytes))
}

fn question(number: u16, name: &str) -> Result<Vec<u8>, simple_dns::SimpleDnsError> {
    let mut packet = Packet::new_query(number);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new_unchecked(name).into_owned();
    let whole = Name::new(&format!("_dnsaddr.{name}"))?.into_owned();
    packet.questions.push(Question::new(whole, QTYPE::TYPE(TYPE::TXT), QCLASS::CLASS(CLASS::IN), false));
    let size = NAME_ANSWER_BYTES_MAX as u16;
    *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: size, version: 0 });
    packet.build_bytes_vec()
}

/// The addresses of an answer; none when the packet answers another question.
fn addresses_in(packet: &[u8], number: u16, name: &str) -> io::Result<Option<Vec<Multiaddr>>> {
    let packet = Packet::parse(packet).map_err(invalid)?;
    let asked = packet.questions.first().map(|question| question.qname.to_string());
    let own = asked.is_some_and(|asked| asked.eq_ignore_ascii_case(&format!("_dnsaddr.{name}")));
    if packet.id() != number || !packet.has_flags(PacketFlag::RESPONSE) || !own {
        return Ok(None);
    }
    if packet.rcode() != RCODE::NoError {
        let what = format!("the name server knows no _dnsaddr.{name} ({:?})", packet.rcode());
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    let mut addresses = Vec::new();
    for record in &packet.answers {
        let RData::TXT(text) = &record.rdata else { continue };
        let Ok(text) = String::try_from(text.clone()) else { continue };
        let address = text.strip_prefix("dnsaddr=").and_then(|address| address.parse::<Multiaddr>().ok());
        addresses.extend(address);
        if addresses.len() >= NAME_ADDRESSES_MAX {
            break;
        }
    }
    Ok(Some(addresses))
}

fn invalid(error: simple_dns::SimpleDnsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a packet of DNS: {error}"))
}

/// `work`, or an error when it takes longer than `time`.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = async {
        smol::Timer::after(time).await;
        Err(io::Error::from(io::ErrorKind::TimedOut))
    };
    work.or(late).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::TXT;

    fn answer(number: u16, name: &str, texts: &[&str]) -> Vec<u8> {
        let asked = question(number, name).unwrap();
        let mut packet = Packet::new_reply(number);
        packet.questions = Packet::parse(&asked).unwrap().questions;
        for text in texts {
            let rdata = RData::TXT(TXT::new().with_string(text).unwrap());
            let name = Name::new("_dnsaddr.example.org").unwrap();
            packet.answers.push(ResourceRecord::new(name, CLASS::IN, 60, rdata));
        }
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn a_txt_answer_gives_its_addresses_and_nothing_else() {
        let texts = ["dnsaddr=/ip4/1.2.3.4/tcp/5", "v=spf1", "dnsaddr=/nonsense"];
        let found = addresses_in(&answer(7, "example.org", &texts), 7, "example.org").unwrap();
        assert_eq!(found, Some(vec!["/ip4/1.2.3.4/tcp/5".parse().unwrap()]));
    }

    #[test]
    fn an_answer_to_another_question_is_waited_past() {
        let packet = answer(7, "example.org", &["dnsaddr=/ip4/1.2.3.4/tcp/5"]);
        assert_eq!(addresses_in(&packet, 8, "example.org").unwrap(), None);
        assert_eq!(addresses_in(&packet, 7, "example.com").unwrap(), None);
    }

    #[test]
    fn an_answer_with_too_many_addresses_is_cut() {
        let texts: Vec<String> =
            (0..NAME_ADDRESSES_MAX + 1).map(|index| format!("dnsaddr=/ip4/1.2.3.4/tcp/{index}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let found = addresses_in(&answer(7, "example.org", &texts), 7, "example.org").unwrap();
        assert_eq!(found.map(|found| found.len()), Some(NAME_ADDRESSES_MAX));
        let found = addresses_in(&answer(7, "example.org", &texts[1..]), 7, "example.org").unwrap();
        assert_eq!(found.map(|found| found.len()), Some(NAME_ADDRESSES_MAX));
    }

    #[test]
    fn the_name_server_is_the_first_that_is_an_address() {
        let settings = "# nameserver 9.9.9.9\nsearch lan\nnameserver  192.168.1.1\nnameserver 1.1.1.1\n";
        assert_eq!(name_server(settings), Some("192.168.1.1:53".parse().unwrap()));
        assert_eq!(name_server("search lan\n"), None);
    }
}
