//! Arrows between the rooms point down only.
//!
//! The rooms and their arrows are those of the architecture: kernels know nobody; engine, trust and vpk do
//! not know the network; only the node knows the command line and the HTTP server. A crate that is not in the
//! table is refused, so that a new room is first given its place here.

mod workspace;

use workspace::Package;

/// A room: its crate, its folder, the rooms it may use, and whether it may use the network.
struct Room {
    name: &'static str,
    folder: &'static str,
    uses: &'static [&'static str],
    network: bool,
}

const ROOMS: &[Room] = &[
    Room { name: "kwaainet-kernels", folder: "kernels", uses: &[], network: false },
    Room { name: "kwaainet-engine", folder: "node/engine", uses: &["kwaainet-kernels"], network: false },
    Room { name: "kwaainet-trust", folder: "node/trust", uses: &[], network: false },
    Room { name: "kwaainet-vpk", folder: "node/vpk", uses: &[], network: false },
    Room { name: "kwaainet-fabric", folder: "node/fabric", uses: &["kwaainet-trust"], network: true },
    Room {
        name: "kwaainet-swarm",
        folder: "node/swarm",
        uses: &["kwaainet-engine", "kwaainet-fabric", "kwaainet-trust"],
        network: true,
    },
    Room { name: "kwaainet", folder: "node", uses: EVERY_ROOM, network: true },
    Room { name: "kwaainet-tests", folder: "tests", uses: EVERY_ROOM, network: true },
];

const EVERY_ROOM: &[&str] = &[
    "kwaainet-kernels",
    "kwaainet-engine",
    "kwaainet-trust",
    "kwaainet-vpk",
    "kwaainet-fabric",
    "kwaainet-swarm",
];

/// Crates that open sockets or run an executor.
const NETWORK: &[&str] = &["smol", "async-io", "async-net", "polling", "libp2p", "socket2"];
/// Crates that only the node uses: command line, HTTP, signals, settings.
const FACE: &[&str] = &["argh", "httparse", "signal-hook", "toml_edit"];

/// What is wrong with these crates, as sentences.
fn refusals(packages: &[Package]) -> Vec<String> {
    let mut refusals = Vec::new();
    for package in packages {
        let name = &package.name;
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            refusals.push(format!("{name} is in no room; give it its arrows in tests/layers.rs"));
            continue;
        };
        if package.folder != room.folder {
            refusals.push(format!("{name} lies in {}, its place is {}", package.folder, room.folder));
        }
        for (dependency, is_ours) in &package.dependencies {
            if *is_ours && !room.uses.contains(&dependency.as_str()) {
                refusals.push(format!("{name} uses {dependency}, and that arrow does not point down"));
            }
            if !room.network && NETWORK.contains(&dependency.as_str()) {
                refusals.push(format!("{name} uses {dependency}, but it must not know the network"));
            }
            if room.folder != "node" && FACE.contains(&dependency.as_str()) {
                refusals.push(format!("{name} uses {dependency}, which belongs to node/ alone"));
            }
        }
    }
    refusals
}

#[test]
fn arrows_between_the_rooms_point_down_only() {
    let packages = workspace::packages();
    assert!(packages.len() >= 3, "cargo metadata tells only {} crates", packages.len());
    let refusals = refusals(&packages);
    assert!(refusals.is_empty(), "\n{}\n", refusals.join("\n"));
}

#[test]
fn wrong_arrows_are_refused() {
    let package = |name: &str, folder: &str, dependency: &str, is_ours: bool| {
        let dependencies = vec![(dependency.to_owned(), is_ours)];
        refusals(&[Package { name: name.to_owned(), folder: folder.to_owned(), dependencies }])
    };
    assert_eq!(package("kwaainet-engine", "node/engine", "kwaainet-kernels", true), [""; 0]);
    let refused = [
        package("kwaainet-kernels", "kernels", "kwaainet-engine", true),
        package("kwaainet-engine", "node/engine", "kwaainet", true),
        package("kwaainet-engine", "node/engine", "smol", false),
        package("kwaainet-trust", "node/trust", "kwaainet-fabric", true),
        package("kwaainet-fabric", "node/fabric", "kwaainet-engine", true),
        package("kwaainet-swarm", "node/swarm", "argh", false),
        package("kwaainet-engine", "engine", "libm", false),
        package("kwaainet-attic", "attic", "libm", false),
    ];
    for (case, refusals) in refused.iter().enumerate() {
        assert_eq!(refusals.len(), 1, "case {case}: {refusals:?}");
    }
}
