"""What a serving runtime adds to the chip's step: host work, padding, and the matrix rate that its prefill reaches.

A runtime is a few parameters with their source, in ``workloads/runtimes/*.yaml``; ``ideal`` adds nothing. They are
the software's, not the chip's, and that is why they do not stand in a profile.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from simkit.foundation.named_files import catalogue_files, find_file
from simkit.foundation.validation import Number, StrictRecord, Text, check
from simkit.foundation.yaml_source import YamlSource, load_yaml
from simkit.step.workload import AttentionKernel

KIND: Final = "workloads/runtimes"
Words = tuple[Text, ...]


def _within(least: float, most: float) -> Any:
    return Field(ge=least, le=most)


class Runtime(StrictRecord):
    """One serving software, as its file states it."""

    name: Text
    """As given on the command line."""
    title: Text | None = None
    kernel_gap_s: Annotated[Number, _within(0.0, 0.001)]
    """Time of a kernel of the step beyond its operator and its launch: the gap before the next one, and its share of
    kernels that a step does not count (the activation beside a product, a mixture's top-k and sorting, 8-bit inputs'
    scales), while norm with residual and rotary with append are one launch each, as libraries fuse them. A layer with
    a latent cache and experts runs 13 kernels where a dense one runs 8, and takes as much longer."""
    host_sequence_s: Annotated[Number, _within(0.0, 0.1)]
    """Host time of each sequence of an iteration (scheduling, sampling, detokenising)."""
    prefill_fraction: Annotated[Number, _within(0.01, 1.0)]
    """Rate of a prompt's linear layers and attention over what the engine gives."""
    source: Text
    """Where the parameters come from."""
    step_s: Annotated[Number, _within(0.0, 0.1)] = 0.0
    """Host time of each step, whatever its batch."""
    exchange_gap_s: Annotated[Number, _within(0.0, 0.01)] = 0.0
    """Time of an exchange between chips beyond the link's own: the collective library's start."""
    issue_s: Annotated[Number, _within(0.0, 0.001)] = 0.0
    """Host time of issuing a kernel or an exchange where no recorded graph does: the host runs ahead of the chips, so a
    step takes at least all of these, and where the chips are slower than the host nothing of it shows."""
    request_s: Annotated[Number, _within(0.0, 10.0)] = 0.0
    """Time of a request outside the engine before its first token (HTTP, tokenising, the way back), which its client
    waits besides."""
    cache: Literal["filled", "whole"] = "filled"
    """What attention reads: the filled part, or the whole room of prompt and output (static shapes)."""
    attention_kernel: AttentionKernel = "grouped"
    """How it reads grouped heads, as ``--attention-kernel``."""
    split: Literal["tensor", "layers"] = "tensor"
    """What several chips share where nothing else is said: each layer, or they hold layers."""
    software: Words = ()
    """What measurements call it: beginnings of their words, after ``series:`` where other series differ."""
    vendors: Words = ()
    """Of the chips that it is for; empty: all."""
    calibrated_on: Words = ()
    """Series of measurements to whose even rows its parameters were fitted."""
    profile: dict[str, Text] = Field(default_factory=dict)
    """Parameters of its kernels on any chip that it is for, by dotted key of a profile."""

    @property
    def without_constants(self) -> Runtime:
        """What it reads and how it splits a model, without what it adds."""
        return self.model_copy(update={"prefill_fraction": 1.0, **dict.fromkeys(
            ("kernel_gap_s", "host_sequence_s", "step_s", "exchange_gap_s", "issue_s", "request_s"), 0.0)})

    def host_step_s(self, kernels: Any, exchanges: Any) -> Any:
        """What a step of so many kernels and exchanges takes besides the engine's time and its sequences' host work."""
        return self.step_s + self.kernel_gap_s * kernels + self.exchange_gap_s * exchanges

    def whole_step_s(self, engine_s: Any, batch: Any, kernels: Any, exchanges: Any) -> Any:
        """A step's time from the engine's: the chips' work and the host's between them, or the host's issuing."""
        chips_s = engine_s + self.host_step_s(kernels, exchanges) + self.host_sequence_s * batch
        return np.maximum(chips_s, self.issued_s(kernels, exchanges))

    def issued_s(self, kernels: Any, exchanges: Any) -> Any:
        """What the host takes to issue a step, whatever the chips do meanwhile."""
        return self.issue_s * (kernels + exchanges)


IDEAL: Final = Runtime(name="ideal", kernel_gap_s=0.0, host_sequence_s=0.0, prefill_fraction=1.0,
                       source="no host work: the engine's own time")


def load_runtime(name: str) -> Runtime:
    """The runtime of that name or path. Raises :class:`UserError` naming file, line and key."""
    if name == IDEAL.name:
        return IDEAL
    return _runtime(load_yaml(find_file(name, kind=KIND, what="runtime", folders=[])))


@cache
def list_runtimes() -> tuple[Runtime, ...]:
    """Every shipped runtime, ``ideal`` first."""
    return (IDEAL, *(_runtime(load_yaml(path)) for path in catalogue_files(KIND, []).values()))


def runtime_of(software: str, series: str = "", vendor: str = "") -> Runtime:
    """The runtime that measurements call so, by the longest beginning that they share; ``ideal`` where none is known.

    >>> runtime_of("SGLang, CUDA").name
    'sglang'
    """
    known = {(len(word), bool(one.vendors)): one for one in list_runtimes() if not one.vendors or vendor in one.vendors
             for word in one.software if software.startswith(word) or f"{series}:{software}".startswith(word)}
    return known[max(known)] if known else IDEAL


def _runtime(source: YamlSource) -> Runtime:
    return check(Runtime, {**source.data, "name": Path(source.file).stem}, source)
