#!/usr/bin/env python3
"""Writes the seeds that fuzzing begins with: cargo +nightly fuzz run gguf fuzz/corpus/gguf fuzz/seeds/gguf

Run it in this folder. A GGUF seed is a whole model of one narrow block, one for each architecture; a
SafeTensors seed is the beginning of a real header, a config a real one, both from ../shared/models; messages
of the DHT and msgpack are a real Hivemind's, from ../shared/interop/wire. Needs nothing but Python.
"""
import glob
import json
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SHARED = os.environ.get("KWAAINET_SHARED", os.path.join(HERE, "../../shared"))
MODELS = os.path.join(SHARED, "models")
WIRE = os.path.join(SHARED, "interop/wire")
WIDTH = 32  # hidden, feed-forward, head: one width for all keeps a seed at five kilobytes


def text(string):
    return struct.pack("<Q", len(string)) + string.encode()


def gguf_seed(architecture, extra):
    """A whole model of one block and four pieces, all of it ones: it opens."""
    u32 = lambda value: struct.pack("<II", 4, value)
    f32 = lambda value: struct.pack("<If", 6, value)
    pieces = ["<s>", "</s>", "a", "<|im_end|>"]
    keys = {
        "general.architecture": struct.pack("<I", 8) + text(architecture),
        "general.alignment": u32(32),
        f"{architecture}.context_length": u32(64),
        f"{architecture}.embedding_length": u32(WIDTH),
        f"{architecture}.block_count": u32(1),
        f"{architecture}.feed_forward_length": u32(WIDTH),
        f"{architecture}.attention.head_count": u32(2),
        f"{architecture}.attention.head_count_kv": struct.pack("<IIQI", 9, 4, 1, 1),
        f"{architecture}.attention.key_length": u32(WIDTH),
        f"{architecture}.attention.sliding_window": u32(8),
        f"{architecture}.attention.layer_norm_rms_epsilon": f32(1e-5),
        f"{architecture}.rope.freq_base": f32(1e4),
        "tokenizer.ggml.model": struct.pack("<I", 8) + text("gpt2"),
        "tokenizer.ggml.tokens": struct.pack("<IIQ", 9, 8, len(pieces)) + b"".join(map(text, pieces)),
        "tokenizer.ggml.token_type": struct.pack("<IIQ4i", 9, 5, 4, 3, 3, 1, 3),
        "tokenizer.ggml.scores": struct.pack("<IIQ4f", 9, 6, 4, 0, 0, -1, 0),
        "tokenizer.ggml.eos_token_id": u32(1),
        "tokenizer.ggml.add_bos_token": struct.pack("<IB", 7, 1),
        "tokenizer.chat_template": struct.pack("<I", 8) + text("{{ messages }}"),
    }
    keys |= {f"{architecture}.{key}": value for key, value in extra.get("keys", {}).items()}
    f32_type, q4_0, q8_0 = (0, 1, 4), (2, 32, 18), (8, 32, 34)
    block = {
        "attn_norm.weight": (f32_type, WIDTH),
        "attn_q.weight": (q4_0, WIDTH, 2 * WIDTH),
        "attn_k.weight": (q4_0, WIDTH, WIDTH),
        "attn_v.weight": (q8_0, WIDTH, WIDTH),
        "attn_output.weight": (q4_0, 2 * WIDTH, WIDTH),
        "ffn_norm.weight": (f32_type, WIDTH),
        "ffn_gate.weight": (q4_0, WIDTH, WIDTH),
        "ffn_up.weight": (q4_0, WIDTH, WIDTH),
        "ffn_down.weight": (q4_0, WIDTH, WIDTH),
    }
    for name, shape in extra.get("block", {}).items():
        if shape is None:
            del block[name]
        else:
            block[name] = (f32_type if len(shape) == 1 else q4_0, *shape)
    tensors = {"token_embd.weight": (q4_0, WIDTH, len(pieces)), "output_norm.weight": (f32_type, WIDTH)}
    tensors |= {name: (f32_type, *shape) for name, shape in extra.get("outside", {}).items()}
    tensors |= {f"blk.0.{name}": shape for name, shape in block.items()}

    table, data = b"", 0
    for name, ((kind, columns, size), *shape) in tensors.items():
        table += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        table += struct.pack("<IQ", kind, data)
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        data = (data + count // columns * size + 31) // 32 * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(text(key) + value for key, value in keys.items()) + table
    return head + bytes(-len(head) % 32) + struct.pack("<f", 1) * (data // 4)


HEAD_NORMS = {"attn_q_norm.weight": [WIDTH], "attn_k_norm.weight": [WIDTH]}
GGUFS = {
    "llama": {"outside": {"rope_freqs.weight": [WIDTH // 2]}},
    "qwen2": {
        "keys": {
            "rope.scaling.type": struct.pack("<I", 8) + text("yarn"),
            "rope.scaling.factor": struct.pack("<If", 6, 4.0),
        },
        "block": {"attn_q.bias": [2 * WIDTH], "attn_k.bias": [WIDTH], "attn_v.bias": [WIDTH]},
    },
    "qwen3": {"block": HEAD_NORMS},
    "gemma3": {
        "block": HEAD_NORMS | {"post_attention_norm.weight": [WIDTH], "post_ffw_norm.weight": [WIDTH]},
    },
    "phi3": {
        "block": {
            "attn_q.weight": None, "attn_k.weight": None, "attn_v.weight": None, "ffn_gate.weight": None,
            "attn_qkv.weight": [WIDTH, 4 * WIDTH], "ffn_up.weight": [WIDTH, 2 * WIDTH],
        },
    },
}


def safetensors_seed(path, keep=6):
    raw = open(path, "rb").read()
    length = struct.unpack_from("<Q", raw)[0]
    head = {k: v for k, v in json.loads(raw[8:8 + length]).items() if k != "__metadata__"}
    small, end = {"__metadata__": {"format": "pt"}}, 0
    for name in list(head)[:keep]:
        entry = head[name]
        entry["shape"] = [min(d, 2) for d in entry["shape"]]
        size = {"F32": 4, "F16": 2, "BF16": 2}[entry["dtype"]]
        for d in entry["shape"]:
            size *= d
        entry["data_offsets"] = [end, end + size]
        end += size
        small[name] = entry
    text = json.dumps(small, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def write(folder, name, data):
    os.makedirs(os.path.join("seeds", folder), exist_ok=True)
    open(os.path.join("seeds", folder, name), "wb").write(data)
    print(folder, name, len(data))


def wire_seeds():
    """One message of each kind, and all of the reference's msgpack."""
    for path in ["client", "peer", "server-0-2"]:
        for line in open(f"{WIRE}/{path}.jsonl"):
            call = json.loads(line)
            folder = os.path.join("seeds/dht_messages", call["type"])
            if call["call"].startswith("DHTProtocol") and not os.path.exists(folder):
                write("dht_messages", call["type"], bytes.fromhex(call["hex"]))
    vectors = [json.loads(line) for line in open(f"{WIRE}/vectors.jsonl")]
    for number, vector in enumerate(vector for vector in vectors if vector["kind"] == "msgpack"):
        write("msgpack", f"{number:02}", bytes.fromhex(vector["hex"]))


def main():
    if not os.path.isdir(MODELS):
        sys.exit(f"{MODELS} is missing")
    wire_seeds()
    for architecture, extra in GGUFS.items():
        write("gguf", architecture, gguf_seed(architecture, extra))
    for family in ["llama32", "qwen2", "phi3"]:
        write("safetensors", family, safetensors_seed(f"{MODELS}/tiny/{family}/model.safetensors"))
    for path in sorted(glob.glob(f"{MODELS}/tiny/*/config.json")):
        write("config", os.path.basename(os.path.dirname(path)), open(path, "rb").read())


main()
