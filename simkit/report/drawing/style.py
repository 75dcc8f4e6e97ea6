"""How every figure of a page looks: one colour and marker a chip, one size, one font, the same in print and on screen.

Colours are darkened members of the Okabe-Ito and Tol palettes that stay apart for colour-blind readers and keep a
contrast of at least 3:1 on white; twelve hues cannot be told apart by everyone, so that each chip also has a marker
and a direct label. Each colour has a partner for dark pages (:data:`DARK`), which the page swaps in by CSS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

from simkit.foundation.units import COUNT, format_quantity
from simkit.hardware.profile import HardwareProfile

COLUMN_WIDTH_INCHES: Final = 3.5
TEXT_POINTS: Final = 7.0
SMALL_POINTS: Final = 6.0
PAPER: Final = "#ffffff"
INK: Final = "#1b1f24"
SOFT_INK: Final = "#6a727c"
GRID: Final = "#dde1e6"

_CHIP_COLOURS: Final = ("#0072b2", "#d55e00", "#00805c", "#b0478a", "#332288", "#8a6d00",
                        "#117733", "#882255", "#3a83ad", "#a0522d", "#5f6670", "#c2334d")
_CHIP_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "h", ">", "*")
# Chips whose colour and marker are the same on every page.
_OWN: Final = ("a100-sxm-80gb", "h100-sxm", "b200-sxm", "l40s", "mi300x", "tpu-v5e", "groq-lpu", "cerebras-wse3",
               "sambanova-sn40l", "dmatrix-corsair")
# Fills of Tol's "light" scheme: made for areas with dark text on them.
_CAUSE_COLOURS: Final = MappingProxyType({
    "kept": "#77aadd", "cache": "#77aadd", "compute": "#ee8866", "weights": "#c9ced4", "replicas": "#ffaabb",
    "links": "#eedd88", "latency": "#44bb99", "other": "#99ddff", "load_path": "#bbcc33",
})
# What the page shows instead on a dark background. Light fills stay, and so does the dark text on them.
DARK: Final = MappingProxyType({
    PAPER: "#14181d", INK: "#e8ebee", SOFT_INK: "#9aa4af", GRID: "#323941",
    "#0072b2": "#5ab0ea", "#d55e00": "#ff8f47", "#00805c": "#35c99d", "#b0478a": "#e593c6", "#332288": "#a99cf5",
    "#8a6d00": "#d9b640", "#117733": "#62bd7c", "#882255": "#dd78ab", "#3a83ad": "#86cbee", "#a0522d": "#dd9b74",
    "#5f6670": "#b4bbc4", "#c2334d": "#ff7f92",
})
BASES: Final = MappingProxyType({
    "calibrated": ("●", "calibrated on measured kernels"), "sourced": ("◐", "every parameter has a source"),
    "assumed": ("○", "some parameters are assumed")})
"""What is known of a chip, as marks of every figure tell it: the sign and its meaning."""
FILL_INK: Final = "#11151a"
"""Text on a light fill: dark on every page."""

RC: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans", "font.size": TEXT_POINTS, "axes.titlesize": TEXT_POINTS,
    "axes.labelsize": TEXT_POINTS, "xtick.labelsize": SMALL_POINTS, "ytick.labelsize": SMALL_POINTS,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 4.0, "axes.labelpad": 2.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": SOFT_INK, "axes.titlecolor": INK,
    "xtick.color": SOFT_INK, "ytick.color": SOFT_INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.facecolor": PAPER, "figure.facecolor": PAPER, "savefig.facecolor": PAPER,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.4, "axes.axisbelow": True,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.minor.size": 0.0, "ytick.minor.size": 0.0, "lines.linewidth": 1.2, "lines.markersize": 4.5,
    "hatch.linewidth": 0.5, "text.parse_math": False, "svg.fonttype": "path", "svg.hashsalt": "simkit",
    "pdf.fonttype": 42, "figure.dpi": 100.0, "axes.unicode_minus": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipStyle:
    """What one chip looks like in every figure of a page. ASICs are dashed, so that the class shows without colour.

    How full its marks are says what is known of it: :data:`BASES`.
    """

    label: str
    colour: str
    marker: str
    line: str
    basis: str = "calibrated"

    @property
    def assumed(self) -> bool:
        """Whether some of its parameters are assumed."""
        return self.basis == "assumed"

    def mark(self, size_points: float) -> dict[str, Any]:
        """Matplotlib's words for its mark, apart from the shape."""
        return {"color": self.colour, "markersize": size_points, "markeredgewidth": 0.7,
                "fillstyle": "left" if self.basis == "sourced" else "full", "markerfacecoloralt": PAPER,
                "markerfacecolor": PAPER if self.assumed else self.colour}

    @property
    def marked_label(self) -> str:
        """The label behind a small mark, for titles of panels and rows that have no marks: ``○ Groq LPU``."""
        return f"{BASES[self.basis][0]} {self.label}"


def chip_styles(chips: Iterable[HardwareProfile], labels: dict[str, str]) -> dict[str, ChipStyle]:
    """A style for each chip by profile name: that of its own on every page, of others the first ones that are free."""
    styles: dict[str, ChipStyle] = {}
    chips = list(chips)
    own = {chip.name: _OWN.index(chip.name) for chip in chips if chip.name in _OWN}
    free = [index for index in range(len(_CHIP_COLOURS)) if index not in own.values()] or list(range(len(_OWN)))
    others = iter(free * (1 + len(chips) // len(free)))
    for chip in chips:
        index = own[chip.name] if chip.name in own else next(others)
        styles[chip.name] = ChipStyle(
            label=labels.get(chip.name, chip.name), colour=_CHIP_COLOURS[index], marker=_CHIP_MARKERS[index],
            line="-" if chip.kind in ("gpu", "cpu") else "--", basis=basis_of(chip))
    return styles


def basis_of(chip: HardwareProfile) -> str:
    """What a chip's parameters rest on, a key of :data:`BASES`."""
    fitted = any(item.confidence == "calibration" for item in chip.provenance.values())
    return "assumed" if chip.assumed else "calibrated" if fitted else "sourced"


def cause_colour(cause: str) -> str:
    """The fill of a share of time, by what takes it."""
    return _CAUSE_COLOURS[cause]


DASHES: Final = ("-", "--", "-.", ":")
"""Of lines that differ in more than their colour."""
INK_DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), "-.")
"""Of layouts that are all drawn in ink."""


def hues() -> list[str]:
    """Colours that tell things apart on paper: those of the palette without inks and greys."""
    return [colour for colour in DARK if colour not in (PAPER, INK, SOFT_INK, GRID)]


@contextmanager
def house_style() -> Iterator[None]:
    """The drawing settings of this module, for the length of a ``with`` block."""
    with mpl.rc_context(RC):  # type: ignore[arg-type]  # its keys are literals, a table's are text
        yield


def new_figure(height_inches: float, *, width_inches: float = COLUMN_WIDTH_INCHES) -> Figure:
    """An empty figure one column wide, on its own Agg canvas: no window, no global state."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.02, h_pad=0.02)  # type: ignore[call-arg]
    FigureCanvasAgg(figure)
    return figure


def lay_out(figure: Figure) -> None:
    """Give axes and texts their places, without drawing anything."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def panel_grid(count: int, inches: tuple[float, float], xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    """A figure of ``count`` panels, two to a line, on shared axes; ``inches``: its height without panels, and a line's.

    Places that are left over are empty.
    """
    columns = min(count, 2) or 1
    lines = -(-count // columns) or 1
    figure = new_figure(inches[0] + inches[1] * lines)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    for place, axes in enumerate(panels[:count]):
        if place % columns == 0:
            axes.set_ylabel(ylabel)
        if place + columns >= count:
            axes.set_xlabel(xlabel)
            axes.tick_params(axis="x", labelbottom=True)  # a shared axis hides them above an empty place
    return figure, panels[:count]


def note(axes: Axes, text: str, at: tuple[Any, Any], offset_points: tuple[float, float], **how: Any) -> None:
    """A small text beside a point; ``how`` are Matplotlib's words."""
    words: dict[str, Any] = {"fontsize": SMALL_POINTS, "color": INK, **how}
    axes.annotate(text, at, xytext=offset_points, textcoords="offset points", **words)


def legend(figure: Figure, fills: Mapping[str, str], columns: int) -> None:
    """Above a figure: what its fills mean, a colour by its name."""
    figure.legend(handles=[Patch(facecolor=colour, label=name) for name, colour in fills.items()],
                  loc="outside upper center", ncols=columns, fontsize=SMALL_POINTS, frameon=False, handlelength=0.9,
                  columnspacing=0.8, handletextpad=0.3)


def layout_name(layout: str) -> str:
    """A layout as figures write it: MHA, GQA-8, MQA, as trained."""
    return "as trained" if layout == "as-trained" else layout.upper()


def tokens(value: float) -> str:
    """A context or batch as people say it: 512, 4k, 128k, 1M (powers of 1024).

    >>> tokens(131072), tokens(512), tokens(3000)
    ('128k', '512', '3000')
    """
    for size, name in ((1024**2, "M"), (1024, "k")):
        if value >= size and value % size == 0:
            return f"{value / size:.0f}{name}"
    return f"{value:.0f}"


def times(value: float) -> str:
    """A ratio with its sign, to what can be read off: 7.96x is '8.0×', 36.7x is '37×'.

    >>> times(7.96), times(36.7), times(1.004), times(0.0031)
    ('8.0×', '37×', '1.00×', '0.0031×')
    """
    if value < 0.1:
        return f"{value:.2g}×"
    return f"{value:.0f}×" if value >= 9.95 else f"{value:.1f}×" if value >= 1.995 else f"{value:.2f}×"


def count(value: float) -> str:
    """A whole number with thousands apart: 10,440."""
    return f"{value:,.0f}"


def chips_words(chips: float) -> str:
    """A number of chips in words: 1 chip, 8 chips."""
    return f"{count(chips)} chip{'s' if chips > 1 else ''}"


def log_ticks(axes: Axes, which: str, values: Iterable[float], texts: Iterable[str] | None = None) -> None:
    """A logarithmic axis with ticks at the given values only."""
    places = list(values)
    names = list(texts) if texts is not None else [f"{value:g}" for value in places]
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter(names))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def decade_axis(axes: Axes, which: str, unit: str = COUNT) -> None:
    """A logarithmic axis with a tick every decade, written with SI prefixes."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(base=10.0, numticks=30))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(
        lambda value, _: f"{value:g}" if unit == COUNT else format_quantity(value, unit)))


def round_ticks(low: float, high: float, steps: Sequence[float] = (1, 2, 5)) -> list[float]:
    """Round numbers from ``low`` to ``high``: these steps of each decade.

    >>> round_ticks(0.5, 10.0)
    [0.5, 1.0, 2.0, 5.0, 10.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]


def ratio_ticks(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis of ratios with a tick every doubling from ``low`` to ``high``: 1/2×, 1×, 2×."""
    ticks = [2.0**power for power in range(-6, 14) if low <= 2.0**power <= high]
    log_ticks(axes, which, ticks, [f"{tick:g}×" if tick >= 1 else f"1/{1 / tick:g}×" for tick in ticks])
