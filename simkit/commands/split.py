"""``simkit split``: which of two pools of chips does best at which part of a decode step."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any, Final

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles
from simkit.commands.pools import BETWEEN_HELP, micro_batches
from simkit.foundation.errors import UserError

MOST_POINTS: Final = 10_000


@click.command()
@options.hardware()
@options.names("--ffn", default=None, help="Second pools, NAME:N each; -H NAME:N for the first ones.")
@click.option("--between", multiple=True, default=("400GB/s,2us",), metavar="TEXT", show_default=True,
              help=f"{BETWEEN_HELP} Repeatable.")
@micro_batches
@options.model()
@options.attention()
@options.points(batch="16")
@options.kv_dtype
@options.weight_dtype
@options.scenario
@options.profiles
@options.records
def split(*, hardware: list[str], ffn: list[str], between: tuple[str, ...], model: list[str], attention: list[str],
          batch: list[int], kv_len: list[int], q_len: list[int], profiles: Profiles, to: Destination,
          **scenario: Any) -> None:
    """Try every assignment of a step's parts to two pools of chips and tell the fastest at each point.

    Parts are attention over the cache, the projections around it, feed-forward layers (or experts), the ends
    (embedding, LM head), and drafts (--speculation). Either pool may do all of it. Several pools and links are all
    combined. Times are those of the roofline engine.

    \b
    simkit split -H h100-sxm:8 --ffn groq-3-lpu:256 -A mha,gqa-8,mqa --weight-dtype fp8 --kv-len 4k..64k*4
    simkit split -H h100-sxm:8 --ffn cerebras-wse3:4 --between 100GB/s,2us --between 1TB/s,2us -A gqa-8 --batch 1,64
    """
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT, SECONDS
    from simkit.model.catalog import load_model
    from simkit.study.pool_words import split_count
    from simkit.study.split import split_records, where_attention_leaves

    pools = []
    for flag, names in (("-H", hardware), ("--ffn", ffn)):
        counted = [split_count(name) for name in names]
        if not names or any(chips is None for _, chips in counted):
            raise UserError(f"{flag}: expected pools with their numbers of chips, such as groq-3-lpu:256")
        every = profiles.every([name for name, _ in counted], of_several=True)
        pools.append([(chip, counted[place * len(counted) // len(every)][1] or 1) for place, chip in enumerate(every)])
    count = prod(map(len, (*pools, between, model, attention, batch, kv_len, q_len)))
    if count > MOST_POINTS:
        raise UserError(f"{count:,} points are more than the {MOST_POINTS:,} of one call", hint="shorten the lists")
    records: list[dict[str, Any]] = []
    for name, link in product(model, between):
        for (first, first_chips), (second, second_chips) in product(*pools):
            records += split_records(first, second, (first_chips, second_chips), load_model(name), attention,
                                     batch=batch, kv_len=kv_len, q_len=q_len, between=link, **scenario)
    if not any(record["fits"] for record in records):
        raise UserError("no assignment of any point fits on these pools", hint="give them more chips")
    liftable = ("hardware", "chips", "ffn_hardware", "ffn_chips", "between", "model", "attention", "batch")
    shown = {name: Column(dimension=COUNT if name in ("chips", "ffn_chips", "batch", "kv_len") else None,
                          liftable=name in liftable) for name in (*liftable, "kv_len")}
    shown |= {f"{part}_on": Column(part) for part in ("attention", "projections", "ffn", "ends", "draft")
              if f"{part}_on" in records[0]}
    shown |= {"micro_batches": Column("micro-batches", COUNT), "step_time_s": Column("step", SECONDS),
              "first_alone_step_time_s": Column("first alone", SECONDS),
              "second_alone_step_time_s": Column("second alone", SECONDS)}
    emit(records, to, shown, footer="\n".join(where_attention_leaves(records)))
