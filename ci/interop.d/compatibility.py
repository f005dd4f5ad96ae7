"""Makes Petals 2.2.0.post1 importable on top of Hivemind 1.1.12. Import before `petals`.

Hivemind 1.1.12 no longer offers its submodules' names at the top, where Petals looks for them. Nothing here
changes what goes over the wire.
"""

import importlib
import os
import sys
import types

os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hivemind
import torch

MOVED = {
    "hivemind.p2p": ["P2P", "P2PContext", "P2PHandlerError", "PeerID", "PeerInfo"],
    "hivemind.compression": [
        "deserialize_tensor_stream",
        "deserialize_torch_tensor",
        "serialize_torch_tensor",
    ],
    "hivemind.utils.asyncio": ["anext", "enter_asynchronously"],
    "hivemind.utils.logging": ["get_logger"],
    "hivemind.utils.nested": ["nested_compare", "nested_flatten", "nested_pack"],
    "hivemind.utils.serializer": ["MSGPackSerializer"],
    "hivemind.utils.tensor_descr": ["BatchTensorDescriptor", "TensorDescriptor"],
    "hivemind.utils.timed_storage": ["MAX_DHT_TIME_DISCREPANCY_SECONDS", "TimedStorage", "get_dht_time"],
}

# Petals imports torch.mps, which Debian's torch lacks; only Apple's devices use it.
if not hasattr(torch, "mps"):
    torch.mps = sys.modules["torch.mps"] = types.ModuleType("torch.mps")

for module, names in MOVED.items():
    for name in names:
        setattr(hivemind, name, getattr(importlib.import_module(module), name))

# No port mapping: it would send packets out of the loopback interface.
hivemind.P2P.create.__func__.__kwdefaults__["nat_port_map"] = False
