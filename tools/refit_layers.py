"""Fit what frameworks add to attention modules and to the kernels of prompts, and what those take of a chip.

``python -m tools.refit_layers`` writes the file of frameworks' overheads; ``... chips`` first prints the parameters of
``kernel.prefill`` and ``kernel.gemm.matrix_ratio_many_rows`` for the profiles. SIMKIT_REFERENCE names the tables.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.optimize import least_squares

from simkit.evidence.silicon.layer_rows import OVERHEADS_FILE, engine_s, fitted_to, layer_operators
from simkit.evidence.silicon.product_rows import dispatch_times_s
from simkit.evidence.silicon.tables import PROMPTS, MeasuredTimes, read_table
from simkit.hardware.catalog import load_hardware
from simkit.hardware.kernel import PREFILL_PARAMETERS, PrefillKernel
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import PromptTask
from simkit.timing.exchanges import BULK_START_S, BULK_UNIT_BYTES_PER_S
from simkit.timing.prompt_attention import prompt_attention_s
from tests.reference_data import REPOSITORY, reference_path

FLOORS_S: Final = np.arange(0.0, 400e-6, 0.25e-6)
RATIOS: Final = np.arange(0.5, 6.01, 0.1)
PROMPT_RATIOS: Final = np.arange(0.3, 6.01, 0.02)
LEAST_ROWS: Final = 20  # of a framework's kernel: those with fewer take the mean of their kind
START: Final = np.log((0.6, 0.05, 5000.0, 0.4))  # of PREFILL_PARAMETERS
BOUNDS: Final = np.log(((0.1, 1e-4, 10.0, 0.2), (1.0, 1.0, 40_000.0, 1.0)))
FLOOR_US: Final = (1.0, 30.0)  # of attention in the joint fit
MOST_RATIO: Final = 20.0
HEAD: Final = """\
# Time that a framework adds to a module, and what its kernels take over the closed form's time: fitted to
# decode_sparse_attention, decode_linear_attention, prefill_attention and prefill_gemm of NVIDIA AIConfigurator
# (ai-dynamo/aiconfigurator@095f58a, Apache-2.0) by tools/refit_layers.py, to a part of the rows of prompts. Modules are
# the tables' op and kernel (of a recurrence its part), of prompts table, kernel and format.
"""


def fitted_overheads(rows: MeasuredTimes, hardware: HardwareProfile) -> dict[tuple[str, str], tuple[float, float]]:
    """By framework and module, the time in seconds and the ratio of least mean absolute error, in a scan."""
    prompts = rows.kind in PROMPTS
    rows, ratios = (rows.take(fitted_to(rows)), PROMPT_RATIOS) if prompts else (rows, RATIOS)
    engine: dict[tuple[str, str], list[Any]] = {}
    measured: dict[tuple[str, str], list[Any]] = {}
    for where, operators, key in layer_operators(rows):
        engine.setdefault(key, []).append(engine_s(operators, hardware))
        measured.setdefault(key, []).append(rows.time_s[where])
    found = {}
    for key, parts in engine.items():
        own, time_s = np.concatenate(parts), np.concatenate(measured[key])
        if prompts and len(own) < LEAST_ROWS:
            continue
        most = FLOORS_S[time_s.min() * 1.2 >= FLOORS_S]
        errors = [np.abs((most[:, None] + ratio * own) / time_s - 1).mean(axis=1) for ratio in ratios]
        best = int(np.argmin([error.min() for error in errors]))
        found[key] = float(most[int(np.argmin(errors[best]))]), float(ratios[best])
    return found


def prefill_kernel(rows: MeasuredTimes, hardware: HardwareProfile) -> PrefillKernel:
    """The chip's parameters, fitted together with a floor and a ratio of each framework's kernel."""
    rows = rows.take(fitted_to(rows))
    parts = [(where, operators[0].prompt, key) for where, operators, key in layer_operators(rows)]
    number = np.concatenate([where for where, _, _ in parts])
    task = PromptTask(**{entry.name: np.concatenate([np.broadcast_to(getattr(one, entry.name), len(where))
                                                     for where, one, _ in parts]) for entry in fields(PromptTask)})
    names = sorted({key for _, _, key in parts})
    which = np.concatenate([np.full(len(where), names.index(key)) for where, _, key in parts])
    log_time, count, chip = np.log(rows.time_s[number]), len(names), len(PREFILL_PARAMETERS)

    def residuals(x: Any) -> Any:
        body = prompt_attention_s(task, hardware, _kernel(x[:chip]), "bf16")
        return np.log(np.exp(x[chip:][which]) * 1e-6 + np.exp(x[chip + count:][which]) * body) - log_time

    # No 16-bit kernel takes less than the chip's own parameters say, and those are no more than its peak.
    narrow = np.array([name.endswith("fp8") for _, name in names])
    low = np.concatenate([BOUNDS[0], np.full(count, np.log(FLOOR_US[0])), np.where(narrow, -np.log(MOST_RATIO), 0.0)])
    high = np.concatenate([BOUNDS[1], np.full(count, np.log(FLOOR_US[1])), np.full(count, np.log(MOST_RATIO))])
    x = least_squares(residuals, np.concatenate([START, np.full(count, np.log(8.0)), np.full(count, 0.01)]),
                      bounds=(low, high), loss="soft_l1", f_scale=0.05, max_nfev=60).x
    return _kernel(x[:chip])


def _kernel(x: Any) -> PrefillKernel:
    return PrefillKernel(**dict(zip(PREFILL_PARAMETERS, (float(value) for value in np.exp(x)), strict=True)))


def many_rows_ratio(rows: MeasuredTimes, hardware: HardwareProfile) -> float:
    """The ratio of matrix rates with which the fastest framework's bf16 products have no median error."""
    rows = rows.take(fitted_to(rows) & (rows.columns["dtype"] == "bf16"))
    assert hardware.kernel is not None  # the measured chips have one
    assert hardware.kernel.gemm is not None
    found = []
    for framework in np.unique(rows.columns["framework"]):
        own = rows.take(rows.columns["framework"] == framework)
        biases = []
        for ratio in PROMPT_RATIOS:
            gemm = replace(hardware.kernel.gemm, matrix_ratio_many_rows=float(ratio))
            chip = replace(hardware, kernel=replace(hardware.kernel, gemm=gemm))
            predicted = np.concatenate([engine_s(one, chip) for _, one, _ in layer_operators(own)])
            time_s = np.concatenate([own.time_s[where] for where, _, _ in layer_operators(own)])
            biases.append(abs(float(np.median(np.log(predicted / time_s)))))
        found.append(float(PROMPT_RATIOS[int(np.argmin(biases))]))
    return max(1.0, *found)  # larger tiles are not chosen where they are slower


def dispatch_link(rows: MeasuredTimes, hardware: HardwareProfile) -> tuple[float, float]:
    """``dispatch_launch_s`` and ``dispatch_bandwidth_bytes_per_s`` of a chip's link, by the kernels for few rows."""
    rows, link = rows.take(fitted_to(rows) & (rows.columns["mode"] == "low-latency")), hardware.scale_up
    assert link is not None  # the measured chips have one

    def residuals(x: Any) -> Any:
        own = replace(link, dispatch_launch_s=np.exp(x[0]), dispatch_bandwidth_bytes_per_s=np.exp(x[1]))
        return np.log(dispatch_times_s(rows, replace(hardware, scale_up=own)) / rows.time_s)

    launch_s, rate = np.exp(least_squares(residuals, np.log((1e-5, 3e11)), loss="soft_l1", f_scale=0.05).x)
    return float(launch_s), float(rate)


def bulk_kernels(rows: MeasuredTimes, hardware: HardwareProfile, kind: str) -> tuple[float, float]:
    """A start in seconds and a unit's bytes a second of the kernels for many rows, on a chip whose link is known."""
    rows = rows.take(fitted_to(rows) & (rows.columns["mode"] == "normal") & (rows.columns["exchange"] == kind))

    def residuals(x: Any) -> Any:
        BULK_START_S[kind], BULK_UNIT_BYTES_PER_S[kind] = np.exp(x)
        return np.log(dispatch_times_s(rows, hardware) / rows.time_s)

    start_s, rate = np.exp(least_squares(residuals, np.log((2e-5, 15e9)), loss="soft_l1", f_scale=0.05).x)
    return float(start_s), float(rate)


def print_chips() -> None:
    """Parameters of each measured chip, for its profile."""
    exchanged = read_table(reference_path("expert_dispatch.csv.gz"))
    for system in exchanged.systems:
        print(system, "dispatch_launch_s, dispatch_bandwidth_bytes_per_s:",
              dispatch_link(exchanged.of_system(system), load_hardware(system)))
    for kind in BULK_START_S:
        print(kind, "start, bytes/s of a unit:",
              bulk_kernels(exchanged.of_system("h100_sxm"), load_hardware("h100_sxm"), kind))
    attention, products = (read_table(reference_path(f"{kind}.csv.gz")) for kind in PROMPTS)
    for system in attention.systems:
        chip = load_hardware(system)
        print(chip.name, prefill_kernel(attention.of_system(system), chip),
              f"matrix_ratio_many_rows={many_rows_ratio(products.of_system(system), chip):.2f}")


def main() -> None:
    """Write the file anew from the reference tables."""
    if "chips" in sys.argv[1:]:
        return print_chips()
    found: dict[str, dict[str, dict[str, str]]] = {}
    for table in ("decode_sparse_attention", "decode_linear_attention", *PROMPTS):
        rows = read_table(reference_path(f"{table}.csv.gz"))
        for system in rows.systems:
            chip = load_hardware(system)
            for (framework, module), (floor_s, ratio) in sorted(fitted_overheads(rows.of_system(system), chip).items()):
                found.setdefault(chip.name, {}).setdefault(framework, {})[module] = (
                    f"{{floor_us: {floor_s * 1e6:g}, ratio: {ratio:.3g}}}")
    lines = []
    for chip_name, frameworks in found.items():
        lines.append(f"{chip_name}:\n")
        for framework, modules in frameworks.items():
            lines.append(f"  {framework}:\n")
            lines += [f"    {module}: {one}\n" for module, one in modules.items()]
    path: Path = REPOSITORY / "simkit" / "evidence" / "data" / OVERHEADS_FILE
    path.write_text(HEAD + "".join(lines), encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
