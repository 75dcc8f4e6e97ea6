"""Figures and rows as files: SVG, PDF, PNG and CSV, the same bytes on every run; and SVG fit to stand in a page."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends import _backend_pdf_ps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from simkit.foundation import output
from simkit.report.drawing.style import DARK, house_style, lay_out

PNG_DOTS_PER_INCH: Final = 300
# No dates and no program versions in the files: a rerun gives the same bytes.
_METADATA: Final[dict[str, dict[str, str | None]]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
_CANVASES: Final = {"svg": FigureCanvasSVG, "pdf": FigureCanvasPdf, "png": FigureCanvasAgg}
FORMATS: Final = tuple(_METADATA)
_CLIP: Final = re.compile(rb'<clipPath id="(p[0-9a-f]+)"')
_CLIP_USE: Final = re.compile(rb'(clipPath id="|url\(#)(p[0-9a-f]+)\b')


def figure_bytes(figure: Figure, form: str) -> bytes:
    """One figure as SVG, PDF or PNG. Call inside ``style.house_style()``."""
    stream = io.BytesIO()
    with _fonts_without_layout():
        figure.savefig(stream, format=form, metadata=_METADATA[form], dpi=PNG_DOTS_PER_INCH)
    return _with_stable_clips(stream.getvalue()) if form == "svg" else stream.getvalue()


@contextmanager
def _fonts_without_layout() -> Iterator[None]:
    """Leave tables for setting text out of the fonts that a PDF embeds: its glyphs have their places, and to cut these
    tables down takes half of the time of a PDF. Matplotlib has no word for it.
    """
    options: Any = vars(_backend_pdf_ps)["subset"].Options  # of fontTools, which Matplotlib brings
    kept = options._drop_tables_default  # noqa: SLF001 - nothing else is asked by Matplotlib's own options
    options._drop_tables_default = [*kept, "GDEF", "GPOS", "GSUB", "kern"]  # noqa: SLF001
    try:
        yield
    finally:
        options._drop_tables_default = kept  # noqa: SLF001


def _with_stable_clips(svg: bytes) -> bytes:
    """Clip paths named by their order: Matplotlib hashes coordinates whose last digits its
    layout solver does not repeat.
    """
    names = {name: b"p%d" % place for place, name in enumerate(_CLIP.findall(svg), start=1)}
    return _CLIP_USE.sub(lambda found: found[1] + names.get(found[2], found[2]), svg)


def write_figure(file: Path, draw: Callable[[], Figure], *, force: bool) -> None:
    """Draw a figure in the house's style into a file whose suffix says the form."""
    with house_style(), output.atomic_file(file, force=force) as part:
        part.write_bytes(figure_bytes(draw(), file.suffix.lower().lstrip(".")))


def save_figure(figure: Figure, folder: Path, name: str) -> bytes:
    """Write ``name.svg``, ``.pdf`` and ``.png`` into a folder; returns the SVG."""
    own_dots = figure.dpi
    # Straight to the form's canvas: savefig draws everything twice, the first time to lay it out.
    canvases = {form: canvas(figure) for form, canvas in _CANVASES.items()}
    figure.set_canvas(canvases["svg"])
    figure.set_dpi(PNG_DOTS_PER_INCH)
    lay_out(figure)
    figure.set_layout_engine("none")  # laid out once: all forms have the same places
    for form, canvas in canvases.items():
        figure.set_canvas(canvas)
        figure.set_dpi(PNG_DOTS_PER_INCH)
        with _fonts_without_layout():
            getattr(canvas, f"print_{form}")(folder / f"{name}.{form}", metadata=_METADATA[form])
    svg = _with_stable_clips((folder / f"{name}.svg").read_bytes())
    (folder / f"{name}.svg").write_bytes(svg)
    figure.set_dpi(own_dots)
    return svg


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV: every key of any row in order of appearance; what cannot be known is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return output.csv_text([dict.fromkeys(names) | plain(row) for row in rows])


def json_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as one JSON array, one row a line; what cannot be known is null."""
    lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of Python's own values: NumPy scalars unpacked, what is not finite as None."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def inline_svg(svg: bytes, *, name: str, alt: str) -> str:
    """The ``<svg>`` element alone, fit for a page: ids made its own, colours swapped by CSS, described for readers.

    ``name`` is a figure's file name (letters, digits, ``._-``); ``alt`` is escaped here.
    """
    text = svg.decode("utf-8")
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Several figures in one document must not share ids: clip paths and glyphs would be the first figure's.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{name}-\2"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for colour in DARK:
        text = text.replace(colour, f"var(--c{colour[1:]})")
    opening = re.match(r"<svg[^>]*>", text)
    box = re.search(r'viewBox="([^"]+)"', text)
    if opening is None or box is None:
        raise ValueError(f"figure {name}: not the SVG that Matplotlib writes")
    head = (f'<svg class="plot" role="img" viewBox="{box[1]}" xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink" aria-label="{escape(alt)}">')
    return head + text[opening.end():]
