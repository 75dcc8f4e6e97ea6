"""How decode-attention kernels run on a chip: the parameters that no datasheet gives, each with a physical meaning.

A chip that was measured carries its own parameters in its profile's ``kernel`` section (``source: calibration``).
What is left out comes from the chip named by ``like``, and what that leaves out from
``hardware_profiles/kernels/gpu-decode.yaml``, which holds what kernel libraries do alike everywhere. Cycles are of the
compute unit's clock, so that borrowed parameters scale with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmKernel:
    """Calibrated parameters of products of a few rows, ``y[m, n] = x[m, k] w[k, n]``, on one chip.

    ``launch_cycles`` is the floor of a product timed by itself, ``launch_ratio_8bit`` that of the 8-bit path with the
    kernel that quantises its activations; ``tile_setup_cycles`` of one output tile; ``matrix_ratio_8bit`` times
    ``matrix_efficiency`` is reached with 8-bit and narrower inputs, whose scales and power leave less of a higher peak,
    ``matrix_ratio_many_rows`` times it with 16-bit inputs of more than 256 rows, by larger tiles; the rest as in
    :class:`DecodeKernel`, and ``combine_cycles_per_64_bytes`` of partial sums when ``k`` is split.
    """

    dram_achieved_fraction: float
    launch_cycles: float
    launch_ratio_8bit: float
    tile_setup_cycles: float
    load_bytes_per_cycle_per_unit: float
    matrix_efficiency: float
    matrix_ratio_8bit: float
    matrix_ratio_many_rows: float
    split_combine_cycles: float
    combine_cycles_per_64_bytes: float
    dram_ramp_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeKernel:
    """Calibrated parameters of a layer's routed experts on one chip.

    ``launch_cycles`` of each of the mixture's two products timed by itself, with the kernels around it (top-k and
    sorting rows by expert; the activation; the sum over a row's experts); ``tile_setup_cycles`` of one tile of an
    expert's rows; ``routing_passes``: how often, beside each of the two products, the main memory's bandwidth is
    spent on a copy of the hidden state for every choice (sorting rows by expert, bringing them together again).
    ``matrix_efficiency`` is that of the chip's products where the profile states no other.
    """

    dram_achieved_fraction: float
    launch_cycles: float
    tile_setup_cycles: float
    load_bytes_per_cycle_per_unit: float
    routing_passes: float
    matrix_efficiency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillKernel:
    """Calibrated parameters of a prompt's attention on one chip: :mod:`simkit.timing.prompt_attention`.

    ``matrix_efficiency`` of the dense 16-bit rate; ``score_cycles`` of one unit for the softmax of one score;
    ``item_setup_cycles`` of one item; ``activation_fraction`` of the memory's peak at which queries and new keys and
    values come and outputs go.
    """

    matrix_efficiency: float
    score_cycles: float
    item_setup_cycles: float
    activation_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryKernels:
    """Which attention kernels one software library has for a chip, and what its launches and items cost.

    ``launch_ratio`` and, for 8-bit caches, ``launch_ratio_8bit`` on top multiply the common ``launch_cycles``,
    ``item_setup_ratio`` the chip's ``item_setup_cycles``. Kernels that share a tile among the query heads of a group
    exist for groups from ``matrix_least_group`` to ``matrix_most_group``, kernels of one query head an item for groups
    up to ``vector_most_group``; ``native_8bit`` is 1 where the library multiplies 8-bit operands as they are.
    A group for which it has neither runs one query head an item.
    """

    launch_ratio: float
    launch_ratio_8bit: float
    item_setup_ratio: float
    matrix_least_group: float
    matrix_most_group: float
    vector_most_group: float
    native_8bit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeKernel:
    """Calibrated parameters of decode-attention kernels on one chip.

    Of the chip (about ten parameters, with those of :class:`LibraryKernels`):

    - ``dram_achieved_fraction`` of peak on endless runs
    - ``item_setup_cycles``, ``vector_item_setup_cycles``: start, prologue and epilogue of one work item on one unit,
      for kernels that share a tile among query rows (matrix unit) and for those of one query head (vector unit)
    - ``vector_item_setup_ratio_8bit``: times that for 8-bit caches
    - ``load_bytes_per_cycle_per_unit``: outstanding bytes over latency of one unit (Little's law)
    - ``split_combine_cycles``: second pass of an item that was split along the tokens
    - ``vector_elements_per_cycle``, ``.._8bit``: cache elements that one unit's vector lanes consume
    - ``dequantise_elements_per_cycle``: 8-bit to 16-bit conversion on one unit
    - ``matrix_efficiency`` of the dense 16-bit rate, on tiles of a few query rows

    Of kernel libraries and chip families: the rest. ``launch_cycles`` is the whole floor of a kernel looped alone in a
    graph; inside a step the profile's ``overheads.kernel_launch`` stands for it. ``tuned_for_bytes_per_s`` is the
    memory bandwidth for which the load paths are wide enough; a study that gives the chip more of it widens them in
    proportion, and leaves what computes as it is. ``native_8bit_rows`` query rows fill a tile of the 8-bit kernel,
    ``most_item_rows`` and ``most_sequence_units`` bound one item's rows and the units that share a sequence. ``latent``
    holds the parameters that differ for MLA, ``gemm`` those of products, ``moe`` those of mixtures, ``prefill`` those
    of prompts, ``libraries`` those of software libraries. The kernel as it stands is what the best of them would run;
    :meth:`for_libraries` is one of them.
    """

    dram_achieved_fraction: float
    item_setup_cycles: Any
    vector_item_setup_cycles: float
    vector_item_setup_ratio_8bit: float
    load_bytes_per_cycle_per_unit: float
    split_combine_cycles: float
    vector_elements_per_cycle: float
    vector_elements_per_cycle_8bit: float
    launch_ratio_native_8bit: float
    dequantise_elements_per_cycle: float
    launch_cycles: Any
    vector_launch_ratio: float
    launch_ratio_8bit: Any
    narrow_head_launch_ratio: float
    narrow_head_setup_ratio: float
    setup_ratio_native_8bit: float
    setup_ratio_8bit: float
    exposed_setup_fraction: float
    dram_ramp_ratio: float
    dram_run_overhead_bytes: float
    page_tokens: float
    cache_bytes_per_cycle_per_unit: float
    cache_effective_fraction: float
    cache_transition_ratio: float
    matrix_efficiency: float
    dequantise_token_elements: float
    vector_token_cycles: float
    row_cycles: float
    combine_cycles_per_64_bytes: float
    tile_tokens: float
    vector_tile_tokens: float
    native_8bit_rows: Any
    most_item_rows: float
    most_sequence_units: float
    tuned_for_bytes_per_s: float
    latent: Mapping[str, float] = field(default_factory=dict)
    gemm: GemmKernel | None = None
    moe: MoeKernel | None = None
    prefill: PrefillKernel | None = None
    libraries: Mapping[str, LibraryKernels] = field(default_factory=dict)
    matrix_least_group: Any = 1.0
    matrix_most_group: Any = math.inf
    vector_most_group: Any = math.inf

    def for_libraries(self, which: Any) -> DecodeKernel:
        """These parameters for the kernels of one of ``libraries`` by number, or of one for each row of an array."""
        parameters = {name: np.array([getattr(library, name) for library in self.libraries.values()])[which]
                   for name in LIBRARY_PARAMETERS}
        return replace(
            self,
            libraries={},
            launch_cycles=self.launch_cycles * parameters["launch_ratio"],
            launch_ratio_8bit=parameters["launch_ratio_8bit"],
            item_setup_cycles=self.item_setup_cycles * parameters["item_setup_ratio"],
            native_8bit_rows=self.native_8bit_rows * parameters["native_8bit"],
            matrix_least_group=parameters["matrix_least_group"],
            matrix_most_group=parameters["matrix_most_group"],
            vector_most_group=parameters["vector_most_group"])

    def for_latents(self) -> DecodeKernel:
        """These parameters for kernels that read one latent a token (MLA), which libraries write apart."""
        changed: Any = dict(self.latent)
        return replace(self, **changed, latent={}, libraries={}) if changed else self

    def provisioned(self, dram_bytes_per_cycle_per_unit: float) -> DecodeKernel:
        """These parameters on a chip that no family member speaks for: data paths raised to what its DRAM asks for.

        Kernels are tuned until one unit's loads can saturate its share of DRAM, with a quarter to spare; a load path or
        vector rate averaged over chips with slower memory would cap a faster one.
        """
        need = PROVISION_MARGIN * dram_bytes_per_cycle_per_unit
        latent = dict(self.latent)
        if LOAD_PATH in latent:
            latent[LOAD_PATH] *= max(need / self.load_bytes_per_cycle_per_unit, 1.0)
        return replace(
            self.reaching(need),
            latent=latent,
            gemm=None if self.gemm is None else replace(self.gemm, load_bytes_per_cycle_per_unit=max(
                self.gemm.load_bytes_per_cycle_per_unit, need)),
            moe=None if self.moe is None else replace(self.moe, load_bytes_per_cycle_per_unit=max(
                self.moe.load_bytes_per_cycle_per_unit, need)),
            vector_elements_per_cycle=max(self.vector_elements_per_cycle, need / 2),
            vector_elements_per_cycle_8bit=max(self.vector_elements_per_cycle_8bit, need * 0.75),
            dequantise_elements_per_cycle=max(self.dequantise_elements_per_cycle, need))

    def reaching(self, dram_bytes_per_cycle_per_unit: float) -> DecodeKernel:
        """These parameters with a load path of at least so many bytes, as a sibling with faster memory needs it.

        The units of one family are the same: what they compute a cycle stays.
        """
        return replace(self, load_bytes_per_cycle_per_unit=max(self.load_bytes_per_cycle_per_unit,
                                                               dram_bytes_per_cycle_per_unit))


HIGHEST_FRACTION = 0.985  # of a DRAM's peak: refresh alone takes 1.5 %
PROVISION_MARGIN = 1.25  # assumed: see ``provisioned``; H100's own load path has 1.3 times its share of DRAM
LOAD_PATH = "load_bytes_per_cycle_per_unit"
REACHED_RATE = "matrix_efficiency"
LIBRARIES = ("sglang", "trtllm", "vllm")
GEMM_PARAMETERS = tuple(entry.name for entry in fields(GemmKernel))
MOE_PARAMETERS = tuple(entry.name for entry in fields(MoeKernel))
PREFILL_PARAMETERS = tuple(entry.name for entry in fields(PrefillKernel))
LIBRARY_PARAMETERS = tuple(entry.name for entry in fields(LibraryKernels))
_NOT_PARAMETERS = ("tuned_for_bytes_per_s", "latent", "gemm", "moe", "prefill", "libraries", "matrix_least_group",
                   "matrix_most_group", "vector_most_group")
PARAMETERS = tuple(entry.name for entry in fields(DecodeKernel) if entry.name not in _NOT_PARAMETERS)
# Sections within a kernel section, and the parameters that each may state.
SECTIONS = {"latent": PARAMETERS, "gemm": GEMM_PARAMETERS, "moe": MOE_PARAMETERS, "prefill": PREFILL_PARAMETERS,
            **dict.fromkeys(LIBRARIES, LIBRARY_PARAMETERS)}


def kernel_from_parameters(*layers: Mapping[str, float], tuned_for_bytes_per_s: float) -> DecodeKernel:
    """Merge parameters, later layers winning; ``latent.NAME``, ``gemm.NAME``, ``moe.NAME`` and ``vllm.NAME`` are those
    of a section.

    Raises :class:`UserError` naming what no layer gives.
    """
    merged: dict[str, float] = {}
    for layer in layers:
        merged.update(layer)
    sections = {section: _taken_out(merged, f"{section}.") for section in SECTIONS}
    latent = sections.pop("latent")
    if sections["gemm"] and sections["moe"]:
        sections["moe"] = {REACHED_RATE: sections["gemm"].get(REACHED_RATE, 1.0)} | sections["moe"]
    absent = [name for name in PARAMETERS if name not in merged]
    absent += [f"{section}.{name}" for section, stated in sections.items() if stated
               for name in SECTIONS[section] if name not in stated]
    if absent:
        raise UserError(f"the kernel section lacks {', '.join(absent)}",
                        hint="or name a chip to take them from: like: h100-sxm")
    gemm, moe, prefill = (sections.pop(name) for name in ("gemm", "moe", "prefill"))
    return DecodeKernel(**merged, tuned_for_bytes_per_s=tuned_for_bytes_per_s, latent=latent,
                        gemm=GemmKernel(**gemm) if gemm else None, moe=MoeKernel(**moe) if moe else None,
                        prefill=PrefillKernel(**prefill) if prefill else None,
                        libraries={name: LibraryKernels(**stated) for name, stated in sections.items() if stated})


def _taken_out(parameters: dict[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): parameters.pop(name) for name in list(parameters) if name.startswith(prefix)}


def stated_parameters(checked: Any) -> dict[str, float] | None:
    """The parameters that a checked file's ``kernel`` section states, those of sections within it as ``gemm.NAME``."""
    section = checked.kernel
    if section is None:
        return None
    found = {name: float(value) for name in PARAMETERS if (value := getattr(section, name)) is not None}
    for part, names in SECTIONS.items():
        inner = getattr(section, part)
        found |= {f"{part}.{name}": float(value) for name in names
                  if inner is not None and (value := getattr(inner, name)) is not None}
    return found
