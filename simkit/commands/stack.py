"""``simkit stack``: cache reducers turned on one after another."""

from __future__ import annotations

from typing import Any

import click

from simkit.commands import options
from simkit.commands.options import DEFAULT_HARDWARE, DEFAULT_MODEL, Destination, Profiles, refuse_fit_each


@click.command()
@click.argument("reducers", nargs=-1, metavar="[REDUCER]...")
@click.option("-H", "--hardware", default=DEFAULT_HARDWARE, show_default=True, metavar="NAME", help="One profile.")
@click.option("-M", "--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME", help="One model.")
@options.point(kv_len="32k")
@options.chips
@options.engine
@options.profiles
@options.records
def stack(*, reducers: tuple[str, ...], hardware: str, model: str, chips: str | int, profiles: Profiles,
          to: Destination, **how: Any) -> None:
    """Turn cache reducers on one after another: what each saves in bytes and in time, and the headroom left.

    A REDUCER is a layout (mha, gqa-8, mla) or one of kv=FORMAT, weights=FORMAT, evict=RULE, speculate=..., kernel=...,
    sharding=.... All run on the same chips. Headroom 1 means that the next one saves bytes and no time.

    \b
    simkit stack -H h100-sxm mha gqa-8 kv=fp8 kv=int4 evict=streaming:4+4092 --batch 32 --kv-len 32k
    """
    from simkit.commands.emit import emit
    from simkit.foundation.errors import UserError
    from simkit.foundation.tables import Column
    from simkit.study.stacking import DEFAULT_STACK
    from simkit.study.stacking import stack as stacked

    refuse_fit_each(chips, "reducers that are compared share their chips")
    records = stacked(profiles.load([hardware]), model, reducers or DEFAULT_STACK, chips=chips, **how).to_records()
    if not any(record["fits"] for record in records):
        raise UserError(f"{model} with {reducers[0] if reducers else DEFAULT_STACK[0]} does not fit on {hardware}, "
                        "nor with any further reducer", hint="give more --chips, fewer sequences or a shorter context")
    table = {
        "hardware": Column(liftable=True), "chips": Column(liftable=True), "rung": Column("with"),
        "kv_read_bytes": Column("KV read", optional=1), "cache_saved": Column("bytes saved x"),
        "attention_time_s": Column("attention", optional=2), "attention_speedup": Column("attention x"),
        "step_time_s": Column("step"), "step_speedup": Column("step x"),
        "headroom": Column(), "attention_share": Column("share of step", optional=1),
        "bound": Column(),
    }
    emit(records, to, table)
