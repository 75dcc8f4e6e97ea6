"""``simkit crossover``: the value of any figure at which a layout stops paying."""

from __future__ import annotations

from typing import Any, Final

import click

from simkit.commands.options import (
    attention_option,
    axis_option,
    chips_options,
    destination,
    engine_option,
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

MOST_QUESTIONS: Final = 1_000


@click.command()
@hardware_option()
@model_option()
@attention_option(default="gqa-8")
@click.option("--against", default="mha", show_default=True, metavar="LAYOUT", help="The layout compared with.")
@click.option("--below", type=float, default=1.10, show_default=True, metavar="RATIO",
              help="The advantage whose crossing is sought.")
@click.option("--vary", default=None, metavar="KEY",
              help="A figure as after --set, memory (all bandwidths together), batch, kv_len or q_len.  "
              "[default: the main memory's bandwidth]")
@click.option("--from", "start", default=None, metavar="VALUE",
              help="Where the range begins, with its unit.  [default: a hundredth of the profile's value]")
@click.option("--to", "stop", default=None, metavar="VALUE",
              help="Where it ends.  [default: a hundred times the profile's value]")
@click.option("--of", "of", type=click.Choice(["step", "attention", "cost"]), default="step", show_default=True,
              help="Whose advantage: the step's time, attention's time, or the cost of a token.")
@axis_option("--batch", default="32", help="Sequences decoded together.")
@axis_option("--kv-len", default="4k", help="Cached tokens a sequence; k is 1024.")
@axis_option("--q-len", default="1", help="Query tokens a sequence and step.")
@names_option("--kv-dtype", default="bf16", help="KV cache formats: bf16, fp8, int8, int4, int4-g128 ...")
@weight_dtype_option
@chips_options
@scenario_options
@engine_option
@profile_options
@format_options
def crossover(*, hardware: list[str], model: list[str], attention: list[str], against: str, below: float,
              vary: str | None, start: str | None, stop: str | None, of: str, batch: list[int], kv_len: list[int],
              q_len: list[int], kv_dtype: list[str], weight_dtype: str, chips: str, tp: int | None, pp: int | None,
              engine: str, settings: tuple[str, ...], profiles: str | None, form: str | None, output: str | None,
              force: bool, **scenario: Any) -> None:
    """Solve for the value at which a layout's advantage over another crosses a threshold.

    All crossings in the range are found; where there is none, the row says on which side the whole range lies.

    \b
    simkit crossover -H h100-sxm -M llama-2-70b -A gqa-8 --below 1.10 --vary memory.hbm.bandwidth
    simkit crossover -H h100-sxm,a100-sxm-80gb -M llama-2-70b -A gqa-8 --below 1.5 --vary memory
    simkit crossover -H h100-sxm,groq-lpu -A gqa-8 --below 2 --vary batch --kv-len 4k,32k
    """
    to = destination(form, output, force=force)
    from itertools import product

    from simkit.commands.emit import emit
    from simkit.foundation.errors import UserError
    from simkit.hardware.catalog import parse_overrides
    from simkit.model.catalog import load_model
    from simkit.study.crossover import crossover as solve

    axes = (hardware, model, kv_dtype, attention, batch, kv_len, q_len)
    questions = 1
    for axis in axes:
        questions *= len(axis)
    if questions > MOST_QUESTIONS:
        raise UserError(f"{questions:,} questions are more than the {MOST_QUESTIONS:,} of one call",
                        hint="shorten the lists")
    loaded = dict(zip(hardware, load_profiles(hardware, settings, profiles), strict=True))
    models = {name: load_model(name) for name in model}
    records: list[dict[str, Any]] = []
    for chip, named, dtype, layout, sequences, tokens, queries in product(*axes):
        records += solve(
            chip, models[named], attention=layout, against=against, below=below, of=of, start=start, stop=stop,
            vary=vary or f"memory.{loaded[chip].main_memory.name}.bandwidth", batch=sequences, kv_len=tokens,
            q_len=queries, chips=parse_chips(chips), tp=tp, pp=pp, engine=engine, overrides=parse_overrides(settings),
            profiles=profiles, kv_dtype=dtype, weight_dtype=weight_dtype, **scenario)
    emit(records, to, _columns(records), footer=_sentences(records))


def _columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    from simkit.commands.console import Column
    from simkit.foundation.units import COUNT

    dimension = records[0]["unit"]
    alike = all(record["unit"] == dimension for record in records)
    return {
        "hardware": Column(heading="hardware", liftable=True), "model": Column(heading="model", liftable=True),
        "kv_dtype": Column(heading="kv_dtype", optional=6, liftable=True),
        "attention": Column(heading="attention", liftable=True),
        "against": Column(heading="against", liftable=True),
        "batch": Column(heading="batch", dimension=COUNT, liftable=True),
        "kv_len": Column(heading="kv_len", dimension=COUNT, liftable=True),
        "of": Column(heading="of", optional=7, liftable=True), "vary": Column(heading="vary", liftable=True),
        "finding": Column(heading="advantage"), "below": Column(heading="ratio", dimension=COUNT, liftable=True),
        "value": Column(heading="at", dimension=dimension if alike else COUNT),
        "times_own": Column(heading="x own value", dimension=COUNT, optional=1),
        "own_advantage": Column(heading="at own value", dimension=COUNT, optional=2),
        "chips": Column(heading="chips", dimension=COUNT, optional=3), "bound": Column(heading="bound", optional=4),
        "ended_by": Column(heading="ended by", optional=3),
    }


def _sentences(records: list[dict[str, Any]]) -> str:
    """What the table cannot say: why nothing crosses, and what else the varied figure does."""
    from simkit.commands.console import cell
    from simkit.study.causes import SHARES

    said: dict[str, None] = {}
    for record in records:
        who = f"{record['attention']} against {record['against']} for {record['model']} on {record['hardware']}"
        ends = " to ".join(cell(record[end], record["unit"]) for end in ("from", "to"))
        if record["finding"] == "does not fit":
            said[f"{who}: does not fit anywhere from {ends}"] = None
        elif record["value"] is None:
            said[f"{who}: no crossing of {record['below']:g} from {ends}; the advantage is "
                 f"{record['least_advantage']:.4g} to {record['most_advantage']:.4g}"] = None
        if record["finding"] != "does not fit" and record["fitting_fraction_of_range"] < 1:
            left_out = 1 - record["fitting_fraction_of_range"]
            said[f"{who}: {left_out:.0%} of the range does not fit and was left out"] = None
        if record["ended_by"]:
            here, most = (cell(record[name], record["unit"]) for name in ("value", "most_advantage_at"))
            said[f"{who}: what takes the advantage at {record['vary']} {here} is {SHARES[record['ended_by']]}: "
                 f"{record['ended_by_share']:.0%} of the time, {record['ended_by_share_before']:.0%} at {most}"] = None
        if record["shares_bandwidth_with_weights"]:
            level = record["vary"].rpartition(".")[0]
            said[f"{record['hardware']}: weights and cache share {level}, and its bandwidth speeds both"] = None
    return "\n".join(said)
