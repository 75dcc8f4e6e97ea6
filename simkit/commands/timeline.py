"""``simkit timeline``: one decode step as a timeline that Perfetto opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from simkit.commands import options
from simkit.commands.options import Profiles
from simkit.foundation.errors import UserError


@click.command()
@options.hardware(options.DEFAULT_HARDWARE)
@options.model(options.DEFAULT_MODEL)
@options.names("-A", "--attention", default="gqa-8", help=f"Layout: {options.LAYOUTS}.")
@options.point()
@options.kv_dtype
@options.weight_dtype
@options.chips
@options.scenario
@options.profiles
@click.option("-o", "--output", metavar="FILE", required=True, help="The timeline, such as step.json.")
@options.force
def timeline(*, hardware: list[str], model: list[str], attention: list[str], profiles: Profiles, output: str,
          force: bool, **how: Any) -> None:
    """Write one decode step as a timeline: open it at ui.perfetto.dev or chrome://tracing.

    Operators stand in a row; inside attention, each compute unit is a track of the work items that the replay engine
    ran on it, and the bytes per second of each memory level are counters. On a machine of tiles attention is its
    phases: messages between tiles, and the work of each.

    \b
    simkit timeline -H h100-sxm -M llama-2-70b -A gqa-8 --batch 32 --kv-len 4k -o step.json
    """
    from simkit.foundation.output import check_target

    check_target(output, force=force)
    for names, option in ((hardware, "-H"), (model, "-M"), (attention, "-A")):
        if len(names) != 1:
            raise UserError(f"{option}: a timeline shows one point, and {len(names)} are named", hint="name one")
    import json

    from simkit.foundation.output import write_text
    from simkit.study.step_timeline import step_timeline

    made = step_timeline(profiles.load(hardware), model, attention=attention, **how)
    write_text(output, json.dumps(made, allow_nan=False) + "\n", force=force)
    left_out = made["otherData"]["tracks_left_out"]
    click.echo(f"{Path(output)}: {len(made['traceEvents']):,} events"
               + (f"; {left_out} of the slots are left out" if left_out else "") + "; open it at https://ui.perfetto.dev")
