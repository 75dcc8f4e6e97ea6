"""Direct labels that do not cover each other, their points or the curves: found by trying places, cheapest first.

Deterministic: the same points give the same places, so that figures are the same bytes on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox, blended_transform_factory

from simkit.report.drawing.style import INK, PAPER, SMALL_POINTS, SOFT_INK, lay_out

_ANGLES: Final = tuple(range(0, 360, 20))
_DISTANCES_POINTS: Final = (5.6, 9.0, 15.0, 22.0, 30.0, 40.0, 52.0, 66.0)
_MARKER_POINTS: Final = 3.8
_ROUNDS: Final = 8
_LEADER_POINTS: Final = 8.0
# Costs in units of one point of distance from the marker: what is unreadable costs more than any distance.
_OVERLAP_COST: Final = 500.0
_OUTSIDE_COST: Final = 2000.0
_CURVE_COST: Final = 24.0

_LINE_POINTS: Final = 7.2
_MARGIN_SHARE: Final = 0.05  # of the width of axes, between them and the labels beside them
_LETTER_SHARE: Final = 0.0158  # of the width of axes in a figure one column wide
Coordinate = float
"""A position or distance along an axis, in that axis's own unit (or in pixels, where a docstring says so)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A text that belongs to the point (x, y) in data coordinates."""

    x: Coordinate
    y: Coordinate
    text: str
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Candidate places of one label: boxes [n, 4] (x0, y0, x1, y1), leaders [n, k, 2], distances, fixed costs [n]."""

    boxes: Any
    leaders: Any
    distance_points: Any
    fixed_cost: Any


def place_labels(axes: Axes, labels: Sequence[Label], *, avoid: Sequence[tuple[Any, Any]] = (),
                 markers: Sequence[tuple[float, float]] = ()) -> None:
    """Write each label near its point, with a thin leader where it stands apart.

    ``avoid`` are curves (x, y arrays) that text should not cross; ``markers`` are further points to keep free.
    Axis limits must be set before.
    """
    figure: Any = axes.figure
    lay_out(figure)
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72.0
    own = axes.transData.transform([(label.x, label.y) for label in labels]) if labels else np.empty((0, 2))
    obstacles = np.concatenate([own, axes.transData.transform(list(markers))]) if markers else own
    curves = [_sampled(axes, x, y) for x, y in avoid]
    scene = _Scene(frame=axes.get_window_extent(renderer), obstacles=obstacles, curves=curves, scale=scale)
    options = []
    for label, point in zip(labels, own, strict=True):
        probe = axes.text(0, 0, label.text, fontsize=SMALL_POINTS)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        options.append(_candidates(point, extent.width, extent.height, scene))
    chosen = [int(np.argmin(places.fixed_cost)) for places in options]
    for _ in range(_ROUNDS):
        before = list(chosen)
        for index, places in enumerate(options):
            others = [options[other].boxes[choice] for other, choice in enumerate(chosen) if other != index]
            chosen[index] = int(np.argmin(places.fixed_cost + _crowding_cost(places, others)))
        if chosen == before:
            break
    to_data = axes.transData.inverted()
    for label, places, choice, point in zip(labels, options, chosen, own, strict=True):
        box = places.boxes[choice]
        x, y = to_data.transform(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        axes.text(x, y, label.text, color=label.colour, fontsize=SMALL_POINTS, ha="center", va="center", zorder=6,
                  path_effects=[withStroke(linewidth=1.6, foreground=PAPER)])
        if places.distance_points[choice] > _LEADER_POINTS:
            ends = to_data.transform([point, places.leaders[choice, -1]])
            axes.plot(ends[:, 0], ends[:, 1], color=label.colour, linewidth=0.4, zorder=2, solid_capstyle="butt")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What labels must not cover, in pixels: the frame's outside, markers, and points along curves."""

    frame: Bbox
    obstacles: Any
    curves: list[Any]
    scale: float


def _sampled(axes: Axes, x: Any, y: Any) -> Any:
    points = axes.transData.transform(np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)]))
    fine = [np.linspace(start, end, max(2, int(np.hypot(*(end - start)) / 4))) for start, end in pairwise(points)]
    return np.concatenate(fine) if fine else points


def _candidates(point: Any, width: float, height: float, scene: _Scene) -> _Places:
    angles, distances = np.meshgrid(np.radians(_ANGLES), np.array(_DISTANCES_POINTS))
    angles, distances = angles.ravel(), distances.ravel()
    # The nearest point of the text box stands at `distance` from the marker, in that direction.
    reach = distances * scene.scale
    centre_x = point[0] + np.cos(angles) * (reach + width / 2)
    centre_y = point[1] + np.sin(angles) * (reach + height / 2)
    pad = scene.scale
    boxes = np.column_stack([centre_x - width / 2 - pad, centre_y - height / 2, centre_x + width / 2 + pad,
                             centre_y + height / 2])
    anchors = np.column_stack([np.clip(point[0], boxes[:, 0] + pad, boxes[:, 2] - pad),
                               np.clip(point[1], boxes[:, 1], boxes[:, 3])])
    steps = np.linspace(0.0, 1.0, 14)[2:, None]
    leaders = point[None, None, :] + steps[None] * (anchors - point)[:, None, :]
    cost = distances.copy()
    marker = _MARKER_POINTS * scene.scale
    for obstacle in scene.obstacles:
        covered = ((boxes[:, 0] - marker < obstacle[0]) & (obstacle[0] < boxes[:, 2] + marker)
                   & (boxes[:, 1] - marker < obstacle[1]) & (obstacle[1] < boxes[:, 3] + marker))
        cost += _OVERLAP_COST * covered
        if np.any(obstacle != point):
            gaps = np.hypot(leaders[..., 0] - obstacle[0], leaders[..., 1] - obstacle[1]).min(axis=1)
            cost += _CURVE_COST * (gaps < marker) * (distances > _LEADER_POINTS)
    frame = scene.frame
    outside = ((boxes[:, 0] < frame.x0) | (boxes[:, 2] > frame.x1)
               | (boxes[:, 1] < frame.y0) | (boxes[:, 3] > frame.y1))
    cost += _OUTSIDE_COST * outside
    for curve in scene.curves:
        cost += _CURVE_COST * _inside(curve[None], boxes).any(axis=1)
    return _Places(boxes=boxes, leaders=leaders, distance_points=distances, fixed_cost=cost)


def _inside(points: Any, boxes: Any) -> Any:
    """Which points [n or 1, k, 2] lie in their box [n, 4]: booleans [n, k]."""
    x, y = points[..., 0], points[..., 1]
    return ((x > boxes[:, None, 0]) & (x < boxes[:, None, 2]) & (y > boxes[:, None, 1]) & (y < boxes[:, None, 3]))


def _crowding_cost(places: _Places, others: list[Any]) -> Any:
    """The cost of covering the other labels, or of leading a line through them."""
    cost = np.zeros(len(places.boxes))
    has_leader = places.distance_points > _LEADER_POINTS
    for other in others:
        width = np.minimum(places.boxes[:, 2], other[2]) - np.maximum(places.boxes[:, 0], other[0])
        height = np.minimum(places.boxes[:, 3], other[3]) - np.maximum(places.boxes[:, 1], other[1])
        covered = (width > 0) & (height > 0)
        area = (other[2] - other[0]) * (other[3] - other[1])
        cost += covered * _OVERLAP_COST * (1 + np.maximum(width, 0) * np.maximum(height, 0) / area)
        crossed = _inside(places.leaders, np.broadcast_to(other, places.boxes.shape)).any(axis=1)
        cost += has_leader * _OVERLAP_COST / 4 * crossed
    return cost


def spread(wanted: Sequence[float], gap: Coordinate, low: Coordinate, high: Coordinate) -> list[float]:
    """Positions in the order of ``wanted``, at least ``gap`` apart, within [low, high], as near as they can be.

    >>> spread([0.0, 0.1, 5.0], 1.0, 0.0, 10.0)
    [0.0, 1.0, 5.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    # Clusters of labels that touch share their mean (pool adjacent violators).
    clusters: list[tuple[float, list[int]]] = []
    for index in order:
        clusters.append((wanted[index], [index]))
        while len(clusters) > 1:
            (first, ours), (second, theirs) = clusters[-2:]
            if second - first >= gap * (len(ours) + len(theirs)) / 2:
                break
            members = ours + theirs
            mean = (first * len(ours) + second * len(theirs)) / len(members)
            clusters[-2:] = [(mean, members)]
    result = [0.0] * len(wanted)
    floor = low
    for centre, members in clusters:
        start = max(centre - gap * (len(members) - 1) / 2, floor)
        for step, index in enumerate(members):
            result[index] = start + gap * step
        floor = start + gap * len(members)
    ceiling = high
    for index in reversed(order):
        result[index] = min(result[index], ceiling)
        ceiling = result[index] - gap
    return result


def width_of(axes: Axes, text: str) -> Coordinate:
    """The room of a small text and of the white around it, along an x-axis that starts at 0 and has its limits."""
    return _LETTER_SHARE * (len(text) + 1) * axes.get_xlim()[1]


def name_parts(axes: Axes, parts: Sequence[tuple[str, Coordinate]], *, edge: Coordinate, text_at: Coordinate) -> None:
    """Names of parts of a bar too narrow to hold them: side by side at the height ``text_at``, each with a line to its
    part's middle at ``edge``. The x-axis starts at 0 and has its limits.
    """
    room = max((width_of(axes, name) for name, _ in parts), default=0.0)
    placed = spread([middle for _, middle in parts], room, room / 2, axes.get_xlim()[1] - room / 2)
    below = text_at > edge  # bars are listed downwards
    for (name, middle), x in zip(parts, placed, strict=True):
        axes.plot([x, middle], [text_at, edge], color=SOFT_INK, linewidth=0.4, clip_on=False)
        axes.text(x, text_at + (0.04 if below else -0.04), name, ha="center", va="top" if below else "bottom",
                  fontsize=SMALL_POINTS, color=INK)


def margin_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write labels right of the axes at their points' heights, moved apart where they would touch."""
    figure: Any = axes.figure.canvas.figure  # of a part of a figure the whole
    lay_out(figure)
    frame = axes.get_window_extent(figure.canvas.get_renderer())
    heights = [float(axes.transData.transform((label.x, label.y))[1]) for label in labels]
    placed = spread(heights, _LINE_POINTS * figure.dpi / 72.0, frame.y0, frame.y1)
    mixed = blended_transform_factory(axes.transAxes, axes.transData)
    to_data = axes.transData.inverted()
    for label, height in zip(labels, placed, strict=True):
        y = float(to_data.transform((0.0, height))[1])
        axes.plot([1.0, 1.0 + _MARGIN_SHARE], [label.y, y], transform=mixed, color=label.colour, linewidth=0.5,
                  clip_on=False)
        axes.text(1.0 + _MARGIN_SHARE + 0.01, y, label.text, transform=mixed, color=label.colour, fontsize=SMALL_POINTS,
                  ha="left", va="center", clip_on=False)
