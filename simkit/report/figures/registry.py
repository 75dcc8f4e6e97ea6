"""Which module draws which kind of figure; each has ``draw(context) -> DrawnFigure``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.figures import (
    advantage_against_measured,
    advantage_heatmap,
    attention_atlas,
    bandwidth_scaling,
    both_metrics,
    concurrent_users,
    energy_cost,
    error_by_regime,
    grouping_law,
    head_copies,
    kv_capacity,
    kv_head_cost,
    predicted_against_measured,
    quality_speed,
    roofline,
    separate_causes,
    stacking,
    step_breakdown,
    tile_map,
    tp_replication,
)


def _published_figures(context: FigureContext) -> DrawnFigure:
    """Loaded when it is drawn: it runs the setups of many papers."""
    from simkit.report.figures import published_figures

    return published_figures.draw(context)


def _replay_against_roofline(context: FigureContext) -> DrawnFigure:
    """Loaded when it is drawn, as below."""
    from simkit.report.figures import replay_against_roofline

    return replay_against_roofline.draw(context)


def _stall_breakdown(context: FigureContext) -> DrawnFigure:
    """Loaded when it is drawn: the replay brings its compiler, and most reports do not need it."""
    from simkit.report.figures import stall_breakdown

    return stall_breakdown.draw(context)


def _serving_goodput(context: FigureContext) -> DrawnFigure:
    """Loaded when it is drawn: the event loop brings its compiler too."""
    from simkit.report.figures import serving_goodput

    return serving_goodput.draw(context)


FIGURES: Final[Mapping[str, Callable[[FigureContext], DrawnFigure]]] = MappingProxyType({
    "advantage_against_measured": advantage_against_measured.draw,
    "advantage_heatmap": advantage_heatmap.draw,
    "attention_atlas": attention_atlas.draw,
    "bandwidth_scaling": bandwidth_scaling.draw,
    "both_metrics": both_metrics.draw,
    "concurrent_users": concurrent_users.draw,
    "energy_cost": energy_cost.draw,
    "error_by_regime": error_by_regime.draw,
    "grouping_law": grouping_law.draw,
    "head_copies": head_copies.draw,
    "kv_capacity": kv_capacity.draw,
    "kv_head_cost": kv_head_cost.draw,
    "predicted_against_measured": predicted_against_measured.draw,
    "published_figures": _published_figures,
    "quality_speed": quality_speed.draw,
    "replay_against_roofline": _replay_against_roofline,
    "roofline": roofline.draw,
    "separate_causes": separate_causes.draw,
    "serving_goodput": _serving_goodput,
    "stacking": stacking.draw,
    "stall_breakdown": _stall_breakdown,
    "step_breakdown": step_breakdown.draw,
    "tile_map": tile_map.draw,
    "tp_replication": tp_replication.draw,
})
