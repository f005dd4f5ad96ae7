"""Hivemind's own Go daemon against a bare peer of ours, on loopback: who finds and calls whom.

Run with the interop lab's Python (../shared/interop/README.md): p2pd_peers.py PEER-BINARY. Two daemons know
our peer's address and nothing of each other. Prints a JSON line for each step and ends with status 1 at the
first that fails.
"""

import asyncio
import json
import sys

from hivemind.p2p import P2P, PeerID

METHOD = "Echo.rpc_echo"


class Ours:
    """A bare peer (node/fabric/examples/peer.rs)."""

    @classmethod
    async def start(cls, binary):
        ours = cls()
        ours.process = await asyncio.create_subprocess_exec(
            binary, "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        started = json.loads(await ours.process.stdout.readline())
        ours.peer = started["peer"]
        ours.address = f"{started['listen'][0]}/p2p/{ours.peer}"
        return ours

    async def ask(self, command):
        self.process.stdin.write(command.encode() + b"\n")
        return json.loads(await self.process.stdout.readline())

    async def stop(self):
        self.process.kill()
        await self.process.wait()


def step(name, holds, **facts):
    print(json.dumps({"step": name, "holds": bool(holds), **facts}), flush=True)
    if not holds:
        sys.exit(1)


async def echo(data, remote):
    return data


async def theirs(address):
    daemon = await P2P.create(initial_peers=[address], nat_port_map=False)
    await daemon._client.add_unary_handler(METHOD, echo)
    return daemon


async def main():
    ours = await Ours.start(sys.argv[1])
    a = await theirs(ours.address)
    b = await theirs(ours.address)
    try:
        connected = {peer.peer_id.to_base58() for peer in await a.list_peers()}
        step("the daemon is connected to us", ours.peer in connected)
        us = PeerID.from_base58(ours.peer)
        answer = await a._client.call_unary_handler(us, METHOD, b"to us")
        step("a daemon calls us", answer == b"to us")
        for daemon in (a, b):
            answer = await ours.ask(f"call {daemon.peer_id.to_base58()} to-them")
            step("we call a daemon", answer.get("ok", {}).get("answer") == "to-them", answer=answer)
        answer = await asyncio.wait_for(a._client.call_unary_handler(b.peer_id, METHOD, b"to b"), 20)
        step("a daemon finds the other by its id alone, through us", answer == b"to b")
        try:
            await asyncio.wait_for(a._client.call_unary_handler(us, "Nope.rpc_nothing", b""), 20)
            step("an unknown method is refused", False)
        except Exception as error:
            step("an unknown method is refused", "not supported" in str(error), error=str(error))
        peers = (await ours.ask("peers"))["ok"]
        step("we know both", len(peers) == 2, peers=peers)
    finally:
        await a.shutdown()
        await b.shutdown()
        await ours.stop()


asyncio.run(main())
