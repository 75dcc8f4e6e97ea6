"""``simkit roofline``: ceilings and ridge points of chips, and where attention layouts stand under them."""

from __future__ import annotations

from typing import Any

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles
from simkit.foundation.errors import UserError


@click.command()
@options.hardware("h100-sxm,groq-lpu")
@options.model()
@options.attention()
@options.point()
@options.kv_dtype
@options.profiles
@options.records_or_figure
def roofline(*, hardware: list[str], model: list[str], profiles: Profiles, to: Destination, **point: Any) -> None:
    """Ceilings and ridge points of chips, and where attention layouts stand under them.

    Batch and context decide which memory holds the cache.

    Without -o, or with -o FILE.csv or FILE.json, the numbers behind the figure; with -o FILE.svg, .png or .pdf the
    figure itself.

    \b
    simkit roofline -H h100-sxm,mi300x,groq-lpu -A mha,gqa-8,mqa
    simkit roofline -H h100-sxm,groq-lpu -o roofline.svg
    """
    if to.figure is not None and len(model) > 1:
        raise UserError(f"a figure shows one model, and {len(model)} are named", hint="name one with -M")
    from simkit.commands.console import warn
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.report.drawing.export import write_figure
    from simkit.report.figures.registry import drawn_figure
    from simkit.study.asked import models_of

    chips = profiles.every(hardware)
    rows, assumed = [], {chip.name: chip.assumption or None for chip in chips}
    for architecture in models_of(model):
        drawn = drawn_figure("roofline", chips, architecture, **point)
        for omission in drawn.omissions:
            warn(f"{omission.chip} is left out: {omission.reason}")
        rows += [{"model": architecture.name, **row, "assumed": assumed[row["hardware"]]} for row in drawn.rows]
    if to.figure is not None:
        write_figure(to.figure, lambda: drawn.figure, force=to.force)
        click.echo(str(to.figure))
        return
    columns = {
        "hardware": Column(), "level": Column(), "holds_cache": Column("holds cache", optional=1),
        "level_bytes_per_s": Column("bandwidth", optional=2), "compute_flop_per_s": Column("compute", optional=3),
        "ridge_flop_per_byte": Column("ridge"), "model": Column(liftable=True), "attention": Column(),
        "arithmetic_intensity": Column("flop/byte"), "attainable_flop_per_s": Column("attainable"),
    }
    emit(rows, to, columns)
