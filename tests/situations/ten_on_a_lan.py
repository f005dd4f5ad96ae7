#!/usr/bin/env python3
"""Ten nodes on one LAN, without any configuration: each finds the nine others.

Run as root: tests/situations/ten_on_a_lan.py [PEER-BINARY]. Prints the seconds that it took, the resident
memory and the processor time of each idle node.
"""

import os
import time

import network

COUNT = 10
SECONDS_MAX = 60
IDLE_SECONDS = 30


def processor_seconds(node):
    """User and system time of a process so far."""
    fields = open(f"/proc/{node.process_id()}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    binary = network.binary()
    with network.Network() as net:
        switch = net.switch("switch")
        namespaces = [net.namespace(f"node{index}") for index in range(COUNT)]
        for index, namespace in enumerate(namespaces):
            net.plug(namespace, switch, f"10.77.0.{index + 1}/24")
            net.route(namespace, "10.77.0.254")
        start = time.monotonic()
        nodes = [net.node(binary, namespace) for namespace in namespaces]
        started = time.monotonic()

        def all_useful(node):
            peers = node.ask("peers")
            return sum(peer["state"] == "useful" for peer in peers) >= COUNT - 1

        for node in nodes:
            network.until("each node knows the nine others", SECONDS_MAX, lambda: all_useful(node))
        found = time.monotonic()
        network.show(situation="ten_on_a_lan", seconds_from_first_start=round(found - start, 2),
                     seconds_from_last_start=round(found - started, 2),
                     ready_milliseconds=[round(node.started["ready_milliseconds"]) for node in nodes])
        connections = [node.ask("status")["connections"] for node in nodes]
        time.sleep(5)
        before = [processor_seconds(node) for node in nodes]
        time.sleep(IDLE_SECONDS)
        used = [processor_seconds(node) - was for node, was in zip(nodes, before)]
        network.show(connections=connections, memory_kib=[node.memory_kib() for node in nodes],
                     processor_percent=round(100 * sum(used) / COUNT / IDLE_SECONDS, 3))


if __name__ == "__main__":
    main()
