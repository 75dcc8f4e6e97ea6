"""``simkit evidence``: predictions beside measured data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from simkit.commands import options
from simkit.commands.lazy_group import CommandGroup
from simkit.commands.options import Destination, Profiles
from simkit.foundation.errors import UserError
from simkit.foundation.tables import Column

if TYPE_CHECKING:
    from simkit.evidence.silicon.compare import SystemComparison
    from simkit.hardware.profile import HardwareProfile

_FOOTER: Final = "errors in %; advantage: median error of the speed-up over MHA; naive: peak-rate roofline"


@click.group(cls=CommandGroup)
def evidence() -> None:
    """Predictions beside measured data."""


@evidence.command(short_help="Requests, steps, kernels and exchanges of accelerators, beside predictions.")
@options.data("A table of measurements with the shipped one's columns.")
@options.engine
@click.option("--points", is_flag=True, help="One record a row: what was assumed for it, and bounds of its value.")
@click.option("--coverage", is_flag=True, help="How often rows that were not fitted lie within other chips' bounds.")
@options.hardware(default=None)
@options.profiles
@options.records
def accelerators(*, data: Path | None, engine: str, points: bool, coverage: bool, hardware: list[str],
                 profiles: Profiles, to: Destination) -> None:
    """Requests, steps, kernels, products and exchanges: errors of times by chip and series, and of the MHA/GQA ratio.

    Errors are of times, predicted over measured less 1, as fractions; naive: bytes and flops at the vendor's peaks.
    Rows that cannot be predicted are counted with the reason. -H compares its profiles only, each with the rows of
    its name and aliases.

    \b
    simkit evidence accelerators
    simkit evidence accelerators -H gaudi2 --points --format csv
    """
    from simkit.commands.emit import emit
    from simkit.evidence.accelerators.compare import compare_rows, records
    from simkit.evidence.accelerators.intervals import coverage as covered
    from simkit.evidence.accelerators.intervals import points as of_rows
    from simkit.evidence.silicon.compare import systems_of

    load = profiles.loader()
    named = {name: chip for chip in profiles.load(hardware) for name in systems_of(chip)}

    def chips(name: str) -> HardwareProfile:
        return named.get(name) or load(name)

    # Bounds of a chip's rows come from those of all others.
    only = None if points or coverage else named or None
    found = compare_rows(data, engine=engine, only=only, chips=chips)
    if named and not any(row.chip in named for row in found.rows):
        raise UserError(f"no rows of {', '.join(hardware)}, by name or alias", hint="the table's chips: simkit "
                        "evidence accelerators without -H lists them")
    wanted = (of_rows(found, chips) if points else covered(found, chips)) if points or coverage else []
    wanted = [one for one in wanted if not named or one["chip"] in named]
    columns = {"chip": Column(liftable=True)}
    series = {"series": Column(), "quantity": Column()}
    if points:
        emit(wanted, to, columns | series | dict.fromkeys((
            "model", "chips", "batch", "prompt_tokens", "output_tokens", "kv_len", "measured", "predicted", "error"),
            Column()) | {"why": Column(optional=1)})
    elif coverage:
        emit(wanted, to, columns | {"known_by": Column("known by"), "kind": Column()} | {
            name: Column(name.replace("_", " "), optional=int("fitted" in name)) for name in (
                "rows", "inside_50", "inside_90", "low_90", "high_90", "rows_fitted", "fitted_inside_90")})
    else:
        numbers = {"rows": "rows", "mape": "MAPE", "median_ape": "median", "bias": "bias", "ratio_rows": "pairs",
                   "ratio_median_ape": "ratio", "baseline_mape": "naive MAPE", "baseline_ratio_median_ape":
                   "naive ratio", "rows_unpredicted": "unpredicted"}
        emit(records(found), to, columns | series | {
            name: Column(heading, optional=0 if name == "mape" else 1) for name, heading in numbers.items()} | {
            "why": Column(optional=2)})


@evidence.command(short_help="The DRAM event model beside cycle-accurate simulators.")
@options.data("A table of runs instead of the shipped one.")
@options.records
def dram(*, data: Path | None, to: Destination) -> None:
    """The DRAM event model beside cycle-accurate simulators: error of the achieved bandwidth, pattern by pattern."""
    from simkit.commands.emit import emit
    from simkit.evidence.dram import compare

    columns = {
        "pattern": Column(), "dram_type": Column("DRAM"), "rows": Column(), "mean_relative_error": Column("mean error"),
        "max_relative_error": Column("max error"), "rank_correlation": Column("rank correlation"),
        "cross_check_mean_relative_error": Column("cross-check mean", optional=1), "skipped": Column(optional=2),
    }
    records = compare(data)
    emit(records, to, columns, footer=_overall(records))


def _overall(records: list[dict[str, Any]]) -> str | None:
    """All rows that were replayed, in one line."""
    replayed = [record for record in records if record["rows"]]
    rows = sum(record["rows"] for record in replayed)
    if not rows:
        return None
    mean = sum(record["rows"] * record["mean_relative_error"] for record in replayed) / rows
    worst = max(record["max_relative_error"] for record in replayed)
    return f"all {rows} rows: mean error {mean:.2%}, largest {worst:.2%}"


@evidence.command(short_help="Dated predictions with bounds of steps that nobody has published, and their score.")
@options.data("Measured rows with the columns of evidence accelerators; only forecasts that they judge are shown.")
@click.option("--forecasts", "table", type=options.FILE, metavar="FILE.csv", default=None,
              help="Forecasts instead of the shipped ones.")
@options.profiles
@options.records
def forecasts(*, data: Path | None, table: Path | None, profiles: Profiles, to: Destination) -> None:
    """Predictions of steps on chips of which nobody has published any, with the bounds and digest of their day.

    With --data: the measured value, the error of the likely one, and the bound that holds it (50, 90 or none). Rows
    match by chip, model, KV heads, formats, chips, batch, and context within a tenth. state says whether today's
    profile, model, priors and residuals are still those of the day, and give the same answer.

    \b
    simkit evidence forecasts
    simkit evidence forecasts --data measured.csv --format csv
    """
    from simkit.commands.emit import emit
    from simkit.evidence.accelerators.forecasts import read_forecasts, score, summary
    from simkit.evidence.accelerators.table import read_rows

    records = score(read_forecasts(table), read_rows(data) if data else [], profiles.loader())
    footer = summary(records)
    if data:
        records = [one for one in records if one["measured"] is not None]
    columns = {name: Column(name.replace("_", " "), optional=optional, liftable=name != "attention")
               for name, optional in {"made": 3, "chip": 0, "model": 0, "attention": 0, "chips": 4}.items()}
    columns |= {"batch": Column(), "kv_len": Column(), "quantity": Column(liftable=True)}
    columns |= {name: Column(name.replace("_", " "), optional={"90": 1, "50": 2}.get(name[-2:], 0)) for name in (
        "low_90", "low_50", "likely", "high_50", "high_90", *(("measured", "error") if data else ()))}
    emit(records, to, columns | ({"inside": Column("inside %")} if data else {}) | {"state": Column(optional=2)},
         footer=footer)


@evidence.command(short_help="Numbers that papers and vendors print, beside the engines' for the same setup.")
@options.data("A table of published numbers instead of the shipped one.", "FILE.yaml")
@click.option("--only", metavar="ID", default=None, help="Rows whose id starts with this, such as groq or cs336.mha.")
@options.assume
@options.records
def published(*, data: Path | None, only: str | None, to: Destination) -> None:
    """Numbers that papers and vendors print: theirs, ours, their ratio, what was assumed, and whether it holds.

    Exact rows are arithmetic, calib rows may have been fitted, predict rows never are; shape rows keep an order, and
    plain decode must not reach the negative ones. Ratios are ours over theirs.

    \b
    simkit evidence published --only scaling-book
    """
    from simkit.commands.emit import emit
    from simkit.evidence.published import compare, summary
    from simkit.evidence.published_table import read_published
    from simkit.foundation.units import BYTES, COUNT, SECONDS, format_quantity

    records = compare(data, only=only)
    if not records:
        papers = dict.fromkeys(row.id.partition(".")[0] for row in read_published(data))
        raise UserError(f"no row's id starts with '{only}'", hint="known: " + ", ".join(papers))
    columns = {
        "id": Column("row"), "quantity": Column(optional=3), "published_text": Column("published"),
        "ours_text": Column("ours"), "ratio": Column(), "tolerance": Column(optional=1), "split": Column(),
        "verdict": Column(), "note": Column(optional=2),
    }
    assumed = {record["paper"]: record["assumptions"] for record in records}

    def text(value: float | None, unit: str) -> str | None:
        dimension = {"s": SECONDS, "B": BYTES}.get(unit, COUNT)
        return None if value is None else format_quantity(value, dimension, digits=4)

    records = [{**record, "published_text": text(record["published"], record["unit"]),
                "ours_text": text(record["ours"], record["unit"])} for record in records]
    lines = [f"{paper}\n  assumed: {assumptions}" for paper, assumptions in assumed.items()]
    emit(records, to, columns, footer="\n".join([*lines, summary(records)]))


@evidence.command(short_help="Real decode attention on this machine, beside the prediction.")
@click.option("--profile", metavar="FILE", default=None,
              help="This machine's profile (simkit calibrate host); measured now when left out.")
@click.option("--points", is_flag=True, help="One record a shape instead of errors by regime.")
@click.option("--quick", is_flag=True, help="Fewer shapes, less time.")
@options.records
def host(*, profile: str | None, points: bool, quick: bool, to: Destination) -> None:
    """Run MHA, GQA and MQA decode attention in float32 on this machine, from cache to DRAM, beside the prediction.

    The prediction is the closed-form engine's on the profile as calibrated, with caches as a looped kernel finds them.
    Nothing is fitted to attention. Errors are fractions; baseline is bytes over DRAM bandwidth. Intervals (5-95 %) draw
    the shapes anew.
    """
    from simkit.commands.emit import emit
    from simkit.evidence.host.compare import compare, compare_here, summarise
    from simkit.evidence.host.measure import QUICK_BUDGET_S, WHOLE_BUDGET_S
    from simkit.hardware.catalog import load_hardware

    budget_s = QUICK_BUDGET_S if quick else WHOLE_BUDGET_S
    if profile is None:
        click.echo("measuring this machine", err=True)
        records = compare_here(budget_s=budget_s, quick=quick)
    else:
        records = compare(load_hardware(profile), budget_s=budget_s, quick=quick)
    shapes = {
        "n_kv_heads": Column("KV heads"), "kv_len": Column("tokens"), "kv_cache_bytes": Column("cache"),
        "measured_s": Column("measured"), "predicted_s": Column("predicted"), "ape": Column("error"),
        "advantage_measured": Column("vs MHA, measured"), "advantage_predicted": Column("predicted"),
        "spread": Column(optional=1),
    }
    errors = {"profile": Column(liftable=True)} | {name: Column(name.replace("_", " ")) for name in (
        "regime", "rows", "mape", "median_ape", "median_ape_low", "median_ape_high", "p90_ape", "bias",
        "advantage_median_ape", "baseline_mape")}
    if points or to.for_people:
        emit(records, to, shapes)
    if not points:
        if to.for_people:
            click.echo()
        emit(summarise(records), to, errors)


@evidence.command(short_help="Time to first token and per token of served models, beside measured systems.")
@options.data("Measured rows: system, model, precision, framework, isl, osl, concurrency, tp, pp, attention_dp, "
              "moe_ep, ttft_ms, tpot_ms.", required=True)
@click.option("--runtime", default=None, metavar="NAME",
              help="One runtime for all rows.  [default: the calibrated one of each row's framework]")
@options.engine
@options.profiles
@options.records
def serving(*, data: Path, runtime: str | None, engine: str, profiles: Profiles, to: Destination) -> None:
    """Whole systems in a closed loop: errors of TPOT and, beside it, of TTFT, by chip, model, framework and precision.

    The last two rows are over all dense models and over all mixtures of experts.

    Errors are |predicted / measured - 1|, as fractions in CSV and JSON. Rows of models and splits that the catalogue
    does not have, or that do not fit, are counted as not compared; "over peak" counts rows, compared like the others,
    whose prompts alone need more flops a second than their chips have: they are not what their labels say.

    \b
    simkit evidence serving --data serving_tpot.csv.gz
    simkit evidence serving --data serving_tpot.csv.gz --runtime ideal
    """
    from simkit.commands.emit import emit
    from simkit.evidence.served_models import compare

    columns = {
        **dict.fromkeys(("system", "model", "framework", "precision", "rows"), Column()),
        "tpot_median_ape": Column("TPOT median error"), "tpot_mape": Column("TPOT mean error"),
        "tpot_bias": Column("TPOT bias"), "ttft_median_ape": Column("TTFT median error"),
        "not_compared": Column("not compared", optional=1), "over_peak": Column("over peak", optional=2),
    }
    emit(compare(data, runtime=runtime, engine=engine, chips=profiles.loader()), to, columns)


@evidence.command(short_help="Predicted times of kernels beside measured ones, and of the advantage over MHA.")
@options.data("Measured kernels (attention, MLA, products, mixtures, all-reduces, modules of sparse attention, "
              "recurrences, told apart by columns) instead of the shipped tables.")
@options.engine
@click.option("--target", default="best", show_default=True, metavar="NAME",
              help="best of the frameworks, sglang, trtllm or vllm.")
@click.option("--sample", type=options.Whole(min=1), default=None, metavar="N",
              help="At most N rows a system, drawn at random; the replay engine takes 200 by itself.")
@click.option("--seed", type=options.Whole(min=0), default=0, show_default=True, metavar="S",
              help="Random seed for sampling and intervals.")
@click.option("--figures", type=options.FILE, metavar="DIR", default=None,
              help="Also draw predicted_against_measured.svg and error_by_regime.svg there.")
@options.hardware(default=None)
@options.profiles
@options.records
def silicon(*, data: Path | None, engine: str, target: str, sample: int | None, seed: int, figures: Path | None,
            hardware: list[str], profiles: Profiles, to: Destination) -> None:
    """Measured kernels beside predictions: errors by system and regime, and of the advantage over MHA.

    Errors are |predicted / measured - 1|, as fractions in CSV and JSON; intervals (5-95 %) resample configurations.
    serving: at least 512 tokens and 4 sequences; beyond_cache: more bytes than twice the last on-chip cache. The
    baseline is the naive roofline at peak rates. Systems without a profile are listed with the reason; -H compares its
    profiles only, each with the rows of its name and aliases (or with all rows of a table of one system).

    \b
    simkit evidence silicon
    simkit evidence silicon --data my_kernels.csv --target vllm --format json
    """
    from simkit.commands.console import warn
    from simkit.evidence.silicon.compare import compare_systems, comparison_records

    found = compare_systems(data, engine=engine, target=target, sample=sample, seed=seed,
                            profiles=profiles.folder, overrides=profiles.overrides, chips=profiles.load(hardware))
    records = [record for one in found for record in comparison_records(one, engine=engine, target=target, seed=seed)]
    if figures is not None:
        _draw(found, figures, force=to.force)
    for record in records:
        if record["skip_reason"]:
            warn(f"{record['system']}: {record['rows']} rows skipped: {record['skip_reason']}")
    emit_errors(records, to)


def _draw(found: list[SystemComparison], folder: Path, *, force: bool) -> None:
    from simkit.report.drawing.export import write_figure
    from simkit.report.figures.error_by_regime import error_by_regime
    from simkit.report.figures.predicted_against_measured import predicted_against_measured

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"--figures {folder}: {problem.strerror}") from None
    write_figure(folder / "predicted_against_measured.svg", lambda: predicted_against_measured(found), force=force)
    if any(one.rows.kind == "decode_attention" for one in found):
        write_figure(folder / "error_by_regime.svg", lambda: error_by_regime(found), force=force)


def emit_errors(records: list[dict[str, Any]], to: Destination) -> None:
    """Errors by system and regime; in tables as percentages."""
    from simkit.commands.emit import emit
    from simkit.foundation.units import COUNT

    columns = {
        "system": Column(), "regime": Column(), "rows": Column(), "mape": Column("MAPE", COUNT),
        "mape_interval": Column("5-95 %", COUNT, optional=2), "median_ape": Column("median", COUNT),
        "median_interval": Column("5-95 %", COUNT, optional=3), "p90_ape": Column("p90", COUNT, optional=1),
        "bias": Column(dimension=COUNT, optional=1), "advantage_median_ape": Column("advantage", COUNT),
        "baseline_mape": Column("naive MAPE", COUNT), "baseline_median_ape": Column("median", COUNT, optional=1),
    }
    shown = [_for_people(record) for record in records] if to.is_table else records
    emit(shown, to, columns, footer=_FOOTER)


def _for_people(record: dict[str, Any]) -> dict[str, Any]:
    """Fractions as percentages, intervals in one cell."""
    shown = dict(record)
    for name in ("mape", "median_ape", "p90_ape", "bias", "advantage_median_ape", "baseline_mape",
                 "baseline_median_ape"):
        shown[name] = percent(record[name])
    for cell, name in (("mape_interval", "mape"), ("median_interval", "median_ape")):
        low, high = record[f"{name}_low"], record[f"{name}_high"]
        shown[cell] = None if low is None else f"{percent(low)}-{percent(high)}"
    return shown


def percent(fraction: float | None) -> str | None:
    """A fraction in per cent with one decimal."""
    return None if fraction is None else f"{100 * fraction:.1f}"


@evidence.command(short_help="Leave one chip out: a chip that nobody measured, predicted from the others.")
@options.data("Measured attention kernels or products of three systems or more instead of the shipped table.")
@click.option("--sample", type=options.Whole(min=60), default=250, show_default=True, metavar="N",
              help="Rows a chip that the fits see; all rows are scored.")
@click.option("--seed", type=options.Whole(min=0), default=0, show_default=True, metavar="S",
              help="Random seed for sampling.")
@options.profiles_folder
@options.records
def transfer(*, data: Path | None, sample: int, seed: int, profiles: str | None, to: Destination) -> None:
    """Leave one chip out: how well a chip that nobody measured is predicted from its datasheet and the others.

    For each chip of the table all kernel parameters are fitted anew on the other chips' rows (about a minute in all),
    carried over by rule, and scored on the chip's own rows.
    """
    from simkit.evidence.silicon.transfer import transfer as leave_one_out

    records = leave_one_out(data, sample=sample, seed=seed, profiles=profiles)
    emit_errors(records, to)
