"""Fit what frameworks add to attention modules: ``python -m tools.refit_layers``, with SIMKIT_REFERENCE set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.layer_rows import OVERHEADS_FILE, engine_s, layer_operators
from simkit.evidence.silicon.tables import MeasuredTimes, read_table
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from tests.reference_data import REPOSITORY, reference_path

FLOORS_S: Final = np.arange(0.0, 400e-6, 0.25e-6)
RATIOS: Final = np.arange(0.5, 6.01, 0.1)
HEAD: Final = """\
# Time that a framework adds to an attention module, and what its kernels take over the closed form's time: fitted to
# decode_sparse_attention and decode_linear_attention of NVIDIA AIConfigurator (ai-dynamo/aiconfigurator@095f58a,
# Apache-2.0) by tools/refit_layers.py. Modules are the tables' op and kernel (of a recurrence its part).
"""


def fitted_overheads(rows: MeasuredTimes, hardware: HardwareProfile) -> dict[tuple[str, str], tuple[float, float]]:
    """By framework and module, the time in seconds and the ratio of least mean absolute error, in a scan."""
    engine: dict[tuple[str, str], list[Any]] = {}
    measured: dict[tuple[str, str], list[Any]] = {}
    for where, operators, key in layer_operators(rows):
        engine.setdefault(key, []).append(engine_s(operators, hardware))
        measured.setdefault(key, []).append(rows.time_s[where])
    found = {}
    for key, parts in engine.items():
        own, time_s = np.concatenate(parts), np.concatenate(measured[key])
        most = FLOORS_S[time_s.min() * 1.2 >= FLOORS_S]
        errors = [np.abs((most[:, None] + ratio * own) / time_s - 1).mean(axis=1) for ratio in RATIOS]
        best = int(np.argmin([error.min() for error in errors]))
        found[key] = float(most[int(np.argmin(errors[best]))]), float(RATIOS[best])
    return found


def main() -> None:
    """Write the file anew from the reference tables."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for table in ("decode_sparse_attention", "decode_linear_attention"):
        rows = read_table(reference_path(f"{table}.csv.gz"))
        for system in rows.systems:
            chip = load_hardware(system)
            for (framework, module), (floor_s, ratio) in sorted(fitted_overheads(rows.of_system(system), chip).items()):
                found.setdefault(chip.name, {}).setdefault(framework, {})[module] = (
                    f"{{floor_us: {floor_s * 1e6:g}, ratio: {ratio:g}}}")
    lines = []
    for chip_name, frameworks in found.items():
        lines.append(f"{chip_name}:\n")
        for framework, modules in frameworks.items():
            lines.append(f"  {framework}:\n")
            lines += [f"    {module}: {one}\n" for module, one in modules.items()]
    path: Path = REPOSITORY / "simkit" / "evidence" / "data" / OVERHEADS_FILE
    path.write_text(HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
