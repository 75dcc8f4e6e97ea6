"""``simkit simulate``: the Cartesian product of its lists, one record a point."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles
from simkit.commands.pools import loaded_pools, pools
from simkit.foundation.errors import UserError

if TYPE_CHECKING:
    from simkit.study.simulate import Simulated

# Columns of the table, with how soon a narrow terminal may drop them (0: never).
_TABLE: Final = {
    "hardware": 0, "model": 0, "chips": 0, "tp": 5, "pp": 6, "kv_dtype": 3, "attention": 0, "n_kv_heads": 8, "batch": 0,
    "kv_len": 0, "q_len": 8, "kv_cache_bytes": 2, "step_time_s": 0, "attention_time_s": 4, "tokens_per_s": 1,
    "tokens_per_s_per_user": 5, "arithmetic_intensity": 5, "speedup_vs_mha": 0, "bound": 1, "max_batch": 6,
    "energy_j_per_token": 7, "cost_usd_per_mtok": 7,
}
_CAUSES_TABLE: Final = {
    "hardware": 0, "model": 0, "chips": 0, "kv_dtype": 3, "attention": 0, "batch": 0, "kv_len": 0, "step_time_s": 0,
    "speedup_vs_mha": 0, "gain_cache_s": 0, "gain_load_path_s": 0, "gain_kv_weights_s": 0, "gain_arithmetic_s": 0,
    "gain_launches_s": 0, "gain_links_s": 1, "gain_latency_s": 2, "gain_other_s": 4, "cache_speedup_vs_mha": 0,
}
_OWN_BATCH_TABLE: Final = {
    "hardware": 0, "model": 0, "chips": 0, "kv_dtype": 3, "attention": 0, "batch": 0, "kv_len": 0, "step_time_s": 0,
    "tokens_per_s": 2, "speedup_vs_mha": 0, "own_batch": 0, "own_batch_step_time_s": 3, "own_batch_tokens_per_s": 0,
    "own_batch_tokens_per_s_vs_mha": 0, "own_batch_tokens_per_j_vs_mha": 1, "cost_usd_per_mtok": 4,
    "own_batch_cost_usd_per_mtok": 2, "own_batch_owned_usd_per_mtok": 3, "unknown_costs": 6,
}
_BOUNDS_TABLE: Final = {
    "hardware": 0, "model": 0, "chips": 0, "attention": 0, "batch": 0, "kv_len": 0, "step_time_s": 0,
    "step_time_s_low_90": 0, "step_time_s_low_50": 2, "step_time_s_likely": 0, "step_time_s_high_50": 2,
    "step_time_s_high_90": 0, "speedup_vs_mha": 0, "speedup_vs_mha_low_90": 1, "speedup_vs_mha_high_90": 1,
}
_POOLS_TABLE: Final = {
    "hardware": 0, "model": 0, "chips": 0, "ffn_hardware": 0, "ffn_chips": 0, "kv_dtype": 3, "attention": 0, "batch": 0,
    "kv_len": 0, "micro_batches": 0, "step_time_s": 0, "attention_pool_time_s": 0, "ffn_pool_time_s": 0,
    "exchange_time_s": 0, "tokens_per_s": 1, "speedup_vs_mha": 0, "bound": 1, "max_batch": 6, "energy_j_per_token": 7,
    "cost_usd_per_mtok": 7,
}
_LIFTABLE: Final = ("hardware", "model", "chips", "tp", "pp", "kv_dtype", "n_kv_heads", "batch", "kv_len", "q_len",
                    "ffn_hardware", "ffn_chips")


@click.command()
@options.hardware()
@options.model()
@options.attention()
@options.points(batch="1")
@options.kv_dtypes
@options.weight_dtype
@pools
@options.chips_list
@options.scenario
@options.engine
@click.option("--explain", is_flag=True, help="Say what binds attention and what would move it (--engine replay).")
@click.option("--causes", is_flag=True, help="Also say what of MHA's time each layout saves, and by which cause.")
@click.option("--own-batch", is_flag=True, help="Also each layout at the largest batch that it holds on these chips.")
@click.option("--bounds", is_flag=True, help="Also where half and nine of ten measurements would lie, as records do.")
@options.profiles
@options.records
def simulate(*, hardware: list[str], model: list[str], chips: list[str | int], ffn: str | None, explain: bool,
             causes: bool, own_batch: bool, bounds: bool, profiles: Profiles, to: Destination, **asked: Any) -> None:
    """Time one decode step at every point of the lists given.

    Lists are comma lists or ranges (1k..128k*2, 0..10+1), of --chips and --set too; rows come in the order chips,
    hardware, model, KV dtype, attention, batch, context. Points that do not fit stay in the output without times, and
    a warning says what would do.

    \b
    simkit simulate -H h100-sxm -M llama-2-70b -A mha,gqa-8,mqa --batch 1,32 --kv-len 4k,32k --chips 8 --tp 8
    simkit simulate -H h100-sxm,cerebras-wse3 -A mha,gqa-8 --batch 32 --causes
    simkit simulate -H h100-sxm,groq-lpu -M llama-2-70b -A mha,gqa-8 --kv-len 4k --own-batch
    simkit simulate -H h100-sxm:8 --ffn groq-3-lpu:160 --between 400GB/s,2us -A mha,gqa-8 --weight-dtype fp8 --batch 16
    simkit simulate -H h100-sxm,groq-lpu --set overheads.kernel_launch=0s --batch 1..256*2 --format csv
    simkit simulate -H h100-sxm -A mha,gqa-8 --batch 32 --chips 8,16 --set memory.hbm.bandwidth=1TB/s..40TB/s*2
    """
    from simkit.commands.emit import emit, from_fields
    from simkit.study.columns import ASKED_FOR
    from simkit.study.simulate import simulate as timed

    hardware, second, chips = loaded_pools(profiles, hardware, ffn, chips)
    records = timed(profiles.every(hardware), model, chips=chips, ffn=second, explain=explain, causes=causes,
                    own_batch=own_batch, bounds=bounds or (ffn is None and not to.is_table), **asked)
    _tell_misfits(records)
    table = {**(_CAUSES_TABLE if causes else {}), **(_OWN_BATCH_TABLE if own_batch else {}),
             **(_BOUNDS_TABLE if bounds else {})} or (_TABLE if ffn is None else _POOLS_TABLE)
    shown = from_fields(table, _LIFTABLE, records, ASKED_FOR)
    if "attention_time_s" in shown:  # beside the layout, which is called attention too
        shown["attention_time_s"] = replace(shown["attention_time_s"], heading="attention time")
    emit(records, to, shown, footer=_what_binds(records))
    if explain:
        click.echo("\n".join(["", *records.explain()]), err=not to.is_table)


def _tell_misfits(records: Simulated) -> None:
    """Warn of what does not fit; when nothing does, that is the error."""
    from simkit.commands.console import warn

    found = records.misfits()
    if not any(record["fits"] for record in records):
        more = f"; {len(found) - 1} more combinations do not fit either" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}")
    for misfit in found[:20]:
        warn(str(misfit))
    if len(found) > 20:
        warn(f"{len(found) - 20} more combinations have points that do not fit")


def _what_binds(records: Simulated) -> str:
    """A line that says what takes most of the step, over all points."""
    counts = Counter(record["bound"] or "nothing: does not fit" for record in records)
    share = ", ".join(f"{cause} ({count})" for cause, count in counts.most_common())
    beyond = sorted({record["model"] for record in records if record["beyond_max_context"]})
    longer = f"\nlonger than the contexts that {', '.join(beyond)} was made for" if beyond else ""
    return f"what binds the step, in points: {share}{longer}"
