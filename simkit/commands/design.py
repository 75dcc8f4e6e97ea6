"""``simkit design``: hypothetical chips, and which of them serves a load best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles
from simkit.commands.sweep import destination, write_points
from simkit.foundation.errors import UserError
from simkit.foundation.units import COUNT, USD, WATTS

if TYPE_CHECKING:
    from simkit.commands.console import Column
    from simkit.study.grid import Grid

_LOAD: Final = {"hardware": 0, "model": 0, "kv_dtype": 3, "batch": 0, "kv_len": 0, "q_len": 8}
_BEST: Final = {
    "chips": 0, "tokens_per_s": 0, "tokens_per_s_per_user": 3, "mm2": 0, "power_w": 0, "price_usd": 1,
    "tokens_per_s_per_mm2": 1, "tokens_per_s_per_w": 1, "tokens_per_s_per_usd": 2, "bound": 2,
}
_EVERY: Final = (
    "hardware", "model", "attention", "kv_dtype", "batch", "kv_len", "q_len", "chips", "tp", "pp", "fits",
    "step_time_s", "attention_time_s", "tokens_per_s", "tokens_per_s_per_user", "energy_j_per_token", "bound")
_LIFTABLE: Final = (*_LOAD, "chips", "attention", "against")


@click.command()
@options.hardware()
@options.model()
@options.attention()
@options.points(batch="32")
@options.kv_dtypes
@options.weight_dtype
@options.chips
@options.scenario
@options.engine
@options.profiles
@click.option("--node", default=None, metavar="NAME",
              help="Process: n16, n7, n5, n3 or n2.  [default: that of the chip's published die]")
@options.counted("--sample", help="Quasi-random designs instead of every combination, such as 1M.")
@click.option("--budget-mm2", type=click.FloatRange(min=0, min_open=True), default=None, metavar="MM2",
              help="At most so much silicon a chip.")
@options.quantity("--budget-watts", dimension=WATTS, help="At most so many watts a chip.")
@options.quantity("--budget-usd", dimension=USD, help="At most such a price of a chip.")
@click.option("--front", is_flag=True, help="The Pareto front instead: tokens/s against silicon.")
@click.option("--elasticities", is_flag=True, help="What a per cent of each figure of the base chip moves instead.")
@click.option("--nearest", is_flag=True, help="The nearest chip at which an advantage crosses --below instead.")
@click.option("--against", default="mha", show_default=True, metavar="LAYOUT", help="The layout compared with.")
@click.option("--below", type=click.FloatRange(min=0, min_open=True), default=1.10, show_default=True, metavar="RATIO",
              help="The advantage whose crossing is sought, and drawn.")
@click.option("--of", "of", type=click.Choice(["step", "attention"]), default="step", show_default=True,
              help="Whose advantage: the step's time, or attention's.")
@click.option("--check-model", is_flag=True, help="Published dies and power limits beside the model's instead.")
@click.option("--every", default=None, metavar="FILE", help="Every design into a .parquet or .csv file instead.")
@destination
@options.records_or_figure
@click.pass_context
def design(ctx: click.Context, /, *, profiles: Profiles, node: str | None, sample: float | None, front: bool,
           elasticities: bool, nearest: bool, against: str, below: float, of: str, check_model: bool,
           every: str | None, resume: bool, workers: int | None, cluster: str | None, to: Destination,
           **words: Any) -> None:
    """Find the best of hypothetical chips: ranges of --set on the chips of -H.

    For each load, the designs with most tokens/s a mm2, watt and dollar; silicon, watts and prices are modelled
    (--check-model). -o FILE.svg draws lines of equal advantage over two figures, or with --front the Pareto front.
    A sample needs no steps: --set memory.hbm.bandwidth=1TB/s..40TB/s --sample 1M.

    \b
    simkit design -H h100-sxm -M llama-3.1-8b --set memory.hbm.bandwidth=1TB/s..16TB/s*2 --budget-mm2 900
    simkit design -H h100-sxm -M llama-3.1-8b -A gqa-8 --elasticities
    simkit design -H h100-sxm -M llama-2-70b -A gqa-8 --chips 8 --nearest --below 1.8 \
--set memory.hbm.bandwidth=1TB/s..100TB/s --set overheads.kernel_launch=0.1us..100us
    simkit design --check-model
    """
    from simkit.commands.console import Column
    from simkit.commands.emit import emit, from_fields
    from simkit.study.design_answers import best_designs, nearest_chips, one_by_one
    from simkit.study.design_answers import elasticities as moved
    from simkit.study.designs import DESIGN_FIELDS
    from simkit.study.record import FIELDS

    if check_model:
        _emit_check(to)
        return
    if nearest or of != "step":
        words["attention"] = [*(name for name in words["attention"] if name != against), against]
    grid = _grid(profiles, node, None if sample is None else int(sample), words,
                 open_ranges=nearest or elasticities or (to.figure is not None and not front))
    axes = grid.designs.axes if grid.designs is not None else ()
    if not axes and not elasticities:
        raise UserError("a design has figures to choose: give ranges",
                        hint="such as --set memory.hbm.bandwidth=1TB/s..40TB/s*2")
    keys = {axis.key: Column(axis.key, axis.dimension) for axis in axes}
    load = {name: Column(dimension=FIELDS[name].dimension, optional=drop, liftable=True)
            for name, drop in _LOAD.items()}
    budget = {name: value for name, value in (("mm2", words["budget_mm2"]), ("power_w", words["budget_watts"]),
                                              ("price_usd", words["budget_usd"])) if value is not None}
    if every is not None:
        write_points(ctx, replace(grid, fields=_EVERY, baseline=False), every, resume=resume, force=to.force,
                     workers=workers, cluster=cluster)
    elif to.figure is not None:
        from simkit.report.drawing.export import write_figure
        from simkit.report.figures.design_map import draw_designs

        write_figure(to.figure, lambda: draw_designs(grid, against, below, of, budget if front else None),
                     force=to.force)
    elif elasticities:
        emit(moved(grid), to, {**load, "attention": Column(liftable=True), "key": Column(), **{
            name: Column(heading, COUNT) for name, heading in (
                ("elasticity", "tok/s"), ("elasticity_below", "below"), ("elasticity_above", "above"),
                ("mm2_elasticity", "mm2"), ("power_elasticity", "watts"))}},
             footer="per cent that one per cent more of a figure moves; below, above: on either side of its value")
    elif nearest:
        records = [{**record, "attention": layout} for layout in words["attention"][:-1] for one in one_by_one(grid)
                   for record in nearest_chips(replace(one, attention=(layout, against)), below, of)]
        shown = [record for record in records if not to.is_table or record["kind"] != "surface"]
        emit(shown, to, {**load, "attention": Column(liftable=True), "against": Column(liftable=True), "kind": Column(),
                         **keys, "log_distance": Column("distance", COUNT), "own_advantage": Column("own ratio", COUNT),
                         **from_fields({"mm2": 2, "power_w": 2, "price_usd": 3}, (), shown, DESIGN_FIELDS)},
             footer=_nearest_words(shown))
    else:
        line = _progress(len(grid))
        records = best_designs(grid, budget, front=front, tell=line)
        emit(records, to, {**load, "attention": Column(liftable=True), "best_per": Column("most tok/s per"), **keys,
                           **from_fields(_BEST, _LIFTABLE, records, {**FIELDS, **DESIGN_FIELDS}),
                           "designs_within_budget": Column("allowed", COUNT, optional=6)},
             footer="\n".join(_models(grid)))


def _grid(profiles: Profiles, node: str | None, sample: int | None, words: dict[str, Any], *,
          open_ranges: bool) -> Grid:
    """The points that are asked for; ``open_ranges``: ends without a step will do."""
    from simkit.hardware.catalog import parse_overrides
    from simkit.hardware.priors import assumption
    from simkit.model.catalog import load_model
    from simkit.study.designs import Base, DesignSpace, is_range, read_axis
    from simkit.study.grid import Grid

    given = parse_overrides(profiles.settings)
    fixed = tuple((key, text) for key, text in given.items() if not is_range(text))
    bases = [Base(name=name, overrides=fixed, folder=profiles.folder, node=node, assume=assumption())
             for name in words["hardware"]]
    for base in bases:
        base.silicon()
    axes = [[read_axis(key, text, base.load()) for key, text in given.items() if is_range(text)] for base in bases]
    space = DesignSpace(bases=bases, axes=axes[0], sample=sample)
    if not open_ranges:
        space.check()
    grid_words = ("attention", "kv_dtype", "batch", "kv_len", "q_len", "chips", "tp", "pp", "engine")
    known = {*grid_words, "hardware", "model", "budget_mm2", "budget_watts", "budget_usd"}
    grid = Grid(hardware=[base.load() for base in bases], model=[load_model(name) for name in words["model"]],
                designs=space, scenario={name: value for name, value in words.items() if name not in known},
                **{name: words[name] for name in grid_words})
    grid.check_layouts()
    return grid


def _progress(points: int) -> Any:
    from time import monotonic

    from simkit.commands.console import ProgressLine

    line, began = ProgressLine("designs"), monotonic()
    return lambda done: line(done=done, of=points, kept=0, elapsed_s=monotonic() - began)


def _models(grid: Grid) -> list[str]:
    """What silicon, watts and prices rest on, chip by chip."""
    said = []
    for base, chip in zip(grid.designs.bases if grid.designs else (), grid.hardware, strict=True):
        own = base.silicon().own_mm2
        said.append(f"{chip.name}: silicon of its published {own:g} mm2 and what changes of it" if own else
                    f"{chip.name}: no die is published; silicon by the range of others (--check-model)")
        if chip.price.purchase_usd is None:
            said.append(f"{chip.name}: no price, ranked by silicon and watts (--set price.purchase=... states one)")
    return said


def _nearest_words(records: Sequence[dict[str, Any]]) -> str:
    return "\n".join(f"{one['hardware']}: no chip in the ranges at which {one['attention']} has {one['below']:g} of "
                     f"{one['against']}; its own has {one['own_advantage']:.4g}"
                     for one in records if one["kind"] == "none") or (
        "distance: in natural logarithms of all figures together; JSON and CSV have the surface around")


def _emit_check(to: Destination) -> None:
    from simkit.commands.console import Column
    from simkit.commands.emit import emit
    from simkit.hardware.silicon import checked_dies, typical_factor

    records = checked_dies()
    columns: dict[str, Column] = {"hardware": Column(), "node": Column(), "published_mm2": Column("published", COUNT)}
    columns |= {name: Column(heading, dimension) for name, heading, dimension in (
        ("mm2", "modelled", COUNT), ("mm2_low", "from", COUNT), ("mm2_high", "to", COUNT), ("mm2_ratio", "ratio", COUNT),
        ("tdp_w", "limit", WATTS), ("power_w", "modelled", WATTS), ("power_ratio", "ratio", COUNT))}
    emit(records, to, columns, footer=(
        f"each with figures of the other dies alone: within a factor of {typical_factor(records, 'mm2_ratio'):.2f} "
        f"(silicon) and {typical_factor(records, 'power_ratio'):.2f} (power) in the geometric mean; "
        f"{sum(one['mm2_low'] <= one['published_mm2'] <= one['mm2_high'] for one in records)} of {len(records)} dies "
        "lie within the model's range"))
