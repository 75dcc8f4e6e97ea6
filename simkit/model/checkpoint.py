"""A safetensors checkpoint of the llama, mistral and qwen families, read as far as its headers and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simkit.foundation.errors import Location, UserError
from simkit.model.config_fields import ConfigFields
from simkit.model.json_source import load_json
from simkit.model.tensor_files import TensorEntry, is_float, read_entries

CONVERTIBLE: Final = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe")
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
# The index of a model with 400 experts in 60 layers has some 10 MB and 150,000 tensors.
_LONGEST_INDEX_BYTES: Final = 30_000_000
_MOST_TENSORS: Final = 500_000
_TENSOR: Final = re.compile(r"(?:model\.)?layers\.(\d{1,5})\.self_attn\.(.+)", re.ASCII)
_KEY_OR_VALUE: Final = re.compile(r"[kv]_proj\.(weight|bias)", re.ASCII)
_PROJECTIONS: Final = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")
_FUSED: Final = frozenset({"qkv_proj.weight", "kv_a_proj_with_mqa.weight"})
# The classes of CONVERTIBLE all default to it; the standard deviation of fresh weights.
_INITIALIZER_RANGE: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file: its tensors in the order of their bytes, and its metadata."""

    entries: list[TensorEntry]
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder of weights with the part of its configuration that attention is made of."""

    folder: Path
    config: dict[str, Any]
    n_q: int
    n_kv: int
    head_dim: int
    layers: int
    initializer_range: float
    norm_epsilon: float
    shards: dict[str, Shard]
    sharded: bool

    @property
    def tensors(self) -> dict[str, TensorEntry]:
        """Every tensor by name."""
        return tensors_of(self.shards)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and check configuration and headers. Raises :class:`UserError` with the field or tensor at fault."""
    source = load_json(folder / "config.json")
    config = ConfigFields(source)
    model_type = config.text("model_type")
    if model_type not in CONVERTIBLE:
        raise config.error("model_type", f"checkpoints of model_type '{model_type[:40]}' cannot be pooled: expected "
                                         + ", ".join(CONVERTIBLE))
    n_q, hidden = config.whole("num_attention_heads"), config.whole("hidden_size")
    n_kv = config.whole("num_key_value_heads", default=n_q if model_type == "llama" else None)
    if n_q % n_kv:
        raise config.error("num_key_value_heads", f"{n_kv} KV heads do not divide the {n_q} of num_attention_heads")
    head_dim, layers = config.whole("head_dim", default=hidden // n_q), config.whole("num_hidden_layers")
    checkpoint = Checkpoint(
        folder=folder, config=source.data, n_q=n_q, n_kv=n_kv, head_dim=head_dim, layers=layers,
        shards=read_shards(folder),
        initializer_range=config.ratio("initializer_range", default_ratio=_INITIALIZER_RANGE),
        norm_epsilon=config.ratio("rms_norm_eps"), sharded=(folder / INDEX).exists())
    _check_tensors(checkpoint, hidden)
    return checkpoint


def tensors_of(shards: dict[str, Shard]) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint's files by name."""
    return {entry.name: entry for shard in shards.values() for entry in shard.entries}


def is_key_or_value(name: str) -> bool:
    """Whether a tensor belongs to the KV heads, and is pooled with them."""
    match = _TENSOR.fullmatch(name)
    return match is not None and _KEY_OR_VALUE.fullmatch(match[2]) is not None


def read_shards(folder: Path) -> dict[str, Shard]:
    """The files of a checkpoint: those that its index names, or the single one."""
    if not (folder / INDEX).exists():
        if not (folder / SINGLE).exists():
            raise UserError(f"no {SINGLE} and no {INDEX}: expected a safetensors checkpoint",
                            where=Location(file=str(folder)))
        entries, metadata = read_entries(folder / SINGLE)
        return {SINGLE: Shard(entries=entries, metadata=metadata)}
    index = load_json(folder / INDEX, most_bytes=_LONGEST_INDEX_BYTES, most_values=_MOST_TENSORS)
    weight_map = index.data.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError("no weight_map from tensors to files", where=index.locate(["weight_map"]))
    promised: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        # A name with a folder in it would read, and write, outside the checkpoint.
        if not isinstance(file, str) or re.split(r"[/\\]", file) != [file] or not file.endswith(".safetensors"):
            raise UserError(f"'{str(file)[:80]}' is not the name of a .safetensors file beside the index",
                            where=index.locate(["weight_map", name]))
        promised.setdefault(file, set()).add(name)
    shards = {}
    for file, names in promised.items():
        entries, metadata = read_entries(folder / file)
        odd = {entry.name for entry in entries} ^ names
        if odd:
            raise UserError(f"'{min(odd)[:80]}' is in only one of the index and {file}",
                            where=index.locate(["weight_map", min(odd)]))
        shards[file] = Shard(entries=entries, metadata=metadata)
    return shards


def _check_tensors(checkpoint: Checkpoint, hidden: int) -> None:
    """Every layer has its four projections, in the shapes that the configuration says."""
    wide, narrow = checkpoint.n_q * checkpoint.head_dim, checkpoint.n_kv * checkpoint.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "q_proj.weight": (wide, hidden), "k_proj.weight": (narrow, hidden), "v_proj.weight": (narrow, hidden),
        "o_proj.weight": (hidden, wide), "q_proj.bias": (wide,), "k_proj.bias": (narrow,), "v_proj.bias": (narrow,),
        # A norm over all heads at once would have to be pooled too, and is not the same norm afterwards.
        "q_norm.weight": (checkpoint.head_dim,), "k_norm.weight": (checkpoint.head_dim,),
    }
    seen = set()
    for name, entry in checkpoint.tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is not None:
            _check_tensor(entry, match[2], shapes.get(match[2]))
            seen.add((int(match[1]), match[2]))
    for layer in range(checkpoint.layers):
        for part in _PROJECTIONS:
            if (layer, part) not in seen:
                raise UserError(f"no layers.{layer}.self_attn.{part}, in one of the {checkpoint.layers} layers of "
                                "config.json", where=Location(file=str(checkpoint.folder)))


def _check_tensor(entry: TensorEntry, part: str, shape: tuple[int, ...] | None) -> None:
    where = Location(file=str(entry.file), key=entry.name)
    if part in _FUSED:
        raise UserError("keys and values in one tensor: expected a k_proj and a v_proj as llama, mistral and qwen "
                        "have them", where=where)
    if shape is not None and entry.shape != shape:
        raise UserError(f"shape {list(entry.shape)}: expected {list(shape)} from config.json", where=where)
    if part.startswith(("k_proj.", "v_proj.")) and not (_KEY_OR_VALUE.fullmatch(part) and is_float(entry.dtype)):
        raise UserError(f"stored as {entry.dtype}: expected unquantised .weight and .bias tensors in F64, F32, F16 "
                        "or BF16", where=where)
