"""What each target of the fuzzer starts from: shipped files, heads of tables, small checkpoints, words."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from simkit.evidence import dram

REPOSITORY = Path(__file__).resolve().parents[2]


def files(*patterns: str, most_bytes: int = 6000) -> Callable[[], Iterable[bytes]]:
    def seeds() -> Iterable[bytes]:
        for pattern in patterns:
            for path in sorted(REPOSITORY.glob(pattern)):
                if path.stat().st_size <= most_bytes:
                    yield path.read_bytes()
    return seeds


def heads(pattern: str, lines: int = 8) -> Callable[[], Iterable[bytes]]:
    """The first lines of tables: a whole one would only slow the mutations down."""
    def seeds() -> Iterable[bytes]:
        for path in sorted(REPOSITORY.glob(pattern)):
            packed = path.read_bytes()
            whole = gzip.decompress(packed) if path.suffix == ".gz" else packed
            text = [line for line in whole.decode().splitlines() if not line.startswith("#")]
            for start in range(1, min(len(text), 60), lines):
                yield "\n".join([text[0], *text[start:start + lines]]).encode() + b"\n"
    return seeds


def dram_seeds() -> Iterable[bytes]:
    """One run that is short enough to be replayed, and some of the reference's."""
    head = ",".join(dram.REQUIRED_COLUMNS)
    yield f"{head}\nramulator2,HBM3_6400,chunk_aligned,256,0.9,64,bg128,rowhit,ab,32,1,,1\n".encode()
    yield from heads("simkit/evidence/data/dram_reference.csv", 4)()


def papers() -> Iterable[bytes]:
    """The table of published figures, one paper at a time."""
    table = yaml.safe_load((REPOSITORY / "simkit" / "evidence" / "data" / "published.yaml").read_text(encoding="utf-8"))
    for paper in table["papers"]:
        shown = yaml.safe_dump({**table, "papers": [paper]}).encode()
        if len(shown) <= 6000:
            yield shown


def listed(*texts: str | bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: [text if isinstance(text, bytes) else text.encode() for text in texts]


def prefixed(texts: Iterable[str], prefixes: int) -> Callable[[], Iterable[bytes]]:
    return lambda: [bytes([index]) + text.encode() for text in texts for index in range(prefixes)]


def safetensors_of(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor_seeds() -> Iterable[bytes]:
    yield safetensors_of({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}, bytes(16))
    yield safetensors_of({"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
                           "b": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]}}, bytes(16))
    yield safetensors_of({"a": {"dtype": "F16", "shape": [0, 3], "data_offsets": [0, 0]}}, b"")


def tiny_checkpoint(*, sharded: bool) -> bytes:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_attention_heads": 4,
              "num_key_value_heads": 2, "num_hidden_layers": 1, "rms_norm_eps": 1e-5}
    header: dict[str, Any] = {}
    at = 0
    for part, rows, columns in (("q_proj", 8, 8), ("k_proj", 4, 8), ("v_proj", 4, 8), ("o_proj", 8, 8)):
        size = rows * columns * 2
        header[f"model.layers.0.self_attn.{part}.weight"] = {
            "dtype": "BF16", "shape": [rows, columns], "data_offsets": [at, at + size]}
        at += size
    index = json.dumps({"weight_map": dict.fromkeys(header, "model.safetensors")}) if sharded else ""
    return b"\n---\n".join((json.dumps(config).encode(), index.encode(), safetensors_of(header, bytes(at))))


CONFIGS = (
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
     "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000,
     "max_position_embeddings": 4096, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "hidden_act": "silu"},
    {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
     "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 32000, "num_local_experts": 8,
     "num_experts_per_tok": 2, "sliding_window": None},
    {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "sliding_window": 1024, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "vocab_size": 262208}},
    {"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
     "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1,
     "n_routed_experts": 256, "num_experts_per_tok": 8, "kv_lora_rank": 512, "q_lora_rank": 1536,
     "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "first_k_dense_replace": 3,
     "vocab_size": 129280, "moe_layer_freq": 1},
    {"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24,
     "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32,
     "num_experts_per_tok": 4, "sliding_window": 128, "vocab_size": 201088,
     "layer_types": ["sliding_attention", "full_attention"] * 12},
    {"model_type": "falcon", "hidden_size": 8192, "num_attention_heads": 128, "num_hidden_layers": 60,
     "num_kv_heads": 8, "vocab_size": 65024, "new_decoder_architecture": True, "bias": False, "alibi": False},
)
QUANTITIES = ("3.35 TB/s", "50 MiB", "80 GB", "1.98 GHz", "989.4 TFLOP/s", "4.2 Top/s", "350 ns", "4.2 \u00b5s", "700 W",
               "30 pJ/bit", "0.5 pJ/FLOP", "30000 USD", "2.5 USD/h", "132", "1e308 TB/s", "-1 B", ".5e-3s", "1 Tb/s")
LISTS = ("1,8,32", "1k..128k*2", "0..10+1", "1,4..64*2", "1..3+0.5", "-5..5+1", "1M", "0..0.3+0.1", "9..1*2", "1..1e9+1")
PHRASES = ("streaming:4+1020", "h2o:512+512", "snapkv:1024+256", "lognormal:0.8", "uniform:0.5", "8,1,1,1", "equal",
            "draft=llama-2-7b,gamma=4,acceptance=0.8", "medusa=4,acceptance=0.6", "gqa-8", "as-trained", "mla", "bf16",
            "int4-g64", "k=int8,v=fp8", "int2-g32", "grouped-unsplit", "per-query-head", "context", "mha,gqa-8,kv=fp8",
            "1.5,1,0.5", "none")
SETTINGS = ("memory.hbm.bandwidth=8TB/s", "compute.units=100", "memory.hbm.holds=[weights, kv]", "links.scale_up.bandwidth=1 TB/s",
             "price.per_hour=2 USD/h\nsystem.max_chips=64", "kernel.launch_cycles=5", "memory.hbm.dram.stacks=6",
             "power.idle=70 W", "extends=h100-sxm", "notes=[a, b]", "memory.l2={}", "a.b.c.d=1")
PARTS = ("hbm", "memory", "bandwidth", "compute", "matrix", "peak", "kernel", "links", "value", "source", "confidence",
          "TB/s", "GiB", "null", "true", "schema_version: 1", "name", "extends", "1e308", ".nan", "- ", ": ", "{", "[", '"\\x1b"',
          "!!python/object", "&a", "*a", "\\u202e", "---", "|", ">", "? ")
FABRICS = ("cerebras-wse2", "groq-lpu", "tenstorrent-wormhole-n150", "graphcore-mk2")
TILES = ("fabric.tiles=[4, 4]", "fabric.tiles=[1, 1]", "fabric.tiles=750, 994", "fabric.topology=torus", "fabric.start_cycles=0",
         "fabric.tile.port_bytes_per_cycle=0.5", "fabric.tile.engines=2", "fabric.tile.step_cycles=1e6", "fabric.link.bytes_per_cycle=1e-3",
         "fabric.link.hop_cycles=0", "fabric.link.add_cycles=1e9", "fabric.link.multicast=false", "compute.clock=1 Hz",
         "memory.sram.bandwidth=1 TB/s", "memory.sram.capacity=1 GB", "memory.sram.latency=1 s")
RANGES = ("memory.hbm.bandwidth=1TB/s..40TB/s*2", "memory.hbm.bandwidth=1TB/s..40TB/s", "compute.units=64,128", "compute.units=1..4+1",
          "price.purchase=10000 USD..90000 USD+10000", "memory.hbm.bandwith=1..2", "memory.hbm.capacity=80..160GB")
