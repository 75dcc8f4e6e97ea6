"""Derive the class priors of parameters that hardware profiles leave out, each with the machines it is drawn from.

    python tools/derive_priors.py           # print the table
    python tools/derive_priors.py --write   # write hardware_profiles/priors/priors.yaml
    python tools/derive_priors.py --check   # exit 1 when that file is not what the tables and the evidence give

Reads tools/priors_evidence.yaml (quoted figures, reasoned ranges), the shipped profiles, and the measured tables in the
folder that SIMKIT_REFERENCE names, else in ../shared/reference.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import Any, Final

import yaml

REPOSITORY: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from simkit.foundation.yaml_source import load_yaml  # noqa: E402
from simkit.hardware.priors import CLASSES, class_of  # noqa: E402
from simkit.hardware.profile import HardwareProfile  # noqa: E402
from tools.prior_measurements import MODELS, TABLES, accelerator_rows, chips, inferentia2_two_models  # noqa: E402

EVIDENCE: Final = REPOSITORY / "tools" / "priors_evidence.yaml"
OUTPUT: Final = REPOSITORY / "hardware_profiles" / "priors" / "priors.yaml"
# Student's t, 95 %, by degrees of freedom: one-sided, so an interval of both sides holds 90 %.
T_95: Final = (math.inf, 6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782)
NO_MACHINE_WIDENING: Final = 1.5  # of another class's whole interval, where no machine of the class itself is known
MEASURED: Final = ("paper-measured", "calibration")
GUESSED: Final = ("estimate", "recalled")
LAUNCH: Final = "links.scale_up.collective_launch"
LAUNCH_FROM: Final = ("links.scale_up.all_reduce_floor_2", "links.scale_up.hop_latency")
# Of two figures that data sheets state.
RATIOS: Final = ("compute.vector_to_matrix_ratio", "compute.special_per_vector_flop")
KEYS_OF_MAIN: Final = ("memory.main.achievable_fraction", "memory.main.reserve_fraction")
STATED_KEYS: Final = ("compute.matrix.achievable_fraction", "overheads.kernel_launch", "overheads.layer_latency",
                      "overheads.step", "links.scale_up.latency", "links.scale_up.bandwidth",
                      "links.scale_up.achievable_fraction", "links.scale_up.collective_launch",
                      "compute.matrix.tile_rows", "compute.vector_peak", "compute.special_rate")


# From machines to a range.
def profile_key(chip: HardwareProfile, key: str) -> str:
    """The profile's own key: ``memory.main`` is named after its level."""
    return key.replace("memory.main", f"memory.{chip.main_memory.name}")


def profile_value(chip: HardwareProfile, key: str) -> tuple[float, str, str] | None:
    """Value, confidence and source where the profile states it; None where it does not."""
    if key == "compute.vector_to_matrix_ratio":
        stated = chip.provenance.get("compute.vector_peak")
        peaks = chip.compute.matrix_peak_flop_per_s
        peak = peaks.get("bf16") or peaks.get("fp16")
        vector = chip.compute.vector_peak_flop_per_s
        if stated is None or peak is None or vector is None:
            return None
        return vector / peak, MEASURED[0], f"{chip.name}.yaml: vector over 16-bit matrix peak"
    if key == "compute.special_per_vector_flop":
        vector, special = chip.compute.vector_peak_flop_per_s, chip.compute.special_ops_per_s
        return None if vector is None or special is None else (
            special / vector, MEASURED[0], f"{chip.name}.yaml: special rate over vector peak")
    stated = chip.provenance.get(profile_key(chip, key))
    if stated is None:
        return None
    values = {"memory.main.achievable_fraction": chip.main_memory.achievable_fraction,
              "compute.matrix.achievable_fraction": chip.compute.matrix_achievable_fraction}
    return values[key], stated.confidence or "", f"{chip.name}.yaml: {stated.source}"


def measured(name: str, key: str, told: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured machines of a class: quoted, off the tables, and off the profiles."""
    found = []
    for entry in told.get("measured", ()):
        if "table" in entry:
            asked = {word: value for word, value in entry.items() if word not in {"machine", "table"}}
            value, source = TABLES[entry["table"]](**asked)
            found.append({"machine": entry["machine"], "value": value, "source": source})
        else:
            found.append(dict(entry))
    if told.get("from") == "profiles":
        confident = (*MEASURED, *told.get("also", ()))
        for chip in chips().values():
            counts = class_of(chip) == name and chip.name not in told.get("skip", {}) and _states(chip, key)
            stated = profile_value(chip, key) if counts else None
            if stated and stated[1] in confident:
                found.append({"machine": chip.name, "value": stated[0], "source": stated[2]})
    return found


def _states(chip: HardwareProfile, key: str) -> bool:
    """Whether the profile's own file says so: what a sibling inherits is no second machine's figure."""
    part: Any = load_yaml(str(chip.file)).data  # keeps what it read: asked for each key of each chip
    if "extends" not in part:
        return True
    for word in key.replace("memory.main.", f"memory.{chip.main_memory.name}.").split("."):
        part = part.get(word) if isinstance(part, dict) else None
    return part is not None


class Deriver:
    """Derives the ranges of all classes, following lenders."""

    def __init__(self, evidence: dict[str, Any]) -> None:
        self.evidence = evidence
        self.done: dict[tuple[str, str], dict[str, Any] | None] = {}

    def told(self, name: str, key: str) -> dict[str, Any]:
        """What the evidence says of a parameter of a class."""
        return dict(self.evidence["classes"][name]["parameters"].get(key) or {})

    def lender(self, name: str, key: str) -> str:
        """Whose spread or interval a class borrows."""
        return str(self.told(name, key).get("lender") or self.evidence["classes"][name]["lender"])

    def range_of(self, name: str, key: str, *, asking: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """Low, central and high of a parameter, with the machines; None where nothing is known or lent."""
        if name in asking:
            return None
        if (name, key) in self.done:
            return self.done[name, key]
        told = self.told(name, key)
        if told.get("applies") is False:
            return None
        machines = measured(name, key, told)
        if "range" in told:
            low, central, high = told["range"]
            result: dict[str, Any] | None = {"low": low, "central": central, "high": high, "from": "reasoned"}
        elif key == LAUNCH:
            result = self._launch(name)
        elif machines:
            result = self._interval(name, key, [machine["value"] for machine in machines], asking)
        else:
            result = self._borrowed(name, key, asking)
        if result is not None:
            if key in RATIOS and result["from"] == "measured":
                result["from"] = "stated"  # a ratio of two data-sheet figures
            result["machines"] = len(machines)
            result["how"] = "; ".join(text for text in (result.pop("rule", ""), told.get("how", "")) if text)
            result |= {word: told[word] for word in ("not_beside", "default_beside") if word in told}
            result["measured"] = machines
        if not asking:
            self.done[name, key] = result
        return result

    def _spread(self, name: str, key: str, asking: tuple[str, ...]) -> tuple[float, float, str] | None:
        """Standard deviation and t of the nearest lender with three machines or more."""
        lender, seen = self.lender(name, key), {name, *asking}
        while lender not in seen:
            values = [math.log(one["value"]) for one in measured(lender, key, self.told(lender, key))]
            if len(values) >= 3:
                return statistics.stdev(values), T_95[min(len(values) - 1, len(T_95) - 1)], lender
            seen.add(lender)
            lender = self.lender(lender, key)
        return None

    def _interval(self, name: str, key: str, values: list[float], asking: tuple[str, ...]) -> dict[str, Any]:
        r"""Prediction interval of the next machine, 90 %: :math:`\exp(\bar z \pm t\, s \sqrt{1 + 1/n}), z = \ln x`.

        Below three machines s and t are of the lender, unless the two lie farther apart. No fraction is supposed to
        be better than the best one measured, here or at the lender.
        """
        z, n = [math.log(value) for value in values], len(values)
        spread, t, whose = statistics.stdev(z) if n > 1 else 0.0, T_95[min(n - 1, len(T_95) - 1)], name
        if n < 3:
            lent = self._spread(name, key, (*asking, name))
            if lent is None:
                spread, t, whose = max(spread, math.log(2) / 2), 2.0, "none: a factor of two"
            else:
                spread, t, whose = max(spread, lent[0]), lent[1], lent[2]
        centre, half = statistics.mean(z), t * spread * math.sqrt(1 + 1 / n)
        high = math.exp(centre + half)
        if self.evidence["parameters"][key]["transform"] == "fraction":
            lender = self.lender(name, key)
            high = min(high, max((*values, *(one["value"] for one in measured(lender, key, self.told(lender, key))))))
        rule = f"90 % prediction interval of the next machine from {n}"
        return {"low": math.exp(centre - half), "central": math.exp(centre), "high": high,
                "from": "measured" if n >= 3 else "measured, spread lent",
                "rule": rule if n >= 3 else f"{rule}, spread of {whose}"}

    def _launch(self, name: str) -> dict[str, Any] | None:
        r"""What a phase takes besides its hop: :math:`\lambda = F_2/2 - \alpha \ge 0`; an all-reduce is two phases.

        Profiles state their hop, so the range is that of the floor, at the central hop.
        """
        floor, hop = (self.range_of(name, key) for key in LAUNCH_FROM)
        if floor is None or hop is None:
            return None
        ends = {word: max(floor[word] / 2 - hop["central"], 0.0) for word in ("low", "central", "high")}
        return {**ends, "from": "derived", "rule": f"half of {LAUNCH_FROM[0]} ({floor['from']}), less the central "
                                                   f"{LAUNCH_FROM[1]} ({hop['from']}), at least 0"}

    def _borrowed(self, name: str, key: str, asking: tuple[str, ...]) -> dict[str, Any] | None:
        """The lender's whole interval, wider; a fraction's upper end stays."""
        lender = self.lender(name, key)
        lent = self.range_of(lender, key, asking=(*asking, name))
        if lent is None:
            return None
        low, central, high = (lent[word] for word in ("low", "central", "high"))
        if low > 0:
            low = central * (low / central) ** NO_MACHINE_WIDENING
            if self.evidence["parameters"][key]["transform"] != "fraction":
                high = central * (high / central) ** NO_MACHINE_WIDENING
        return {"low": low, "central": central, "high": high, "from": f"lent by {lender}",
                "rule": f"no machine of this class: interval of {lender}, {NO_MACHINE_WIDENING} times as wide"}


def stated_by_profiles() -> dict[str, Any]:
    """Of every profile: what it states with a source, what it guesses or recalls, what it leaves to a default."""
    table = {}
    for chip in sorted(chips().values(), key=lambda one: one.name):
        main = chip.main_memory.name
        keys = [profile_key(chip, key) for key in (*KEYS_OF_MAIN, *STATED_KEYS)]
        links = chip.scale_up is not None
        stated = {key: chip.provenance[key].confidence for key in keys if key in chip.provenance}
        table[chip.name] = {
            "class": class_of(chip), "main_memory": main,
            "kernel": "own" if chip.kernel_parameters and not chip.kernel_like else chip.kernel_like,
            "stated": {key: how for key, how in stated.items() if how not in GUESSED},
            "guessed": {key: how for key, how in stated.items() if how in GUESSED},
            "default": [key for key in keys if key not in stated and (links or not key.startswith("links."))]}
    return table


def derive() -> dict[str, Any]:
    """The whole file, as plain data."""
    evidence = yaml.safe_load(EVIDENCE.read_text(encoding="utf-8"))
    deriver, classes = Deriver(evidence), {}
    members: dict[str, list[str]] = {}
    for chip in chips().values():
        members.setdefault(class_of(chip), []).append(chip.name)
    for name, when, _ in CLASSES:
        parameters = {key: found for key in evidence["parameters"]
                      if (found := deriver.range_of(name, key)) is not None}
        classes[name] = {"title": evidence["classes"][name]["title"], "when": when,
                         "profiles": sorted(members.get(name, ())), "parameters": parameters}
    return _rounded({"schema_version": 1, "parameters": evidence["parameters"], "classes": classes,
                     "stated_by_profiles": stated_by_profiles(), "links": evidence["links"]})


def _rounded(value: Any) -> Any:
    """Four digits: no figure here is known better."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


HEAD: Final = """\
# Ranges for parameters that a hardware profile does not state, by class of machine. Written by tools/derive_priors.py
# from measured tables and tools/priors_evidence.yaml; edit those, not this. SI units.
# `from`: measured (three machines or more), measured with a lent spread (one or two), stated (data sheets), reasoned
# (from structure, see `how`), derived (from other ranges of the class), or lent by another class. `when` rules are
# tried in order: the first that holds.
"""


def text(data: dict[str, Any]) -> str:
    """The file's text."""
    class Dumper(yaml.SafeDumper):
        """No anchors: a reader sees every figure where it is used."""

        def ignore_aliases(self, data: Any) -> bool:
            del data
            return True
    return HEAD + yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=118,
                            default_flow_style=None)


def show(data: dict[str, Any]) -> None:
    """Print the ranges."""
    for name, one in data["classes"].items():
        print(f"\n{name}: {one['title']} ({len(one['profiles'])}: {', '.join(one['profiles'])})")
        for key, found in one["parameters"].items():
            bounds = "  ".join(f"{found[word]:<9.4g}" for word in ("low", "central", "high"))
            print(f"  {key:38} {bounds} n={found['machines']:<2} {found['from']}")
    print("\nleft to a default (guessed or recalled) by so many of", len(data["stated_by_profiles"]), "profiles:")
    for key in (*KEYS_OF_MAIN, *STATED_KEYS):
        named = [[name for name, one in data["stated_by_profiles"].items()
                  if any(profile_key(chips()[name], key) == other for other in one[group])]
                 for group in ("default", "guessed")]
        print(f"  {key:38} {len(named[0]):2} ({len(named[1])})  {', '.join(named[0][:8])}"
              f"{', ...' if len(named[0]) > 8 else ''}")
    share, layer, ids = inferentia2_two_models()
    print(f"\nInferentia2, 12 chips, {ids[0]} and {ids[1]}: {share:.3f} of HBM, {layer * 1e6:.0f} us a layer besides")
    gaudi = [row for row in accelerator_rows("argonne") if row["chip"] == "gaudi2" and row["chips"] == "8"
             and row["batch"] in {"1", "1.0"} and row["prompt_tokens"] == "1024"
             and row["model"] in {"llama-2-7b", "llama-2-70b"}]
    for row in gaudi:
        weights, layers = MODELS[row["model"]]
        step = float(row["value"]) / int(row["output_tokens"])
        rest = (step - weights / (8 * 0.78 * 2.46e12)) / layers
        print(f"Gaudi2, 8 cards, {row['id']} {row['model']}: {rest * 1e6:.0f} us a layer besides its weights")


def main() -> int:
    """Print, write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the file")
    parser.add_argument("--check", action="store_true", help="compare the file with what the tables give")
    asked = parser.parse_args()
    data = derive()
    if asked.write:
        OUTPUT.write_text(text(data), encoding="utf-8")
    if asked.check:
        same = OUTPUT.read_text(encoding="utf-8") == text(data)
        print("as derived" if same else f"{OUTPUT.name} differs from what the tables give: --write")
        return 0 if same else 1
    show(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
