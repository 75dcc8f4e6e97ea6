"""Derive how far measured steps and head ratios lie from the engine's, by how a chip is known.

    python tools/derive_residuals.py --write   # hardware_profiles/priors/residuals.yaml
    python tools/derive_residuals.py --check   # exit 1 when that file is not what the measurements give

Rows of whole models in the accelerators' table, each under its software's structure (padding, splits, kernels) and
without its constants: what a step takes beyond the chip's own time is in the residual, as nobody knows the software of
a step that is only asked for. Bounds over clusters (one chip and software) as in the evidence's intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import yaml

REPOSITORY: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from simkit.evidence.accelerators.compare import compare_rows  # noqa: E402
from simkit.evidence.accelerators.intervals import (  # noqa: E402
    SHARES,
    Missed,
    alike,
    beyond,
    coverage,
    of_gpus,
    outside,
    quantiles,
    residuals_of,
)
from simkit.evidence.silicon.compare import SHIPPED_LADDERS, SHIPPED_SPREAD, predicted_times_s  # noqa: E402
from simkit.evidence.silicon.score import advantages  # noqa: E402
from simkit.evidence.silicon.tables import shipped_table  # noqa: E402
from simkit.hardware.catalog import load_hardware  # noqa: E402
from simkit.hardware.profile import HardwareProfile  # noqa: E402
from simkit.study.likely import SHORT_S  # noqa: E402

OUTPUT: Final = REPOSITORY / "hardware_profiles" / "priors" / "residuals.yaml"
NAMES: Final = {"step": "step_time_s", "step ratio": "speedup_vs_mha"} | {
    f"{word}{kind}": f"{word}{name}" for kind, name in {
        "kernel": "kernel_time_s", "kernel ratio": "kernel_speedup_vs_mha", "product": "product_time_s",
        "exchange": "exchange_time_s"}.items() for word in ("", "short ")}
KNOWN: Final = ("measured kernels", "a measured chip like it", "tiles", "data sheet")
TABLES: Final = {"kernel": SHIPPED_SPREAD, "kernel ratio": SHIPPED_LADDERS, "product": "silicon_decode_gemm.csv",
                 "exchange": "silicon_allreduce.csv"}
# What a chip's link carries one way: NVIDIA's data sheets (NVLink 3, 4 and 5; PCIe 4.0 x16).
WIRES: Final = {"a100_sxm": "300 GB/s", "h100_sxm": "450 GB/s", "b200_sxm": "900 GB/s", "l40s": "32 GB/s"}
HOP: Final = "1 us"  # what profiles of chips whose link nobody timed state
LEVELS: Final = (np.arange(20) + 0.5) / 20
LEAST_ROWS: Final = 10
HEAD: Final = """\
# What measured steps take over the engine's time, and measured speed-ups over MHA over its own, by how a chip is known:
# factors on a prediction. Written by tools/derive_residuals.py from simkit/evidence/data/accelerators.csv.gz.
# The software's constants are in them, for nobody knows the software of a step that is only asked for.
# kernels: what predictions of four GPUs' kernels miss, from their own calibration, another's (by), a data sheet alone.
# rows: of GPU kernels, twenty equally likely values of each cluster.
# beyond: how far measured ratios go below one and above that of all bytes.
# left_out_inside_90: of each chip's rows, the share inside 90 % bounds from other chips alone; the least and the most.
"""


def gpu_kernels() -> list[dict[str, Any]]:
    """What predictions of the shipped tables of GPU kernels miss, in equally likely factors of each cluster."""
    made = []
    with TemporaryDirectory() as folder:
        def profile(name: str, extends: str, **more: Any) -> HardwareProfile:
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(
                {"schema_version": 1, "name": name, "title": name, "extends": extends, **more}))
            return load_hardware(str(Path(folder) / f"{name}.yaml"), profiles=folder)

        systems = {system: load_hardware(system) for system in shipped_table(SHIPPED_SPREAD).systems}
        for system, chip in systems.items():
            sheet = profile(f"sheet-{chip.name}", chip.name, kernel=None)
            forms = [("measured kernels", "", chip), ("data sheet", "", sheet)]
            forms += [("a measured chip like it", other.name, profile(
                f"{chip.name}-like-{other.name}", f"sheet-{chip.name}", kernel={"like": other.name}))
                for other in systems.values() if other is not chip]
            plain = yaml.safe_load((REPOSITORY / "hardware_profiles" / f"{chip.name}.yaml").read_text(encoding="utf-8"))
            link = {key: plain["links"]["scale_up"][key] for key in ("name", "topology", "max_chips")}
            link |= {name: {"value": value, "source": "data sheet and class", "confidence": "estimate"}
                     for name, value in (("bandwidth", WIRES[system]), ("latency", HOP))}
            plain["links"] = {"scale_up": link}
            (Path(folder) / "wire.yaml").write_text(yaml.safe_dump(plain | {"name": "wire", "aliases": []}))
            wire = load_hardware(str(Path(folder) / "wire.yaml"), profiles=folder)
            for kind, table in TABLES.items():
                rows = shipped_table(table).of_system(system)
                exchange = [("measured kernels", "", chip), ("data sheet", "", wire)]
                for how, by, form in exchange if kind == "exchange" else forms:
                    predicted = predicted_times_s(rows, form)
                    where = np.arange(len(rows))
                    missed = rows.time_s / predicted
                    if kind == "kernel ratio":
                        where, told = advantages(rows, rows.time_s)
                        missed = told / advantages(rows, predicted)[1]
                    short = predicted[where] < SHORT_S
                    made += [{"kind": f"{word}{kind}", "known_by": how, "chip": chip.name, "by": by,
                              "rows": int(of.sum()),
                              "factors": [round(float(one), 4) for one in np.quantile(missed[of], LEVELS)]}
                             for word, of in (("short ", short), ("", ~short)) if of.sum() >= LEAST_ROWS]
    return made


def entry_of(every: list[Missed], how: str, covered: list[float]) -> dict[str, Any]:
    """Of residuals of one kind those that stand for chips known so, or for any."""
    rows = every if how == "any chip" else alike(every, how)
    clusters = {one.cluster for one in rows}
    likely = float(np.exp(np.median([np.median([one.value for one in rows if one.cluster == of]) for of in clusters])))
    entry: dict[str, Any] = {"rows": len(rows), "clusters": len(clusters), "chips": len({chip for chip, _ in clusters}),
             "likely": round(likely, 4)}
    for share, ends in zip(SHARES, quantiles(rows), strict=True):
        entry[f"within_{100 * share:.0f}"] = [round(end, 4) for end in ends]
    return entry | ({"left_out_inside_90": [round(min(covered), 4), round(max(covered), 4)]} if covered else {})


def derived() -> dict[str, Any]:
    """The file's residuals, from measurements and the kernels that stand in it."""
    found = compare_rows(constants=False)
    everything, covered = residuals_of(found), coverage(found)
    # Of steps constants are left out, so that all rows are honest; products of a software's kernels keep theirs.
    residuals: dict[str, Any] = {}
    for kind, name in NAMES.items():
        gpus = [one for one in of_gpus() if one.kind == kind]
        of_kind = [one for one in everything if one.kind == kind and not outside(found, one)] + gpus
        residuals[name] = {}
        for how in ("any chip", *KNOWN):
            inside = [one["inside_90"] for one in covered
                      if one["kind"] == kind and how in ("any chip", one["known_by"]) and one["rows"]]
            residuals[name][how] = entry_of(of_kind, how, inside)
        if kind == "step ratio":
            residuals[name]["beyond"] = {f"within_{100 * share:.0f}": [round(end, 4) for end in ends]
                                         for share, ends in zip(SHARES, beyond(of_kind), strict=True)}
    return {"schema_version": 1, "residuals": residuals}


def main() -> int:
    """Print, write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    kernels = gpu_kernels()
    if given.write:  # the residuals are made with them
        known = yaml.safe_load(OUTPUT.read_text(encoding="utf-8"))["residuals"]
        known = {name: known.get(name, known["step_time_s"]) for name in NAMES.values()}
        OUTPUT.write_text(json.dumps({"residuals": known, "kernels": kernels}), encoding="utf-8")
    text = HEAD + yaml.safe_dump(derived(), sort_keys=False, default_flow_style=None, width=120) + "kernels:\n"
    for one in kernels:
        text += "  - " + yaml.safe_dump(one, sort_keys=False, default_flow_style=True, width=1e9)
    if given.write:
        OUTPUT.write_text(text, encoding="utf-8", newline="")
    if given.check and OUTPUT.read_text(encoding="utf-8") != text:
        print("residuals.yaml is not what the measurements give: --write")
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
