"""Makes Petals 2.2.0.post1 importable on top of Hivemind 1.1.12. Import before `petals`.

Hivemind 1.1.12 no longer offers its submodules' names at the top, where Petals looks for them. Nothing here
changes what goes over the wire.
"""

import os
import sys
import types

os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hivemind
import torch

MOVED = """
    P2P P2PContext P2PHandlerError PeerID PeerInfo deserialize_tensor_stream deserialize_torch_tensor
    serialize_torch_tensor anext enter_asynchronously get_logger nested_compare nested_flatten nested_pack
    MSGPackSerializer BatchTensorDescriptor TensorDescriptor MAX_DHT_TIME_DISCREPANCY_SECONDS TimedStorage
    ValueWithExpiration get_dht_time
""".split()

# Petals imports torch.mps, which Debian's torch lacks; only Apple's devices use it.
if not hasattr(torch, "mps"):
    torch.mps = sys.modules["torch.mps"] = types.ModuleType("torch.mps")

inside = [module for name, module in sorted(sys.modules.items()) if name.startswith("hivemind.")]
for name in MOVED:
    setattr(hivemind, name, next(getattr(module, name) for module in inside if hasattr(module, name)))

# No port mapping: it would send packets out of the loopback interface.
hivemind.P2P.create.__func__.__kwdefaults__["nat_port_map"] = False
