"""Pool the key/value heads of a real checkpoint into fewer (Ainslie et al. 2023, arXiv 2305.13245, section 2.1).

A KV head is a block of rows of ``k_proj`` and ``v_proj``; :mod:`simkit.model.head_pooling` says what becomes of
them. Query heads keep their order, because query head i reads KV head ``i K // n_q`` and groups are consecutive.
The result has the memory and speed of grouped heads; it must be uptrained to have the quality of a model.
"""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from simkit.foundation.errors import Location, UserError, did_you_mean
from simkit.model.checkpoint import (
    INDEX,
    Checkpoint,
    is_key_or_value,
    open_checkpoint,
    read_shards,
    tensors_of,
)
from simkit.model.convert_check import AttentionCheck, attention_checks
from simkit.model.head_pooling import Method, pooled_rows
from simkit.model.tensor_files import NewTensor, TensorEntry, encode, write_tensors

# Tokenizer and generation settings, which the pooled model shares; weights in other formats stay behind.
_BESIDE: Final = frozenset({".json", ".txt", ".model", ".jinja"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What was written, and what running attention on it says (``checks``, one a layer looked at)."""

    source: Path
    output: Path
    method: Method
    n_q_heads: int
    n_kv_heads_before: int
    n_kv_heads: int
    layers: int
    tensors_pooled: int
    tensor_bytes_before: int
    tensor_bytes: int
    checks: tuple[AttentionCheck, ...]


def convert_checkpoint(source: Path | str, output: Path | str, n_kv_heads: int, *, method: Method = "mean",
                       seed: int = 0, force: bool = False) -> ConversionReport:
    """Write a copy of a checkpoint whose KV heads are pooled into ``n_kv_heads``, and check it.

    Tensors are streamed: memory holds one group's rows, never a checkpoint. The output appears under its name
    only when it is whole.

    Parameters
    ----------
    source: a folder with config.json and model.safetensors, or model.safetensors.index.json and its shards.
    output: the folder to make, with the tokenizer's and other settings files beside the weights.
    n_kv_heads: K, a divisor of the source's KV heads.
    method: mean, first or random.
    seed: of the random method and of the check's hidden states.
    force: replace an existing output, when it is a checkpoint folder.

    Raises :class:`UserError` naming the file and field or tensor that does not fit.
    """
    source, output = Path(source), Path(output)
    if method not in get_args(Method):
        raise UserError(f"unknown method '{method}'", hint=did_you_mean(method, get_args(Method)))
    if seed < 0:
        raise UserError(f"seed {seed}: expected 0 or more")
    checkpoint = open_checkpoint(source)
    if n_kv_heads < 1 or checkpoint.n_kv % n_kv_heads:
        divisors = [str(k) for k in range(1, checkpoint.n_kv + 1) if checkpoint.n_kv % k == 0]
        raise UserError(f"{n_kv_heads} KV heads cannot be pooled from the {checkpoint.n_kv} of {source}",
                        hint="expected one of " + ", ".join(divisors))
    _refuse_overwriting(source, output, force=force)
    place = output.resolve()
    partial = place.with_name(f".{place.name}.partial-{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        written_bytes = _write(checkpoint, partial, n_kv_heads, method, seed)
        checks = attention_checks(checkpoint.tensors, tensors_of(read_shards(partial)), n_q=checkpoint.n_q,
                                  n_kv=checkpoint.n_kv, n_kv_new=n_kv_heads, head_dim=checkpoint.head_dim,
                                  layers=checkpoint.layers, norm_epsilon=checkpoint.norm_epsilon, seed=seed)
        _move_into_place(partial, place)
    except OSError as error:
        where = Location(file=str(error.filename or output))
        raise UserError(f"cannot read or write: {error.strerror or error}", where=where) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ConversionReport(
        source=source, output=output, method=method, n_q_heads=checkpoint.n_q, n_kv_heads_before=checkpoint.n_kv,
        n_kv_heads=n_kv_heads, layers=checkpoint.layers,
        tensors_pooled=sum(is_key_or_value(name) for name in checkpoint.tensors),
        tensor_bytes_before=sum(entry.length_bytes for entry in checkpoint.tensors.values()),
        tensor_bytes=written_bytes, checks=checks)


def _refuse_overwriting(source: Path, output: Path, *, force: bool) -> None:
    here, there = source.resolve(), output.resolve()
    if here == there or there in here.parents:
        raise UserError("the output would replace the source", where=Location(file=str(output)))
    if not output.exists():
        return
    if not force:
        raise UserError("exists already", where=Location(file=str(output)), hint="--force replaces it")
    # --force replaces a former result, never somebody's folder of other things.
    if not (output / "config.json").is_file() or not list(output.glob("*.safetensors")):
        raise UserError("exists and is not a checkpoint folder, so it is not replaced",
                        where=Location(file=str(output)))


def _move_into_place(partial: Path, output: Path) -> None:
    former = output.with_name(f"{partial.name}-former")
    if output.exists():
        output.rename(former)
    try:
        partial.rename(output)
    except OSError:
        if former.exists():
            former.rename(output)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _write(checkpoint: Checkpoint, folder: Path, n_kv_new: int, method: Method, seed: int) -> int:
    """All files of the pooled checkpoint. Returns the bytes of its tensors."""
    total = 0
    for file, shard in checkpoint.shards.items():
        new = [_new_tensor(checkpoint, entry, n_kv_new, method, seed) for entry in shard.entries]
        total += write_tensors(folder / file, new, shard.metadata)
    if checkpoint.sharded:
        names = {entry.name: file for file, shard in checkpoint.shards.items() for entry in shard.entries}
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))})
    _write_json(folder / "config.json", checkpoint.config | {"num_key_value_heads": n_kv_new})
    for path in sorted(checkpoint.folder.iterdir()):
        belongs = path.suffix in _BESIDE and not path.name.endswith(".index.json")
        if belongs and path.is_file() and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    return total


def _new_tensor(checkpoint: Checkpoint, entry: TensorEntry, n_kv_new: int, method: Method, seed: int) -> NewTensor:
    if not is_key_or_value(entry.name) or (n_kv_new == checkpoint.n_kv and method != "random"):
        return NewTensor(name=entry.name, dtype=entry.dtype, shape=entry.shape, length_bytes=entry.length_bytes,
                         pieces=entry.raw())
    heads = pooled_rows(entry, n_kv=checkpoint.n_kv, n_kv_new=n_kv_new, method=method, seed=seed,
                        initializer_range=checkpoint.initializer_range)
    return NewTensor(
        name=entry.name, dtype=entry.dtype, shape=(n_kv_new * checkpoint.head_dim, *entry.shape[1:]),
        length_bytes=entry.length_bytes * n_kv_new // checkpoint.n_kv,
        pieces=(encode(head, entry.dtype) for head in heads))


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
