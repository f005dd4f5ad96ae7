"""Networks of nodes in namespaces of their own, for the situations beside this file.

Needs Linux, root, `ip` and, for NATs, `iptables`. Everything is made under one prefix and taken down again,
also after a failure; nothing of the machine's own network is touched.
"""

import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command):
    """Runs a command and fails with its words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Node:
    """A bare peer (node/fabric/examples/peer.rs) in a namespace: commands in, JSON lines out."""

    def __init__(self, binary, namespace, *options):
        command = ["ip", "netns", "exec", namespace, binary, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.started = self._next(60)
        except Exception:
            self.stop()
            raise
        self.peer = self.started["peer"]

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _next(self, seconds):
        line = self.lines.get(timeout=seconds)
        if line is None:
            raise RuntimeError(f"a peer ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, command, seconds=60):
        """The answer to a command, or an error as its sentence."""
        self.process.stdin.write(command + "\n")
        answer = self._next(seconds)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        return answer["ok"]

    def address(self):
        """An address of the peer that is not of its own machine alone, with its id."""
        outside = [address for address in self.started["listen"] if "/127." not in address]
        return f"{[a for a in outside if a.startswith('/ip4')][0]}/p2p/{self.peer}"

    def memory_kib(self):
        """Resident memory in KiB."""
        for line in open(f"/proc/{self.process_id()}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("the system does not tell the memory of a process")

    def process_id(self):
        """`ip netns exec` becomes the peer: the same process."""
        return self.process.pid

    def stop(self):
        self.process.kill()
        self.process.wait()


class Network:
    """Namespaces, bridges and cables; a context that takes all of it down."""

    def __init__(self):
        self.prefix = f"kw{os.getpid() % 10000}"
        self.count = 0
        self.namespaces = []
        self.nodes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.stop()
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)

    def namespace(self, name):
        """A new namespace with its loopback up."""
        namespace = f"{self.prefix}-{name}"
        run("ip", "netns", "add", namespace)
        self.namespaces.append(namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        return namespace

    def switch(self, name):
        """A namespace that holds nothing but a bridge."""
        namespace = self.namespace(name)
        run("ip", "-n", namespace, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", namespace, "link", "set", "bridge", "up")
        return namespace

    def plug(self, namespace, switch, address, interface="eth0"):
        """A cable from a namespace to a switch; the namespace's end gets an address."""
        self.count += 1
        port = f"port{self.count}"
        run("ip", "-n", namespace, "link", "add", interface, "type", "veth", "peer", "name", port,
            "netns", switch)
        run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
        run("ip", "-n", namespace, "addr", "add", address, "dev", interface)
        run("ip", "-n", namespace, "link", "set", interface, "up")

    def route(self, namespace, gateway):
        run("ip", "-n", namespace, "route", "add", "default", "via", gateway)

    def nat(self, namespace, inside, outside):
        """Makes a namespace with two interfaces a home router: one address for all, no way in, and silence
        for whoever knocks. Linux keeps a port where it can, and lets one inner port have one outer port for
        everybody, so it behaves like a cone NAT with a filter."""
        run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        rules = [
            ["-t", "nat", "-A", "POSTROUTING", "-o", outside, "-j", "MASQUERADE"],
            ["-A", "FORWARD", "-i", inside, "-o", outside, "-j", "ACCEPT"],
            ["-A", "FORWARD", "-i", outside, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED",
             "-j", "ACCEPT"],
            ["-A", "FORWARD", "-j", "DROP"],
            ["-A", "INPUT", "-i", outside, "-j", "DROP"],
        ]
        for rule in rules:
            run("ip", "netns", "exec", namespace, "iptables", *rule)

    def node(self, binary, namespace, *options):
        node = Node(binary, namespace, *options)
        self.nodes.append(node)
        return node


def binary():
    """The bare peer: given as the first argument, or built."""
    if len(sys.argv) > 1:
        return sys.argv[1]
    run("cargo", "build", "--manifest-path", str(ROOT / "Cargo.toml"), "-p", "kwaainet-fabric",
        "--release", "--config", "profile.release.lto=false", "--example", "peer")
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    return f"{target}/release/examples/peer"


def until(what, seconds, holds):
    """Waits until `holds()` gives something true and gives that; fails with what was waited for."""
    start = time.monotonic()
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() - start > seconds:
            raise RuntimeError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.05)


def show(**facts):
    print(json.dumps(facts), flush=True)
