"""``simkit crossover``: the value of any parameter at which a layout stops paying."""

from __future__ import annotations

from typing import Any, Final

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles

MOST_QUESTIONS: Final = 1_000


@click.command()
@options.hardware()
@options.model()
@options.attention(default="gqa-8")
@click.option("--against", default="mha", show_default=True, metavar="LAYOUT", help="The layout compared with.")
@click.option("--below", type=float, default=1.10, show_default=True, metavar="RATIO",
              help="The advantage whose crossing is sought.")
@click.option("--vary", default=None, metavar="KEY",
              help="A parameter as after --set, memory (all bandwidths together), batch, kv_len or q_len.  "
              "[default: the main memory's bandwidth]")
@click.option("--from", "start", default=None, metavar="VALUE",
              help="Where the range begins, with its unit.  [default: a hundredth of the profile's value]")
@click.option("--to", "stop", default=None, metavar="VALUE",
              help="Where it ends.  [default: a hundred times the profile's value]")
@click.option("--of", "of", type=click.Choice(["step", "attention", "cost"]), default="step", show_default=True,
              help="Whose advantage: the step's time, attention's time, or the cost of a token.")
@options.points(batch="32")
@options.served
@options.records
def crossover(*, hardware: list[str], model: list[str], attention: list[str], against: str, below: float,
              vary: str | None, start: str | None, stop: str | None, of: str, batch: list[int], kv_len: list[int],
              q_len: list[int], kv_dtype: list[str], weight_dtype: str, chips: str | int, tp: int | None,
              pp: int | None, engine: str, profiles: Profiles, to: Destination, **scenario: Any) -> None:
    """Solve for the value at which a layout's advantage over another crosses a threshold.

    All crossings in the range are found; where there is none, the row says on which side the whole range lies.

    \b
    simkit crossover -H h100-sxm -M llama-2-70b -A gqa-8 --below 1.10 --vary memory.hbm.bandwidth
    simkit crossover -H h100-sxm,a100-sxm-80gb -M llama-2-70b -A gqa-8 --below 1.5 --vary memory
    simkit crossover -H h100-sxm,groq-lpu -A gqa-8 --below 2 --vary batch --kv-len 4k,32k
    """
    from itertools import product

    from simkit.commands.emit import emit
    from simkit.foundation.errors import UserError
    from simkit.study.crossover import crossover as solve

    variants = profiles.variants
    axes = (hardware, list(variants), model, kv_dtype, attention, batch, kv_len, q_len)
    questions = 1
    for axis in axes:
        questions *= len(axis)
    if questions > MOST_QUESTIONS:
        raise UserError(f"{questions:,} questions are more than the {MOST_QUESTIONS:,} of one call",
                        hint="shorten the lists")
    main_of = dict(zip(product(hardware, variants), profiles.every(hardware), strict=True))
    records: list[dict[str, Any]] = []
    for chip, suffix, named, dtype, layout, sequences, tokens, queries in product(*axes):
        own = main_of[chip, suffix]
        records += [{**record, "hardware": own.name} for record in solve(
            chip, named, attention=layout, against=against, below=below, of=of, start=start, stop=stop,
            vary=vary or f"memory.{own.main_memory.name}.bandwidth", batch=sequences, kv_len=tokens,
            q_len=queries, chips=chips, tp=tp, pp=pp, engine=engine, overrides=variants[suffix],
            profiles=profiles.folder, kv_dtype=dtype, weight_dtype=weight_dtype, **scenario)]
    emit(records, to, _columns(records), footer=_sentences(records))


def _columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT

    dimension = records[0]["unit"]
    alike = all(record["unit"] == dimension for record in records)
    return {
        "hardware": Column(liftable=True), "model": Column(liftable=True),
        "kv_dtype": Column(optional=6, liftable=True), "attention": Column(liftable=True),
        "against": Column(liftable=True), "batch": Column(liftable=True),
        "kv_len": Column(liftable=True), "of": Column(optional=7, liftable=True),
        "vary": Column(liftable=True), "finding": Column("advantage"), "below": Column("ratio", liftable=True),
        "value": Column("at", dimension if alike else COUNT), "times_own": Column("x own value", optional=1),
        "own_advantage": Column("at own value", optional=2), "chips": Column(optional=3),
        "bound": Column(optional=4), "ended_by": Column("ended by", optional=3),
    }


def _sentences(records: list[dict[str, Any]]) -> str:
    """What the table cannot say: why nothing crosses, and what else the varied parameter does."""
    from simkit.foundation.tables import cell
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
