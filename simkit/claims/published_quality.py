"""Published quality of variants beside their speed; simkit predicts only the speed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from simkit.foundation.yaml_source import parse_yaml

_FILE: Final = "published_quality.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published variant against its baseline: how much faster, and what it scores relative to it."""

    comparison: str
    source: str
    what: str
    variant: str
    speedup: float
    score_points: float
    score_change_percent: float


def published_points() -> list[Published]:
    """All published variants that are shipped, without the baselines."""
    text = files("simkit.claims").joinpath("data").joinpath(_FILE).read_text(encoding="utf-8")
    points = []
    for entry in parse_yaml(text, file=_FILE).data["comparisons"]:
        variants: dict[str, dict[str, float]] = entry["variants"]
        base = variants[entry["baseline"]]
        points += [Published(
            comparison=entry["name"], source=entry["source"], what=entry["what"], variant=name,
            speedup=base["time_s"] / given["time_s"], score_points=given["score"],
            score_change_percent=100 * (given["score"] / base["score"] - 1))
            for name, given in variants.items() if name != entry["baseline"]]
    return points
