"""``simkit attention``: one kernel on one chip, without a model."""

from __future__ import annotations

from typing import Any, Final

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles

_TABLE: Final = {
    "hardware": 0, "kv_dtype": 3, "n_kv_heads": 0, "batch": 0, "kv_len": 0, "q_len": 8, "kv_cache_bytes": 2,
    "time_s": 0, "achieved_bytes_per_s": 1, "achieved_flop_per_s": 4, "arithmetic_intensity": 2, "speedup_vs_mha": 0,
    "bound": 0,
}
_BOUNDS: Final = dict.fromkeys(("hardware", "kv_dtype", "n_kv_heads", "batch", "kv_len", *(
    f"{of}{end}" for of in ("time_s", "speedup_vs_mha")
    for end in ("", "_low_90", "_low_50", "_likely", "_high_50", "_high_90"))), 0)
_LIFTABLE: Final = ("hardware", "kv_dtype", "batch", "kv_len", "q_len")


@click.command()
@options.hardware()
@click.option("--n-q-heads", type=options.Whole(min=1), default=64, show_default=True, help="Query heads.")
@options.axis("--n-kv-heads", default="64,8,1", help="Key/value heads; each divides the query heads.")
@click.option("--head-dim", type=options.Whole(min=1), default=128, show_default=True, help="Elements a head.")
@options.points(batch="32")
@options.kv_dtypes
@options.engine
@click.option("--cache", default="cold", show_default=True, metavar="cold|warm",
              help="What the chip's cache holds: other layers' bytes, or this kernel's, looped (--engine replay).")
@click.option("--bounds", is_flag=True, help="Where half and nine of ten measurements would lie, as records do.")
@options.profiles
@options.records
def attention(*, hardware: list[str], n_q_heads: int, head_dim: int, bounds: bool, profiles: Profiles,
              to: Destination, **asked: Any) -> None:
    """Time one attention kernel over a KV cache that a single chip holds.

    \b
    simkit attention -H h100-sxm --n-q-heads 64 --n-kv-heads 64,8,1 --head-dim 128 --batch 32 --kv-len 4096
    """
    from simkit.commands.console import warn
    from simkit.commands.emit import emit, from_fields
    from simkit.foundation.errors import UserError
    from simkit.study.single_kernel import KERNEL_FIELDS, time_attention

    records = time_attention(profiles.every(hardware), n_q_heads=n_q_heads, head_dim=head_dim, **asked).to_records()
    unfit = [record for record in records if not record["fits"]]
    if unfit:
        least = min(unfit, key=lambda record: record["kv_cache_bytes"])
        message = (f"{len(unfit)} of {len(records)} points do not fit on one chip, the smallest of them "
                   f"batch {least['batch']} x {least['kv_len']} tokens of {least['kv_dtype']}, KV heads "
                   f"{least['n_kv_heads']}, on {least['hardware']}")
        if len(unfit) == len(records):
            raise UserError(message, hint="simkit simulate spreads a whole model over several chips")
        warn(message)
    emit(records, to, from_fields(_BOUNDS if bounds else _TABLE, _LIFTABLE, records, KERNEL_FIELDS),
         title=f"{n_q_heads} query heads of {head_dim}")
