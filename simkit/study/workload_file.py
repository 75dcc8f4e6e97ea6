"""Workloads as YAML: a model, its layouts and every way its cache is shrunk, under the names of the command line.

::

    schema_version: 1
    name: long-chat-int4
    model: llama-2-70b
    attention: [mha, gqa-8]
    batch: 1..64*2
    kv_len: 32k
    kv_dtype: int4-g64
    eviction: streaming:4+4092
    page: 16
    lengths: lognormal:0.8

Options given on the command line win over the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic_core import CoreSchema, core_schema

from simkit.foundation.axis_syntax import parse_axis, split_names
from simkit.foundation.errors import UserError, raise_collected, shown
from simkit.foundation.named_files import find_file, user_folders
from simkit.foundation.validation import Name, StrictRecord, Text, WholeNumber, check, rule
from simkit.foundation.yaml_source import load_yaml
from simkit.model.attention import parse_layout_name
from simkit.model.catalog import load_model
from simkit.model.kv_cache import parse_cache_formats, parse_eviction, parse_format, parse_lengths
from simkit.step.expert_load import parse_expert_load
from simkit.step.sharding import parse_attention_sharding
from simkit.step.workload import parse_kernel
from simkit.study.pool_words import POOL_WORDS
from simkit.study.speculation import parse_speculation

KIND: Final = "workloads"
VARIABLE: Final = "SIMKIT_WORKLOADS"


@dataclass(frozen=True, slots=True)
class _AsWritten:
    """Pydantic metadata: text, a number or a list of them, as they would stand on the command line."""

    def read(self, value: object) -> str:
        items = value if isinstance(value, list) else [value]
        if not items or any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
            raise rule(f"{shown(value)} is not text, a number or a list of them")
        return ",".join(str(item) for item in items)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        return {"anyOf": [{"type": ["string", "number"]}, {"type": "array", "items": {"type": ["string", "number"]}}]}


Words = Annotated[str, _AsWritten()]


class WorkloadSchema(StrictRecord):
    """A workload: what is decoded and how its cache is kept."""

    schema_version: Literal[1]
    """Form of this file."""
    name: Name
    """By custom the file's name."""
    title: Text | None = None
    """For readers of the file."""
    model: Words | None = None
    """Names or paths, as after -M."""
    attention: Words | None = None
    """Layouts, as after -A."""
    batch: Words | None = None
    """Sequences, as after --batch."""
    kv_len: Words | None = None
    """Cached tokens a sequence, as after --kv-len."""
    q_len: Words | None = None
    """Query tokens a sequence and step, as after --q-len."""
    kv_dtype: Words | None = None
    """Formats of the cache, as after --kv-dtype."""
    weight_dtype: Words | None = None
    """Format of the weights, as after --weight-dtype."""
    eviction: Words | None = None
    """What is kept of long contexts, as after --eviction."""
    layer_budgets: Words | None = None
    """Factors on the eviction budget, as after --layer-budgets."""
    page: Annotated[int, WholeNumber(1, 1_000_000)] | None = None
    """Tokens a page of a paged cache."""
    reserve: Annotated[int, WholeNumber(1, 1_000_000_000)] | None = None
    """Tokens reserved contiguously for each sequence."""
    lengths: Words | None = None
    """Contexts across the batch, as after --kv-len-spread."""
    attention_kernel: Words | None = None
    """As after --attention-kernel."""
    cache_order: Words | None = None
    """As after --cache-order."""
    attention_sharding: Words | None = None
    """As after --attention-sharding."""
    ep: Annotated[int, WholeNumber(1, 100_000)] | None = None
    """Chips that hold different experts."""
    expert_load: Words | None = None
    """How often rows choose each expert, as after --expert-load."""
    speculation: Words | None = None
    """Draft or heads, as after --speculation."""
    encoder_len: Annotated[int, WholeNumber(1, 1_000_000_000)] | None = None
    """Tokens that an encoder read, for cross-attention."""
    ffn: Words | None = None
    """A second pool of chips, as after --ffn."""
    between: Words | None = None
    """What joins the pools, as after --between: 400GB/s,2us."""
    with_attention: Words | None = None
    """What stays with attention, as after --with-attention."""
    micro_batches: Annotated[int, WholeNumber(1, 1_000_000)] | None = None
    """Groups of sequences that keep both pools busy."""


# Each word is read once here, so that a slip is found at its line and not in the middle of a run.
_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "model": load_model, "attention": parse_layout_name, "batch": lambda text: parse_axis(text, what="batch"),
    "kv_len": lambda text: parse_axis(text, what="kv_len"), "q_len": lambda text: parse_axis(text, what="q_len"),
    "kv_dtype": parse_cache_formats, "weight_dtype": parse_format, "eviction": parse_eviction, "lengths": parse_lengths,
    "attention_kernel": parse_kernel, "speculation": parse_speculation, "expert_load": parse_expert_load,
    "attention_sharding": lambda text: text if text == "auto" else parse_attention_sharding(text), **POOL_WORDS,
}


_LISTS: Final = ("model", "attention", "kv_dtype")


def load_workload(name_or_path: str | Path) -> dict[str, str | int]:
    """The options that a workload file states, by their Python names, as they would stand on the command line.

    Raises :class:`UserError` with file, line and key of every slip.
    """
    path = find_file(str(name_or_path), kind=KIND, what="workload", folders=user_folders(None, VARIABLE))
    source = load_yaml(path)
    schema = check(WorkloadSchema, source.data, source)
    stated: dict[str, str | int] = {}
    faults: list[UserError] = []
    for key in WorkloadSchema.model_fields:
        value = getattr(schema, key)
        if value is None or key in ("schema_version", "name", "title"):
            continue
        stated[key] = value
        for word in split_names(str(value)) if key in _LISTS else [str(value)]:
            try:
                if key in _READERS:
                    _READERS[key](word)
            except UserError as error:
                faults.append(UserError(error.message, where=source.locate([key]), hint=error.hint))
    raise_collected(faults)
    return stated
