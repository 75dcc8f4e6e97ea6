"""``simkit design``: hypothetical chips, and which of them serves a load best."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles
from simkit.commands.sweep import destination, write_points
from simkit.foundation.errors import UserError
from simkit.foundation.units import COUNT, USD, WATTS

if TYPE_CHECKING:
    from simkit.study.grid import Grid

_LOAD: Final = {"hardware": 0, "model": 0, "kv_dtype": 3, "batch": 0, "kv_len": 0, "q_len": 8, "attention": 0}
_BEST: Final = {
    "chips": 0, "tokens_per_s": 0, "tokens_per_s_per_user": 3, "mm2": 0, "power_w": 0, "price_usd": 1,
    "tokens_per_s_per_mm2": 1, "tokens_per_s_per_w": 1, "tokens_per_s_per_usd": 2, "bound": 2,
}
_EVERY: Final = (
    "hardware", "model", "attention", "kv_dtype", "batch", "kv_len", "q_len", "chips", "tp", "pp", "fits",
    "step_time_s", "attention_time_s", "tokens_per_s", "tokens_per_s_per_user", "energy_j_per_token", "bound")
_GRID: Final = ("attention", "kv_dtype", "batch", "kv_len", "q_len", "chips", "tp", "pp", "engine")
_BUDGET: Final = {"budget_mm2": "mm2", "budget_watts": "power_w", "budget_usd": "price_usd"}


@click.command()
@options.hardware()
@options.model()
@options.attention()
@options.points(batch="32")
@options.served
@click.option("--node", default=None, metavar="NAME",
              help="Process: n16, n7, n5, n3 or n2.  [default: that of the chip's published die]")
@click.option("--sample", type=options.Whole(min=1), default=None, metavar="N",
              help="Quasi-random designs instead of every combination, such as 1M.")
@click.option("--budget-mm2", type=click.FloatRange(min=0, min_open=True), default=None, metavar="MM2",
              help="At most so much silicon a chip.")
@options.quantity("--budget-watts", dimension=WATTS, help="At most so many watts a chip.")
@options.quantity("--budget-usd", dimension=USD, help="At most such a price of a chip.")
@click.option("--front", is_flag=True, help="The Pareto front instead: tokens/s against silicon.")
@click.option("--elasticities", is_flag=True, help="What a per cent of each parameter of the base chip moves instead.")
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
def design(ctx: click.Context, /, *, profiles: Profiles, front: bool, elasticities: bool, nearest: bool, against: str,
           below: float, of: str, check_model: bool, every: str | None, resume: bool, workers: int | None,
           cluster: str | None, to: Destination, **words: Any) -> None:
    """Find the best of hypothetical chips: ranges of --set on the chips of -H.

    For each load, the designs with most tokens/s a mm2, watt and dollar; silicon, watts and prices are modelled
    (--check-model). -o FILE.svg draws lines of equal advantage over two parameters, or with --front the Pareto front.
    A sample needs no steps: --set memory.hbm.bandwidth=1TB/s..40TB/s --sample 1M.

    \b
    simkit design -H h100-sxm -M llama-3.1-8b --set memory.hbm.bandwidth=1TB/s..16TB/s*2 --budget-mm2 900
    simkit design -H h100-sxm -M llama-3.1-8b -A gqa-8 --elasticities
    simkit design -H h100-sxm -A gqa-8 --chips 8 --tp 8 --nearest --below 1.8 --set memory.hbm.bandwidth=1TB/s..99TB/s \
--set overheads.kernel_launch=0.1us..100us
    simkit design --check-model
    """
    from simkit.commands.emit import emit, from_fields
    from simkit.study import design_answers as answers
    from simkit.study.designs import DESIGN_FIELDS
    from simkit.study.record import FIELDS

    if check_model:
        _emit_check(to)
        return
    is_map = to.figure is not None and not front
    grid = _grid(profiles, words, steps=not (nearest or elasticities or is_map))
    axes = grid.designs.axes if grid.designs is not None else ()
    if not axes and not elasticities:
        raise UserError("a design has parameters to choose: give ranges",
                        hint="such as --set memory.hbm.bandwidth=1TB/s..40TB/s*2")
    budget = {name: words[word] for word, name in _BUDGET.items() if words[word] is not None}
    fields = {**FIELDS, **DESIGN_FIELDS}
    if every is not None:
        write_points(ctx, replace(grid, fields=_EVERY, baseline=False), every, resume=resume, force=to.force,
                     workers=workers, cluster=cluster)
    elif to.figure is not None:
        from simkit.report.drawing.export import write_figure
        from simkit.report.figures.design_map import draw_designs

        write_figure(to.figure, lambda: draw_designs(grid, against, below, of, None if is_map else budget),
                     force=to.force)
    elif elasticities:
        records = answers.elasticities(grid)
        emit(records, to, {**from_fields(_LOAD, tuple(_LOAD), records), **_columns(
            key=("", None), elasticity=("tok/s", COUNT), elasticity_below=("below", COUNT),
            elasticity_above=("above", COUNT), mm2_elasticity=("mm2", COUNT), power_elasticity=("watts", COUNT))},
             footer="per cent that one per cent more of a parameter moves; below, above: on either side of its value")
    elif nearest:
        records = [record for layout in grid.attention if layout != against for one in answers.one_by_one(grid)
                   for record in answers.nearest_chips(replace(one, attention=(layout, against)), below, of)]
        shown = [record for record in records if not to.is_table or record["kind"] != "surface"]
        emit(shown, to, {**from_fields(_LOAD, tuple(_LOAD), shown), **_columns(
            kind=("", None), **{axis.key: (axis.key, axis.dimension) for axis in axes},
            log_distance=("distance", COUNT), own_advantage=("own ratio", COUNT)),
            **from_fields({"mm2": 2, "power_w": 2, "price_usd": 3}, (), shown, DESIGN_FIELDS)},
             footer="\n".join(f"{one['hardware']}: no chip in the ranges at which {one['attention']} has {below:g} of "
                              f"{against}" for one in records if one["kind"] == "none") or (
             "distance: in natural logarithms of all parameters together; JSON and CSV have the surface around"))
    else:
        from simkit.commands.console import ProgressLine

        line = ProgressLine("designs")
        records = answers.best_designs(grid, budget, front=front, tell=lambda done, elapsed_s: line(
            done=done, of=len(grid), kept=0, elapsed_s=elapsed_s))
        emit(records, to, {**from_fields(_LOAD, tuple(_LOAD), records), **_columns(
            **({} if front else {"best_per": ("most tok/s per", None)}),
            **{axis.key: (axis.key, axis.dimension) for axis in axes}),
            **from_fields(_BEST, ("chips",), records, fields)}, footer="\n".join(_models(grid)))


def _columns(**named: tuple[str, str | None]) -> dict[str, Any]:
    from simkit.foundation.tables import Column

    return {name: Column(heading, dimension) for name, (heading, dimension) in named.items()}


def _grid(profiles: Profiles, words: dict[str, Any], *, steps: bool) -> Grid:
    """The points that are asked for; ``steps``: a range needs one, or a sample."""
    from simkit.hardware.catalog import parse_overrides
    from simkit.hardware.priors import assumption
    from simkit.model.catalog import load_model
    from simkit.study.designs import Base, DesignSpace, is_range, read_axis
    from simkit.study.grid import Grid

    given = parse_overrides(profiles.settings)
    fixed = tuple((key, text) for key, text in given.items() if not is_range(text))
    bases = [Base(name=name, overrides=fixed, folder=profiles.folder, node=words["node"], assume=assumption())
             for name in words["hardware"]]
    axes = [[read_axis(key, text, base.load()) for key, text in given.items() if is_range(text)] for base in bases]
    sample = words["sample"]
    space = DesignSpace(bases=bases, axes=axes[0], sample=None if sample is None else int(sample))
    for base in bases:
        base.silicon()  # says now what is missing of it
    if steps:
        space.check()
    known = {*_GRID, *_BUDGET, "hardware", "model", "node", "sample"}
    grid = Grid(hardware=[base.load() for base in bases], model=[load_model(name) for name in words["model"]],
                designs=space, scenario={name: value for name, value in words.items() if name not in known},
                **{name: words[name] for name in _GRID})
    grid.check_layouts()
    return grid


def _models(grid: Grid) -> list[str]:
    """What silicon and prices rest on, chip by chip."""
    said = []
    for base, chip in zip(grid.designs.bases if grid.designs else (), grid.hardware, strict=True):
        own = base.silicon().own_mm2
        said.append(f"{chip.name}: silicon of its published {own:g} mm2 and what changes of it" if own else
                    f"{chip.name}: no die is published; silicon by the range of others (--check-model)")
        if chip.price.purchase_usd is None:
            said.append(f"{chip.name}: no price, ranked by silicon and watts (--set price.purchase=... states one)")
    return said


def _emit_check(to: Destination) -> None:
    from math import exp, log

    from simkit.commands.emit import emit
    from simkit.hardware.silicon import checked_dies

    records = checked_dies()
    far = [[abs(log(one[name])) for one in records if one[name]] for name in ("mm2_ratio", "power_ratio")]
    silicon, power = (exp(sum(logs) / len(logs)) for logs in far)
    within = sum(one["mm2_low"] <= one["published_mm2"] <= one["mm2_high"] for one in records)
    emit(records, to, _columns(
        hardware=("", None), node=("", None), published_mm2=("published", COUNT), mm2=("modelled", COUNT),
        mm2_low=("from", COUNT), mm2_high=("to", COUNT), mm2_ratio=("ratio", COUNT), tdp_w=("limit", WATTS),
        power_w=("modelled", WATTS), power_ratio=("ratio", COUNT)), footer=(
        f"each by constants of the others alone: within a factor of {silicon:.2f} (silicon) and {power:.2f} (power) "
        f"in the geometric mean; {within} of {len(records)} dies lie within the model's range"))
