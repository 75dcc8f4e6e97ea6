"""Small checkpoints that the tests write: a Llama of three layers, with the tensors that real ones have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HIDDEN, N_Q, HEAD_DIM, LAYERS = 32, 8, 8, 3
Tensors = dict[str, np.ndarray[Any, Any]]


def config(n_kv: int, **changes: object) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "head_dim": HEAD_DIM,
        "num_attention_heads": N_Q, "num_key_value_heads": n_kv, "num_hidden_layers": LAYERS, "vocab_size": 11,
        "intermediate_size": 24, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10000.0,
    } | changes


def weights(n_kv: int, *, biases: bool = False, head_norms: bool = False, seed: int = 1) -> Tensors:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return random.normal(0, 0.1, shape).astype(np.float32)

    tensors = {"model.embed_tokens.weight": normal(11, HIDDEN), "lm_head.weight": normal(11, HIDDEN),
               "model.norm.weight": normal(HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors |= {
            f"{prefix}input_layernorm.weight": 1 + normal(HIDDEN),
            f"{prefix}self_attn.q_proj.weight": normal(N_Q * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": normal(n_kv * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": normal(n_kv * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": normal(HIDDEN, N_Q * HEAD_DIM),
            f"{prefix}mlp.up_proj.weight": normal(24, HIDDEN),
        }
        if biases:
            tensors |= {f"{prefix}self_attn.{part}_proj.bias": normal(heads * HEAD_DIM)
                        for part, heads in (("q", N_Q), ("k", n_kv), ("v", n_kv))}
        if head_norms:
            tensors |= {f"{prefix}self_attn.{part}_norm.weight": 1 + normal(HEAD_DIM) for part in "qk"}
    return tensors


def write_checkpoint(folder: Path, n_kv: int = N_Q, tensors: Tensors | None = None, shards: int = 1, **changes: object) -> Path:
    """A new folder with the checkpoint of these tensors, in as many files as there are shards."""
    folder.mkdir()
    tensors = weights(n_kv) if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(config(n_kv, **changes)), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"not copied")
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        held = names[shard::shards]
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}), encoding="utf-8")
    return folder
