"""Peers as child processes that are driven by JSON lines: ours and Hivemind's alike."""

import json
import os
import selectors
import signal
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Importing torch and starting a daemon takes six seconds on an idle machine.
SECONDS_MAX = 180


class Refused(Exception):
    """A peer did not do what it should; says which and what."""


class Process:
    """One child process; it ends with its standard input, and at the latest when it is closed."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def answer(self):
        """The next line that is JSON; other lines are libraries' chatter."""
        end = time.monotonic() + SECONDS_MAX
        while True:
            if not self.selector.select(max(0, end - time.monotonic())):
                raise Refused(f"{self.name} did not answer within {SECONDS_MAX} s")
            line = self.process.stdout.readline()
            if not line:
                raise Refused(f"{self.name} ended with code {self.process.wait()}")
            if line.startswith("{"):
                answer = json.loads(line)
                if "error" in answer:
                    raise Refused(f"{self.name}: {answer['error']}")
                return answer

    def do(self, name, **fields):
        """Gives a command and returns its answer."""
        self.process.stdin.write(json.dumps({"do": name, **fields}) + "\n")
        return self.answer()

    def close(self):
        """Ends the process, and what it started."""
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Ours(Process):
    """One of our nodes."""

    def __init__(self, binary, name="ours", initial=(), client=False):
        options = ["--client"] if client else []
        initial = ["--initial-peers", *initial] if initial else []
        super().__init__(name, [binary, *options, *initial])
        self.ready = self.answer()


class Hivemind(Process):
    """A swarm of real Hivemind peers."""

    def __init__(self, python, name="hivemind", count=1, initial=(), petals=False):
        options = ["--petals"] if petals else []
        initial = ["--initial-peers", *initial] if initial else []
        script = os.path.join(HERE, "hivemind_swarm.py")
        command = [python, script, "--count", str(count), *options, *initial]
        super().__init__(name, command, {"PYTHONUNBUFFERED": "1"})
        self.ready = [self.answer() for _ in range(count)]


def binary(root, profile):
    """The path of our example, built."""
    build = ["cargo", "build", "--quiet", "--package", "kwaainet-fabric", "--example", "dht_peer"]
    options = {
        "dev": [],
        # A whole-program release build of the network takes minutes, and speed hardly gains from it.
        "release": ["--release", "--config", "profile.release.lto=false"]
        + ["--config", "profile.release.codegen-units=16"],
    }[profile]
    subprocess.run([*build, *options], cwd=root, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    return os.path.join(target, "debug" if profile == "dev" else "release", "examples/dht_peer")


def python():
    """The Python that has Hivemind and Petals; installs them where they are missing."""
    lab = subprocess.run([os.path.join(HERE, "lab")], stdout=subprocess.PIPE, text=True, check=False)
    if lab.returncode == 75:
        raise SystemExit(0)
    if lab.returncode != 0:
        raise SystemExit("ci/interop: the lab could not be installed")
    return lab.stdout.strip()
