"""``simkit capacity``: the largest batch and the longest context that fit."""

from __future__ import annotations

from typing import Any, Final

import click

from simkit.commands.options import (
    attention_option,
    axis_option,
    chips_options,
    destination,
    format_options,
    hardware_option,
    load_profiles,
    model_option,
    names_option,
    parse_chips,
    profile_options,
    scenario_options,
    weight_dtype_option,
)

MOST_POINTS: Final = 100_000


@click.command()
@hardware_option()
@model_option()
@attention_option()
@axis_option("--batch", default="1", help="Sequences at which the longest context is asked for.")
@axis_option("--kv-len", default="4k", help="Context at which the largest batch is asked for.")
@names_option("--kv-dtype", default="bf16", help="KV cache formats: bf16, fp8, int8, int4, int4-g128 ...")
@weight_dtype_option
@chips_options
@scenario_options
@profile_options
@format_options
def capacity(*, hardware: list[str], model: list[str], attention: list[str], batch: list[int], kv_len: list[int],
             kv_dtype: list[str], weight_dtype: str, chips: str, tp: int | None, pp: int | None,
             settings: tuple[str, ...], profiles: str | None, form: str | None, output: str | None, force: bool,
             **scenario: Any) -> None:
    """The largest batch at each context and the longest context at each batch, layout by layout.

    Page rounding, reservation, the runtime's reserve, scales and replicated KV heads are counted; layouts that are
    compared share the same chips.

    \b
    simkit capacity -H h100-sxm -M llama-2-70b -A mha,gqa-8,mqa --chips 8 --kv-len 4k,32k,128k --page 16
    """
    to = destination(form, output, force=force)
    from simkit.commands.console import Column, warn
    from simkit.commands.emit import emit
    from simkit.foundation.errors import UserError
    from simkit.foundation.units import BYTES, COUNT
    from simkit.model.catalog import load_model
    from simkit.study.capacity import capacity_grid
    from simkit.study.grid import Grid
    from simkit.study.record import to_records

    counted = parse_chips(chips)
    if counted == "fit-each":
        raise UserError("--chips fit-each: layouts that are compared share their chips here",
                        hint="use fit or a number")
    grid = Grid(hardware=load_profiles(hardware, settings, profiles), model=[load_model(name) for name in model],
                kv_dtype=kv_dtype, attention=attention, batch=batch, kv_len=kv_len, chips=counted, tp=tp, pp=pp,
                scenario={"weight_dtype": weight_dtype, **scenario})
    grid.check_size(MOST_POINTS, hint="shorten the lists, or split them over several runs")
    columns, faults = capacity_grid(grid)
    for fault in faults:
        warn(str(fault))
    records = to_records(columns)
    table = {
        "hardware": Column(heading="hardware", liftable=True), "model": Column(heading="model", liftable=True),
        "chips": Column(heading="chips", dimension=COUNT, liftable=True),
        "kv_dtype": Column(heading="kv_dtype", optional=3, liftable=True), "attention": Column(heading="attention"),
        "batch": Column(heading="batch", dimension=COUNT), "kv_len": Column(heading="kv_len", dimension=COUNT),
        "max_batch": Column(heading="max batch", dimension=COUNT),
        "usable_kv_len": Column(heading="longest context", dimension=COUNT),
        "max_kv_len": Column(heading="memory holds", dimension=COUNT, optional=1),
        "kv_copies": Column(heading="copies", dimension=COUNT, optional=2),
        "kv_bytes_per_sequence_per_chip": Column(heading="KV/sequence/chip", dimension=BYTES, optional=1),
        "weight_bytes_per_chip": Column(heading="weights/chip", dimension=BYTES, optional=4),
        "allocation_waste_fraction": Column(heading="waste", dimension=COUNT, optional=5),
    }
    if to.is_table:
        records = [record | {key: "unlimited" for key in ("max_kv_len", "usable_kv_len") if record[key] is None}
                   for record in records]
    emit(records, to, table)
