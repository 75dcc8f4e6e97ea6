"""``simkit evidence host``: real decode attention on this machine beside the prediction."""

from __future__ import annotations

import click

from simkit.commands import options
from simkit.commands.options import Destination


@click.command()
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
    from simkit.commands.console import print_table
    from simkit.commands.emit import emit
    from simkit.evidence.host.compare import compare, compare_here, summarise
    from simkit.evidence.host.measure import QUICK_BUDGET_S, WHOLE_BUDGET_S
    from simkit.foundation.tables import Column
    from simkit.foundation.units import BYTES, COUNT, SECONDS
    from simkit.hardware.catalog import load_hardware

    budget_s = QUICK_BUDGET_S if quick else WHOLE_BUDGET_S
    if profile is None:
        click.echo("measuring this machine", err=True)
        records = compare_here(budget_s=budget_s, quick=quick)
    else:
        records = compare(load_hardware(profile), budget_s=budget_s, quick=quick)
    shapes = {
        "n_kv_heads": Column("KV heads", COUNT), "kv_len": Column("tokens", COUNT),
        "kv_cache_bytes": Column("cache", BYTES), "measured_s": Column("measured", SECONDS),
        "predicted_s": Column("predicted", SECONDS), "ape": Column("error", COUNT),
        "advantage_measured": Column("vs MHA, measured", COUNT), "advantage_predicted": Column("predicted", COUNT),
        "spread": Column(dimension=COUNT, optional=1),
    }
    errors = {
        "profile": Column(liftable=True), "regime": Column(),
        **{name: Column(name.replace("_", " "), dimension=COUNT)
           for name in ("rows", "mape", "median_ape", "median_ape_low", "median_ape_high", "p90_ape", "bias",
                        "advantage_median_ape", "baseline_mape")}}
    if to.is_table and to.output is None and not points:
        print_table(list(shapes.values()), [[record[name] for name in shapes] for record in records])
        click.echo()
    emit(records if points else summarise(records), to, shapes if points else errors)
