r"""Fitting a chip's kernel parameters to measured kernel times, and saying which of them the measurements identify.

Least squares (scipy) on :math:`r = \ln(\hat t / t)` with a soft-L1 loss, in the logarithms of the parameters: errors
and parameters are ratios. Intervals come from the curvature at the optimum, :math:`\sigma^2 (J^T W J)^{-1}`, with all
other parameters free to follow: the profile likelihood's, to second order. A parameter that no row reacts to, or whose
interval is wider than a factor of two, is not identified: it stays as it was, and is named with the one that takes its
place most nearly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.attention_rows import LibraryOperator, fastest_s, library_operators
from simkit.evidence.silicon.mixture_rows import MixtureOperator, mixture_operators, mixture_times_s
from simkit.evidence.silicon.product_rows import gemm_times_s
from simkit.evidence.silicon.tables import ELEMENT_BYTES, EXCHANGES, LAYERS, MeasuredTimes
from simkit.foundation.errors import UserError, did_you_mean
from simkit.hardware.catalog import with_kernel
from simkit.hardware.kernel import LIBRARIES, DecodeKernel
from simkit.hardware.profile import HardwareProfile

CHIP_PARAMETERS: Final = (
    "dram_achieved_fraction", "item_setup_cycles", "load_bytes_per_cycle_per_unit", "split_combine_cycles",
    "matrix_efficiency", "vector_item_setup_cycles", "vector_item_setup_ratio_8bit", "vector_elements_per_cycle",
    "vector_elements_per_cycle_8bit", "dequantise_elements_per_cycle")
LAUNCH: Final = "launch_ratio"  # of each library on a chip: ``vllm.launch_ratio``
FAMILY_PARAMETERS: Final = (
    "vector_launch_ratio", "narrow_head_launch_ratio", "narrow_head_setup_ratio", "setup_ratio_native_8bit",
    "setup_ratio_8bit", "launch_ratio_native_8bit", "exposed_setup_fraction", "dram_ramp_ratio",
    "dram_run_overhead_bytes", "cache_bytes_per_cycle_per_unit", "row_cycles", "combine_cycles_per_64_bytes",
    "sglang.launch_ratio_8bit", "trtllm.launch_ratio_8bit", "vllm.launch_ratio_8bit", "trtllm.item_setup_ratio",
    "vllm.item_setup_ratio")
LATENT_PARAMETERS: Final = (
    "launch_cycles", "launch_ratio_8bit", "item_setup_cycles", "load_bytes_per_cycle_per_unit", "matrix_efficiency",
    "split_combine_cycles", "dequantise_elements_per_cycle", "row_cycles")
GEMM_PARAMETERS: Final = (
    "dram_achieved_fraction", "launch_cycles", "launch_ratio_8bit", "tile_setup_cycles",
    "load_bytes_per_cycle_per_unit", "matrix_efficiency", "split_combine_cycles")
MOE_PARAMETERS: Final = (
    "dram_achieved_fraction", "launch_cycles", "tile_setup_cycles", "load_bytes_per_cycle_per_unit", "routing_passes")
EIGHT_BIT: Final = ("8bit", "dequantise")
SHARES: Final = ("dram_achieved_fraction", "matrix_efficiency", "exposed_setup_fraction")  # at most 1
WIDEST: Final = math.log(16.0)  # how far a parameter may move from where it starts
STEP: Final = 0.02  # of a logarithm: steps over the kinks of whole waves and of the choice between mappings
LOSS_SCALE: Final = 0.05  # from this |ln| on an error counts linearly: fall-back kernels are outliers
NOT_IDENTIFIED: Final = math.log(2.0)  # half width of the 5-95 % interval
MEANINGLESS: Final = 20.0  # half width of an interval that says nothing at all
Z_INTERVAL: Final = 1.645
CONFUSED: Final = 0.9  # correlation of two parameters' errors
LEAST_ROWS_PER_PARAMETER: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedParameter:
    """One parameter: where it started, what the rows say, and the 5-95 % interval; None where they say nothing."""

    name: str
    start: float
    value: float
    interval: tuple[float, float] | None
    twin: str = ""
    """The other parameter whose change these rows confuse most with this one's; empty below :data:`CONFUSED`."""

    @property
    def identified(self) -> bool:
        """True when the interval is no wider than a factor of two either way."""
        return self.interval is not None and self.value / self.interval[0] <= math.exp(NOT_IDENTIFIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A profile with fitted parameters, those that no row identifies with their twins, predictions before and after."""

    hardware: HardwareProfile
    rows: MeasuredTimes = field(repr=False)
    parameters: tuple[FittedParameter, ...]
    unidentified: Mapping[str, str]
    before_s: Any = field(repr=False)
    after_s: Any = field(repr=False)


def parameters_of(rows: MeasuredTimes) -> tuple[str, ...]:
    """Names of the parameters that rows of this kind can speak about, those of 8-bit formats only with 8-bit rows."""
    if rows.kind in (*LAYERS, *EXCHANGES):
        raise UserError(f"{rows.kind}: its rows say nothing about the kernel parameters that are fitted here",
                        hint="exchanges speak of links.scale_up; tools/refit_layers.py fits modules and prompts")
    libraries = [name for name in LIBRARIES if name in rows.measured_by and np.any(rows.measured_by[name])]
    of_chip = (*CHIP_PARAMETERS, *(f"{name}.{LAUNCH}" for name in libraries))
    names = {"decode_attention": of_chip, "decode_mla": tuple(f"latent.{name}" for name in LATENT_PARAMETERS),
             "decode_gemm": tuple(f"gemm.{name}" for name in GEMM_PARAMETERS),
             "decode_moe": tuple(f"moe.{name}" for name in MOE_PARAMETERS)}[rows.kind]
    formats = rows.columns["kv_dtype" if "kv_dtype" in rows.columns else "dtype"]
    if not any(ELEMENT_BYTES[str(name)] < 2 for name in np.unique(formats)):
        names = tuple(name for name in names if not any(part in name for part in EIGHT_BIT))
    return names


def calibrate(rows: MeasuredTimes, hardware: HardwareProfile, keep: Sequence[str] = ()) -> Calibration:
    """Fit the chip's parameters to its rows; what the rows do not identify stays as it was, the least certain first.

    Parameters
    ----------
    rows: measured kernels of one system.
    hardware: the profile that the fit starts from; without a ``kernel`` section, from what is alike everywhere.
    keep: parameters left as they are.

    Raises :class:`UserError` when the rows identify none.
    """
    hardware = with_kernel(hardware)
    known = parameters_of(rows)
    for name in keep:
        if name not in known:
            raise UserError(f"--keep {name[:60]}: not a parameter of these rows", hint=did_you_mean(name, known))
    names = [name for name in known if name not in keep]
    if not names:
        raise UserError("every parameter is kept: there is nothing to fit")
    if len(rows) < LEAST_ROWS_PER_PARAMETER * len(names):
        raise UserError(f"{len(rows)} rows are too few for {len(names)} parameters: expected at least "
                        f"{LEAST_ROWS_PER_PARAMETER * len(names)}", hint="measure more, or --keep parameters")
    chip = FitRows(rows=rows, hardware=hardware)
    unidentified: dict[str, str] = {}
    while True:
        parameters = fit([chip], [(name, 0) for name in names])
        if not (vague := _least_certain(parameters)):
            break
        unidentified |= {one.name: one.twin for one in vague}
        names = [name for name in names if name not in unidentified]
        if not names:
            raise UserError(f"these rows identify none of {', '.join(unidentified)} within a factor of two",
                            hint="measure kernels of several batches, lengths and numbers of KV heads")
    kernel = with_parameters(kernel_of(chip), {parameter.name: parameter.value for parameter in parameters})
    before, after = chip.times_s(kernel_of(chip)), chip.times_s(kernel)
    stated = dict(hardware.kernel_parameters or {}) | {parameter.name: parameter.value for parameter in parameters}
    return Calibration(hardware=replace(hardware, kernel=kernel, kernel_parameters=stated), rows=rows,
                       parameters=tuple(parameters), unidentified=unidentified, before_s=before, after_s=after)


def _least_certain(parameters: Sequence[FittedParameter]) -> list[FittedParameter]:
    """Those that no row moves; else the one with the widest interval, where that is no identification."""
    unmoved = [parameter for parameter in parameters if parameter.interval is None]
    vague = [(parameter.value / parameter.interval[0], parameter) for parameter in parameters
             if parameter.interval is not None and not parameter.identified]
    return unmoved or [widest for _, widest in sorted(vague, key=lambda one: -one[0])[:1]]


@dataclass(frozen=True, kw_only=True)
class FitRows:
    """Rows of one chip, with their operators built once: parameters change, the kernels' work does not."""

    rows: MeasuredTimes
    hardware: HardwareProfile
    operators: tuple[LibraryOperator, ...] = ()
    mixtures: tuple[MixtureOperator, ...] = ()

    def __post_init__(self) -> None:
        if self.rows.kind in ("decode_attention", "decode_mla"):
            object.__setattr__(self, "operators", library_operators(self.rows, self.hardware))
        if self.rows.kind == "decode_moe":
            object.__setattr__(self, "mixtures", mixture_operators(self.rows))

    def times_s(self, kernel: DecodeKernel) -> Any:
        """Predicted seconds with these parameters."""
        hardware = replace(self.hardware, kernel=kernel)
        if self.mixtures:
            return mixture_times_s(self.mixtures, len(self.rows), hardware)
        if not self.operators:
            return gemm_times_s(self.rows, hardware)
        return fastest_s(self.operators, hardware, len(self.rows))


def with_parameters(kernel: DecodeKernel, parameters: Mapping[str, float]) -> DecodeKernel:
    """The kernel with parameters replaced; names may begin with a section: ``latent.``, ``moe.``, ``vllm.``."""
    own: dict[str, Any] = {}
    of_section: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        section, _, inner = name.rpartition(".")
        (of_section.setdefault(section, {}) if section else own)[inner] = value
    if "latent" in of_section:
        own["latent"] = {**kernel.latent, **of_section.pop("latent")}
    if "gemm" in of_section and kernel.gemm is not None:
        own["gemm"] = replace(kernel.gemm, **of_section.pop("gemm"))
    if "moe" in of_section and kernel.moe is not None:
        own["moe"] = replace(kernel.moe, **of_section.pop("moe"))
    libraries = {name: replace(library, **of_section.get(name, {})) for name, library in kernel.libraries.items()}
    return replace(kernel, **own, libraries=libraries)


def parameter_value(kernel: DecodeKernel, name: str) -> float:
    """The parameter of that name. Raises :class:`UserError` for a section that the kernel lacks."""
    section, _, inner = name.rpartition(".")
    if section == "latent":
        return float(kernel.latent.get(inner, getattr(kernel, inner)))
    holder: Any = kernel if not section else (
        getattr(kernel, section) if section in ("gemm", "moe") else kernel.libraries.get(section))
    if holder is None:
        raise UserError(f"the kernel section has no {section} parameters to start from")
    return float(getattr(holder, inner))


def fit(chips: Sequence[FitRows], free: Sequence[tuple[str, int | None]], *,
        most_evaluations: int = 25) -> list[FittedParameter]:
    """Fit parameters of several chips at once.

    Parameters
    ----------
    chips: rows and starting profiles.
    free: names, each with the number of its chip, or None where all chips scale it by one factor.
    most_evaluations: rounds of the least squares.

    Returns one entry per free parameter; a shared one states the first chip's value.
    """
    from scipy.optimize import least_squares

    kernels = [kernel_of(chip) for chip in chips]
    starts = [parameter_value(kernels[chip or 0], name) for name, chip in free]
    ceilings = [min(WIDEST, math.log(1.0 / start)) if name.rpartition(".")[2] in SHARES else WIDEST
                for (name, _), start in zip(free, starts, strict=True)]

    def residuals_of(index: int, logs: Any) -> Any:
        changed = {name: parameter_value(kernels[index], name) * math.exp(log)
                   for (name, chip), log in zip(free, logs, strict=True) if chip in (None, index)}
        return np.log(chips[index].times_s(with_parameters(kernels[index], changed)) / chips[index].rows.time_s)

    def residuals(logs: Any) -> Any:
        return np.concatenate([residuals_of(index, logs) for index in range(len(chips))])

    jacobian = _differences(chips, free, residuals_of, ceilings)
    upper = np.maximum(np.array(ceilings), 1e-6)
    result = least_squares(residuals, np.zeros(len(free)), jac=jacobian, bounds=(-WIDEST, upper), loss="soft_l1",
                           f_scale=LOSS_SCALE, max_nfev=most_evaluations, x_scale=1.0)
    half, twins = _half_widths(residuals(result.x), jacobian(result.x))
    found = []
    for (name, _), start, log, width, twin in zip(free, starts, result.x, half, twins, strict=True):
        value = start * math.exp(float(log))
        highest = 1.0 if name.rpartition(".")[2] in SHARES else math.inf
        interval = (value * math.exp(-width), min(value * math.exp(width), highest)) if width < MEANINGLESS else None
        found.append(FittedParameter(name=name, start=start, value=value, interval=interval,
                                     twin="" if twin is None else free[twin][0]))
    return found


def kernel_of(chip: FitRows) -> DecodeKernel:
    """What a fit starts from. Raises :class:`UserError` for a chip without one."""
    if chip.hardware.kernel is None:
        raise UserError(f"{chip.hardware.name} has no kernel section to calibrate")
    return chip.hardware.kernel


def _differences(chips: Sequence[FitRows], free: Sequence[tuple[str, int | None]],
                 residuals_of: Callable[[int, Any], Any], ceilings: Sequence[float]) -> Callable[[Any], Any]:
    """The Jacobian by differences: a chip's own parameters are tried on its own rows only."""
    ends = np.cumsum([0, *(len(chip.rows) for chip in chips)])

    def jacobian(logs: Any) -> Any:
        found = np.zeros((int(ends[-1]), len(free)))
        for index in range(len(chips)):
            base = residuals_of(index, logs)
            for column, (_, chip) in enumerate(free):
                if chip in (None, index):
                    step = STEP if logs[column] + STEP < ceilings[column] else -STEP
                    moved = np.array(logs, dtype=float)
                    moved[column] += step
                    found[ends[index]:ends[index + 1], column] = (residuals_of(index, moved) - base) / step
        return found

    return jacobian


def _half_widths(residual: Any, jacobian: Any) -> tuple[Any, list[int | None]]:
    """Half widths of the 5-95 % intervals of the logarithms, infinite where no row reacts; and each one's twin."""
    weight = 1.0 / np.sqrt(1.0 + (residual / LOSS_SCALE) ** 2)
    squares = jacobian.T @ (jacobian * weight[:, None])
    reacts = np.flatnonzero(np.diag(squares) > np.finfo(float).eps * len(residual))
    half = np.full(len(squares), np.inf)
    twins: list[int | None] = [None] * len(squares)
    variance = float((weight * residual**2).sum()) / max(len(residual) - len(reacts), 1)
    if len(reacts):
        covariance = np.linalg.pinv(squares[np.ix_(reacts, reacts)]) * variance
        half[reacts] = Z_INTERVAL * np.sqrt(np.maximum(np.diag(covariance), 0.0))
        together = np.abs(covariance) / np.maximum(np.outer(half[reacts], half[reacts]), 1e-300) * Z_INTERVAL**2
        np.fill_diagonal(together, 0.0)
        for one, other in enumerate(together.argmax(axis=1)):
            twins[reacts[one]] = reacts[other] if together[one, other] > CONFUSED else None
    return half, twins
