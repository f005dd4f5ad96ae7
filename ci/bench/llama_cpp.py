"""Fetches and builds what the measuring rods compare with, and makes the models they run.

llama.cpp comes as the source inside a package of the Rust registry, because that is the newest that a package
client gives; it is built once for each kind of machine. Everything lies in $KWAAINET_CI_CACHE/bench.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
# The package whose source is built. Its ggml says 0.26.0; PyPI's llama-cpp-python was at 0.25.3 that day.
PACKAGE, VERSION = "llama-cpp-sys-2", "0.1.161"
# No tools and no examples: the package does not carry them.
LIBRARY_ONLY = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF"] + [
    f"-DLLAMA_BUILD_{part}=OFF" for part in ("COMMON", "TOOLS", "APP", "TESTS", "EXAMPLES", "SERVER")
]


def say(text):
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def run(command, **options):
    """Runs a command whose output is progress."""
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr, **options)


def cache():
    """The folder of the rods."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(os.environ.get("KWAAINET_CI_CACHE") or pathlib.Path(home) / "kwaainet-ci") / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shared():
    """The reference material beside the repository."""
    return pathlib.Path(os.environ.get("KWAAINET_SHARED") or ROOT.parent / "shared")


def tools():
    """The bin folder of a Python environment with numpy, gguf, cmake and ninja."""
    folder = cache() / "venv"
    if not (folder / ".done").exists():
        say("installing numpy, gguf, cmake and ninja")
        run([sys.executable, "-m", "venv", folder])
        run([folder / "bin" / "pip", "install", "-q", "numpy", "gguf", "cmake", "ninja"])
        (folder / ".done").touch()
    return folder / "bin"


def source():
    """The folder of llama.cpp's source, fetched by cargo."""
    stub = cache() / "source"
    (stub / "src").mkdir(parents=True, exist_ok=True)
    (stub / "src" / "lib.rs").touch()
    (stub / "Cargo.toml").write_text(
        '[package]\nname = "source"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
        f'[dependencies]\n{PACKAGE} = "={VERSION}"\n'
    )
    command = ["cargo", "metadata", "--format-version", "1", "--manifest-path", str(stub / "Cargo.toml")]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = [package for package in metadata["packages"] if package["name"] == PACKAGE]
    return pathlib.Path(found[0]["manifest_path"]).parent / "llama.cpp"


def build(kind="native", options=("-DGGML_NATIVE=ON",), targets=("llama",), environment=None):
    """Builds the libraries for one kind of machine, once; returns the build's folder."""
    folder = cache() / f"{PACKAGE}-{VERSION}" / kind
    done = folder / ".done"
    if not done.exists():
        ninja = tools() / "ninja"
        say(f"building {targets[0]} for {kind}, some minutes, in {folder}")
        setting = {**os.environ, **(environment or {})}
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        command = [tools() / "cmake", "-S", source(), "-B", folder, *generator, *LIBRARY_ONLY, *options]
        run(command, env=setting)
        run([ninja, "-C", folder, *targets], env=setting)
        done.touch()
    return folder


def libraries(folder):
    """What a program links, in order, against a build of llama.cpp without its front ends."""
    ggml = folder / "ggml" / "src"
    found = [ggml / "libggml.a", ggml / "libggml-cpu.a", ggml / "libggml-base.a"]
    llama = folder / "src" / "libllama.a"
    return [llama, *found] if llama.exists() else found


def driver():
    """Our driver of llama.cpp, built."""
    folder = build()
    code, program = HERE / "llama_driver.cpp", folder / "llama_driver"
    if not program.exists() or program.stat().st_mtime < code.stat().st_mtime:
        say("building the driver of llama.cpp")
        includes = [f"-I{source() / part}" for part in ("include", "ggml/include")]
        unfinished = program.with_suffix(f".{os.getpid()}")
        command = ["c++", "-std=c++17", "-O2", *includes, code, "-o", unfinished, *libraries(folder)]
        run([*command, "-fopenmp", "-lpthread", "-ldl", "-lm"])
        unfinished.rename(program)
    return program


def model(shape, quant):
    """A model of random weights in a true shape, made once."""
    path = cache() / "models" / f"{shape}-{quant}.gguf"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        maker = shared() / "tools" / "make_bench_model.py"
        run([tools() / "python", maker, "--arch", shape, "--type", quant, "--out", unfinished])
        unfinished.rename(path)
    return path
