"""``simkit roofline``: ceilings and ridge points of chips, and where attention layouts stand under them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from simkit.commands.options import (
    attention_option,
    destination,
    format_options,
    hardware_option,
    load_profiles,
    model_option,
    one_value,
    profile_options,
)
from simkit.foundation.errors import UserError

if TYPE_CHECKING:
    from simkit.report.drawing.drawn_figure import DrawnFigure
    from simkit.study.study_file import FigureRequest

_FIGURE_SUFFIXES: Final = (".svg", ".png", ".pdf")


@click.command()
@hardware_option("h100-sxm,groq-lpu")
@model_option()
@attention_option()
@click.option("--batch", default="32", show_default=True, metavar="N", help="Sequences; decides where the cache lives.")
@click.option("--kv-len", default="4k", show_default=True, metavar="TOKENS",
              help="Context; decides where the cache lives.")
@click.option("--kv-dtype", default="bf16", show_default=True, metavar="NAME", help="Format of the KV cache.")
@profile_options
@format_options
def roofline(*, hardware: list[str], model: list[str], attention: list[str], batch: str, kv_len: str, kv_dtype: str,
             settings: tuple[str, ...], profiles: str | None, form: str | None, output: str | None,
             force: bool) -> None:
    """Ceilings and ridge points of chips, and where attention layouts stand under them.

    Without -o, or with -o FILE.csv or FILE.json, the numbers behind the figure; with -o FILE.svg, .png or .pdf the
    figure itself.

    \b
    simkit roofline -H h100-sxm,mi300x,groq-lpu -A mha,gqa-8,mqa
    simkit roofline -H h100-sxm,groq-lpu -o roofline.svg
    """
    from simkit.foundation.output import check_target

    drawn_to = Path(output) if output and Path(output).suffix.lower() in _FIGURE_SUFFIXES else None
    if drawn_to is not None:
        if form is not None:
            raise UserError(f"--format {form} and -o {drawn_to.name}: a figure is not a list of records",
                            hint="leave one of them out")
        if len(model) > 1:
            raise UserError(f"a figure shows one model, and {len(model)} are named", hint="name one with -M")
        check_target(drawn_to, force=force)
    to = destination(form, None if drawn_to else output, force=force)
    from simkit.commands.console import Column, warn
    from simkit.commands.emit import emit
    from simkit.foundation.units import BYTES_PER_S, COUNT, FLOP_PER_S
    from simkit.model.catalog import load_model
    from simkit.study.engines import DEFAULT
    from simkit.study.study_file import FigureRequest

    chips = tuple(load_profiles(hardware, settings, profiles))
    tokens, sequences = one_value(kv_len, "--kv-len"), one_value(batch, "--batch")
    rows, assumed = [], {chip.name: chip.assumption or None for chip in chips}
    for name in model:
        drawn = _draw(FigureRequest(
            kind="roofline", name="roofline", title=None, note=None, hardware=chips, model=load_model(name),
            layouts=tuple(attention), batch=(sequences,), kv_len=(tokens,), focus_batch=sequences, focus_kv_len=tokens,
            kv_dtype=kv_dtype, weight_dtype="bf16", chips="fit", engine=DEFAULT), drawn_to, force=force)
        for omission in drawn.omissions:
            warn(f"{omission.chip} is left out: {omission.reason}")
        rows += [{"model": load_model(name).name, **row, "assumed": assumed[row["hardware"]]} for row in drawn.rows]
    if drawn_to is not None:
        click.echo(str(drawn_to))
        return
    columns = {
        "hardware": Column(heading="hardware"), "level": Column(heading="level"),
        "holds_cache": Column(heading="holds cache", optional=1),
        "level_bytes_per_s": Column(heading="bandwidth", dimension=BYTES_PER_S),
        "compute_flop_per_s": Column(heading="compute", dimension=FLOP_PER_S),
        "ridge_flop_per_byte": Column(heading="ridge", dimension=COUNT),
        "model": Column(heading="model", liftable=True), "attention": Column(heading="attention"),
        "arithmetic_intensity": Column(heading="flop/byte", dimension=COUNT),
        "attainable_flop_per_s": Column(heading="attainable", dimension=FLOP_PER_S),
    }
    emit(rows, to, columns)


def _draw(request: FigureRequest, file: Path | None, *, force: bool) -> DrawnFigure:
    """The figure with its rows, saved when a file is named."""
    from simkit.foundation.output import atomic_file
    from simkit.report.drawing.drawn_figure import FigureContext
    from simkit.report.drawing.export import figure_bytes
    from simkit.report.drawing.style import chip_styles, house_style
    from simkit.report.figures.roofline import draw

    with house_style():
        drawn = draw(FigureContext(request=request, styles=chip_styles(request.hardware, {})))
        if file is not None:
            with atomic_file(file, force=force) as part:
                part.write_bytes(figure_bytes(drawn.figure, file.suffix.lower().lstrip(".")))
    return drawn
