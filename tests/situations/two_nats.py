#!/usr/bin/env python3
"""Two LANs behind NATs and a relay outside: they meet through the relay, then directly.

Run as root: tests/situations/two_nats.py [PEER-BINARY]. The addresses outside look like public ones, since
nodes treat private ones as their own LAN; they exist in the namespaces alone.
"""

import time

import network

SECONDS_MAX = 120


def main():
    binary = network.binary()
    with network.Network() as net:
        internet = net.switch("net")
        relay_space = net.namespace("relay")
        net.plug(relay_space, internet, "45.0.0.1/8")
        homes = []
        for index, name in [(1, "a"), (2, "b")]:
            lan = net.switch(f"lan-{name}")
            router = net.namespace(f"nat-{name}")
            net.plug(router, lan, f"192.168.{index}.1/24", "inside")
            net.plug(router, internet, f"45.{index}.0.1/8", "outside")
            net.nat(router, "inside", "outside")
            home = net.namespace(f"home-{name}")
            net.plug(home, lan, f"192.168.{index}.2/24")
            net.route(home, f"192.168.{index}.1")
            homes.append(home)
        relay = net.node(binary, relay_space, "--relay", "--no-mdns")
        a, b = [net.node(binary, home, "--bootstrap", relay.address()) for home in homes]
        start = time.monotonic()
        for name, node in [("a", a), ("b", b)]:
            network.until(f"{name} has a relayed address", SECONDS_MAX, lambda: node.ask("status")["relayed"])
        network.show(situation="two_nats", seconds_to_relayed_addresses=round(time.monotonic() - start, 2),
                     a=a.ask("status"), b=b.ask("status"))
        start = time.monotonic()

        def called():
            # The relay learns of the address in the same moments as we do.
            try:
                return b.ask(f"call {a.peer} hello")
            except RuntimeError:
                return None

        first = network.until("a call reaches the other home", SECONDS_MAX, called)
        network.show(first_call=first, seconds=round(time.monotonic() - start, 2))

        def direct():
            return [peer for peer in b.ask("peers") if peer["peer"] == a.peer and not peer["relayed"]
                    and peer["connections"]]

        found = network.until("the two have a direct connection", SECONDS_MAX, direct)
        network.show(direct_after_seconds=round(time.monotonic() - start, 2), peer=found[0],
                     call=b.ask(f"call {a.peer} again"))
        relay.stop()
        network.show(without_the_relay=b.ask(f"call {a.peer} once-more"))


if __name__ == "__main__":
    main()
