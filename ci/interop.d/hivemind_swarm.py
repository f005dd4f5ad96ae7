"""A swarm of real Hivemind DHT peers on loopback, driven by JSON lines, as examples/dht_peer.rs is.

usage: hivemind_swarm.py [--count N] [--petals] [--initial-peers MULTIADDR...]

Without initial peers, the first peer is the bootstrap of the others. Prints one line for each peer when it is
ready. A command names its peer by number ("at", 0 unless said); the commands are store, get, nodes and
rate of dht_peer.rs, and with --petals also:

  {"do": "lookup", "prefix": PREFIX, "blocks": N}     what a Petals client finds of a model
  {"do": "info", "peer": PEER, "uid": UID}             what rpc_info answers
  {"do": "check", "peer": PEER}                        what rpc_check of a peer says about itself
"""

import argparse
import dataclasses
import json
import math
import signal
import sys
import time

import compatibility  # noqa: F401  (before hivemind's users)
from hivemind import MSGPackSerializer, TimedStorage, ValueWithExpiration, get_dht_time
from hivemind.dht import DHT
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2, runtime_pb2


def say(**fields):
    print(json.dumps(fields), flush=True)


def read(value):
    """A value from JSON; {"$bytes": "00ff"} is a byte string."""
    return bytes.fromhex(value["$bytes"]) if isinstance(value, dict) and set(value) == {"$bytes"} else value


def show(value):
    """A value as JSON, with byte strings, tuples, lists and maps told apart."""
    if isinstance(value, ValueWithExpiration):
        return {"value": show(value.value), "expires_in": value.expiration_time - get_dht_time()}
    if isinstance(value, TimedStorage):
        return {"dict": [[show(key), show(item)] for key, item in value.items()]}
    if dataclasses.is_dataclass(value):
        return show(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {"dict": [[show(key), show(item)] for key, item in value.items()]}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [show(item) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, (str, int, float, type(None))):
        return value
    return str(value)


def on_node(dht, coroutine):
    """Runs a coroutine of (dht, node) where the peer lives."""
    return dht.run_coroutine(coroutine)


class Store:
    """Coroutines go to another process, so they are objects that can be sent there."""

    def __init__(self, items):
        self.items = items

    async def __call__(self, dht, node):
        now = get_dht_time()
        keys, subkeys, values, seconds = zip(*self.items)
        values, ends = [read(value) for value in values], [now + life for life in seconds]
        stored = await node.store_many(list(keys), values, ends, subkeys=list(subkeys))
        return [bool(stored[key if sub is None else (key, sub)]) for key, sub in zip(keys, subkeys)]


class Get:
    def __init__(self, keys, latest):
        self.keys, self.latest = keys, latest

    async def __call__(self, dht, node):
        found = await node.get_many(self.keys, sufficient_expiration_time=math.inf if self.latest else None)
        return [show(found[key]) for key in self.keys]


async def nodes(dht, node):
    table = node.protocol.routing_table
    return {str(peer): DHTID.to_bytes(uid).hex() for uid, peer in table.uid_to_peer_id.items()}


async def node_id(dht, node):
    return node.node_id.to_bytes().hex()


class Rate:
    def __init__(self, method, peer, calls):
        self.method, self.peer, self.calls = method, PeerID.from_base58(peer), calls

    async def __call__(self, dht, node):
        begin = time.monotonic()
        for number in range(self.calls):
            if self.method == "ping":
                kept = await node.protocol.call_ping(self.peer, validate=False)
            else:
                key = DHTID.generate(source=f"rate {number}")
                kept = await node.protocol.call_store(self.peer, [key], [bytes(100)], get_dht_time() + 60)
                kept = kept and all(kept)
            if not kept:
                raise RuntimeError("a call was not answered")
        return {"per_second": self.calls / (time.monotonic() - begin)}


class Info:
    def __init__(self, peer, uid):
        self.peer, self.uid = PeerID.from_base58(peer), uid

    async def __call__(self, dht, node):
        from petals.server.handler import TransformerConnectionHandler

        stub = TransformerConnectionHandler.get_stub(node.protocol.p2p, self.peer)
        answer = await stub.rpc_info(runtime_pb2.ExpertUID(uid=self.uid), timeout=5)
        return show(MSGPackSerializer.loads(answer.serialized_info))


class Check:
    def __init__(self, peer):
        self.peer = PeerID.from_base58(peer)

    async def __call__(self, dht, node):
        from petals.server.reachability import ReachabilityProtocol

        stub = ReachabilityProtocol.get_stub(node.protocol.p2p, self.peer)
        peer = dht_pb2.NodeInfo(node_id=self.peer.to_bytes())
        return (await stub.rpc_check(dht_pb2.PingRequest(peer=peer), timeout=5)).available


def lookup(dht, prefix, blocks):
    """What a Petals client finds: for each block, the servers and every field that they announce."""
    from petals.client.routing.sequence_manager import get_remote_module_infos

    uids = [f"{prefix}.{block}" for block in range(blocks)]
    infos = get_remote_module_infos(dht, uids, latest=True)
    servers = lambda info: [] if info is None else info.servers.items()
    shown = lambda server: {**dataclasses.asdict(server), "state": server.state.name}
    return [{str(peer): show(shown(server)) for peer, server in servers(info)} for info in infos]


def obey(dhts, command):
    dht, name = dhts[command.get("at", 0)], command["do"]
    if name == "store":
        return {"stored": on_node(dht, Store(command["items"]))}
    if name == "get":
        return {"found": on_node(dht, Get(command["keys"], command.get("latest", False)))}
    if name == "nodes":
        return {"nodes": on_node(dht, nodes)}
    if name == "rate":
        return on_node(dht, Rate(command["method"], command["peer"], command["calls"]))
    if name == "lookup":
        return {"blocks": lookup(dht, command["prefix"], command["blocks"])}
    if name == "info":
        return {"info": on_node(dht, Info(command["peer"], command["uid"]))}
    if name == "check":
        return {"available": on_node(dht, Check(command["peer"]))}
    return {"error": f"{name} is no command"}


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--petals", action="store_true")
    parser.add_argument("--initial-peers", nargs="+", default=[], metavar="MULTIADDR")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.petals:
        # Before the peers' processes part from this one.
        import petals.server.handler  # noqa: F401
        import petals.server.reachability  # noqa: F401
        import petals.client.routing.sequence_manager  # noqa: F401
    dhts, initial = [], arguments.initial_peers
    try:
        for _ in range(arguments.count):
            begin = time.monotonic()
            # The check for a free identity starts a second daemon; own copies would hide others' answers.
            dht = DHT(
                initial_peers=initial,
                start=True,
                host_maddrs=["/ip4/127.0.0.1/tcp/0"],
                check_if_identity_free=False,
                cache_locally=False,
            )
            dhts.append(dht)
            addresses = [str(address) for address in dht.get_visible_maddrs()]
            initial = initial or addresses
            say(
                event="ready",
                seconds=time.monotonic() - begin,
                peer_id=str(dht.peer_id),
                node_id=on_node(dht, node_id),
                maddrs=addresses,
            )
        for line in sys.stdin:
            try:
                say(**obey(dhts, json.loads(line)))
            except Exception as error:
                say(error=repr(error))
    except KeyboardInterrupt:
        pass
    finally:
        for dht in dhts:
            dht.shutdown()


if __name__ == "__main__":
    main()
