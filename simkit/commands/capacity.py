"""``simkit capacity``: the largest batch and the longest context that fit."""

from __future__ import annotations

from typing import Any

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles, refuse_fit_each


@click.command()
@options.hardware()
@options.model()
@options.attention()
@options.axis("--batch", default="1", help="Sequences at which the longest context is asked for.")
@options.axis("--kv-len", default="4k", help="Context at which the largest batch is asked for.")
@options.kv_dtypes
@options.weight_dtype
@options.chips_list
@options.scenario
@options.profiles
@options.records
def capacity(*, hardware: list[str], model: list[str], chips: list[str | int], profiles: Profiles, to: Destination,
             **asked: Any) -> None:
    """The largest batch at each context and the longest context at each batch, layout by layout.

    Page rounding, reservation, the runtime's reserve, scales and replicated KV heads are counted; layouts that are
    compared share the same chips.

    \b
    simkit capacity -H h100-sxm -M llama-2-70b -A mha,gqa-8,mqa --chips 8 --kv-len 4k,32k,128k --page 16
    """
    from simkit.commands.console import warn
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT
    from simkit.study.capacity import capacities

    for one in chips:
        refuse_fit_each(one)
    found = capacities(profiles.every(hardware), model, chips=chips, **asked)
    for told in found.faults:
        warn(str(told))
    table = {
        "hardware": Column(liftable=True), "model": Column(liftable=True),
        "chips": Column(liftable=True), "kv_dtype": Column(optional=3, liftable=True),
        "attention": Column(), "batch": Column(), "kv_len": Column(),
        "max_batch": Column("max batch"), "usable_kv_len": Column("longest context", COUNT),
        "max_kv_len": Column("memory holds", COUNT, optional=1), "kv_copies": Column("copies", optional=2),
        "kv_bytes_per_sequence_per_chip": Column("KV/sequence/chip", optional=1),
        "weight_bytes_per_chip": Column("weights/chip", optional=4),
        "allocation_waste_fraction": Column("waste", optional=5),
    }
    records = [record | {key: "unlimited" for key in ("max_kv_len", "usable_kv_len") if record[key] is None}
               for record in found] if to.is_table else found
    emit(records, to, table)
