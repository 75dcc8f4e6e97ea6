"""What a serving runtime adds to the chip's step: host work, padding, and the matrix rate that its prefill reaches.

A runtime is a few parameters with their source, in ``workloads/runtimes/*.yaml``; ``ideal`` adds nothing. They are
the software's, not the chip's, and that is why they do not stand in a profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from simkit.foundation.errors import UserError
from simkit.foundation.named_files import catalogue_files, find_file
from simkit.foundation.yaml_source import YamlSource, load_yaml
from simkit.step.workload import ATTENTION_KERNELS, AttentionKernel

KIND: Final = "workloads/runtimes"
# Least and most that a file may state of each parameter.
_PARAMETERS: Final = {"kernel_gap_s": (0.0, 0.001), "host_sequence_s": (0.0, 0.1), "prefill_fraction": (0.01, 1.0)}
# Those that a file may leave out.
_MORE: Final = {"step_s": (0.0, 0.1), "exchange_gap_s": (0.0, 0.01)}
_CHOICES: Final = {"cache": ("filled", "whole"), "attention_kernel": ATTENTION_KERNELS, "split": ("tensor", "layers")}
_WORDS: Final = ("software", "vendors", "calibrated_on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One serving software.

    Parameters
    ----------
    name: as given on the command line.
    kernel_gap_s: time of a kernel of the step beyond its operator and its launch: the gap before the next one, and its
        share of kernels that a step does not count (the activation beside a product, a mixture's top-k and sorting,
        8-bit inputs' scales), while norm with residual and rotary with append are one launch each, as libraries fuse
        them. A layer with a latent cache and experts runs 13 kernels where a dense one runs 8, and takes as much
        longer.
    host_sequence_s: host time of each sequence of an iteration (scheduling, sampling, detokenising).
    prefill_fraction: rate of a prompt's linear layers and attention over what the engine gives.
    source: where the parameters come from.
    step_s: host time of each step, whatever its batch.
    exchange_gap_s: time of an exchange between chips beyond the link's own: the collective library's start.
    cache: what attention reads: the ``filled`` part, or the ``whole`` room of prompt and output (static shapes).
    attention_kernel: how it reads grouped heads, as ``--attention-kernel``.
    split: what several chips share where nothing else is said: each layer (``tensor``), or they hold ``layers``.
    software: what measurements call it: beginnings of their words, after ``series:`` where other series differ.
    vendors: of the chips that it is for; empty: all.
    calibrated_on: series of measurements to whose even rows its parameters were fitted.
    profile: figures of its kernels on any chip that it is for, by dotted key of a profile.
    """

    name: str
    kernel_gap_s: float
    host_sequence_s: float
    prefill_fraction: float
    source: str
    step_s: float = 0.0
    exchange_gap_s: float = 0.0
    cache: str = "filled"
    attention_kernel: AttentionKernel = "grouped"
    split: str = "tensor"
    software: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    calibrated_on: tuple[str, ...] = ()
    profile: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def without_constants(self) -> Runtime:
        """What it reads and how it splits a model, without what it adds."""
        return replace(self, kernel_gap_s=0.0, host_sequence_s=0.0, prefill_fraction=1.0, step_s=0.0,
                       exchange_gap_s=0.0)

    def host_step_s(self, kernels: Any, exchanges: Any) -> Any:
        """What a step of so many kernels and exchanges takes besides the engine's time and its sequences' host work."""
        return self.step_s + self.kernel_gap_s * kernels + self.exchange_gap_s * exchanges


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
    data: dict[str, Any] = source.data
    known = (*_PARAMETERS, *_MORE, *_CHOICES, *_WORDS, "profile")
    for key in data:
        if key not in (*known, "name", "source", "title"):
            raise UserError("unknown key", where=source.locate([key]), hint="known: " + ", ".join(known))
    parameters: dict[str, Any] = {}
    for key, (least, most) in {**_PARAMETERS, **_MORE}.items():
        if key in _MORE and key not in data:
            continue
        value = data.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise UserError(f"expected a number from {least:g} to {most:g}", where=source.locate([key]))
        parameters[key] = float(value)
    for key, choices in _CHOICES.items():
        if data.get(key, choices[0]) not in choices:
            raise UserError("expected " + " or ".join(choices), where=source.locate([key]))
        parameters[key] = data.get(key, choices[0])
    for key in _WORDS:
        words = data.get(key, [])
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            raise UserError("expected a list of words", where=source.locate([key]))
        parameters[key] = tuple(words)
    figures = data.get("profile", {})
    if not isinstance(figures, dict) or not all(isinstance(value, str) for value in figures.values()):
        raise UserError("expected keys of a profile, each with a text", where=source.locate(["profile"]))
    parameters["profile"] = figures
    if not isinstance(data.get("source"), str):
        raise UserError("say where the parameters come from", where=source.locate(["source"]))
    return Runtime(name=Path(source.file).stem, source=data["source"], **parameters)
