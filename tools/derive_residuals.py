"""Derive how far measured steps and head ratios lie from the engine's, by how a chip is known.

    python tools/derive_residuals.py --write   # hardware_profiles/priors/residuals.yaml
    python tools/derive_residuals.py --check   # exit 1 when that file is not what the measurements give

Rows of whole models in the accelerators' table, each under its software's structure (padding, splits, kernels) and
without its constants: what a step takes beyond the chip's own time is in the residual, as nobody knows the software of
a step that is only asked for. Quantiles over clusters (one chip and software) as in the evidence's intervals.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

REPOSITORY: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from simkit.evidence.accelerators.compare import compare_rows  # noqa: E402
from simkit.evidence.accelerators.intervals import (  # noqa: E402
    LEAST_CHIPS,
    LEAST_CLUSTERS,
    MEASURED,
    SHARES,
    coverage,
    factors,
    residuals_of,
)

OUTPUT: Final = REPOSITORY / "hardware_profiles" / "priors" / "residuals.yaml"
NAMES: Final = {"step": "step_time_s", "step ratio": "speedup_vs_mha"}
HEAD: Final = """\
# What measured steps take over the engine's time, and measured speed-ups over MHA over its own, by how a chip is known:
# factors on a prediction. Written by tools/derive_residuals.py from simkit/evidence/data/accelerators.csv.gz.
# The software's constants are in them, for nobody knows the software of a step that is only asked for.
# left_out_inside_90: of each chip's rows, the share inside 90 % bounds from other chips alone; the least and the most.
"""


def derived() -> dict[str, Any]:
    """The file's data."""
    found = compare_rows(constants=False)
    everything, covered = residuals_of(found), coverage(found)
    data: dict[str, Any] = {"schema_version": 1, "residuals": {}}
    for kind, name in NAMES.items():
        of_kind = [one for one in everything if one[1] == kind]
        groups = {"any chip": of_kind} | {how: [one for one in of_kind if one[2] == how]
                                          for how in sorted({one[2] for one in of_kind})}
        data["residuals"][name] = {}
        for how, own in groups.items():
            few = how in MEASURED and len({one[3][0] for one in own}) < LEAST_CHIPS
            rows = [one for one in of_kind if one[2] in MEASURED] if few else own
            clusters = [one[3] for one in rows]
            if len(set(clusters)) < LEAST_CLUSTERS or len({one[0] for one in clusters}) < LEAST_CHIPS:
                continue
            values = [one[4] for one in rows]
            likely = float(np.mean(factors(values, clusters, 0.0)))
            entry = {"rows": len(rows), "clusters": len(set(clusters)), "chips": len({one[0] for one in clusters}),
                     "likely": round(likely, 4)}
            for share in SHARES:
                low, high = factors(values, clusters, share)
                entry[f"within_{100 * share:.0f}"] = [round(low, 4), round(high, 4)]
            inside = [one["inside_90"] for one in covered
                      if one["kind"] == kind and how in ("any chip", one["known_by"])]
            entry["left_out_inside_90"] = [round(min(inside), 4), round(max(inside), 4)]
            data["residuals"][name][how] = entry
    return data


def main() -> int:
    """Print, write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    text = HEAD + yaml.safe_dump(derived(), sort_keys=False, default_flow_style=None, width=120)
    if given.write:
        OUTPUT.write_text(text, encoding="utf-8", newline="")
    if given.check and OUTPUT.read_text(encoding="utf-8") != text:
        print("residuals.yaml is not what the measurements give: --write")
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
