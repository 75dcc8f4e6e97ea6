"""The program ``simkit``: a list of commands, each imported when it runs."""

from __future__ import annotations

from typing import Final

import click

from simkit import __version__
from simkit.commands.lazy_group import LazyCommand, Program

COMMANDS: Final = {
    "report": LazyCommand(target="simkit.commands.report:report",
                          help="Run a study and write its page, figures and data."),
    "simulate": LazyCommand(target="simkit.commands.simulate:simulate",
                            help="Time decode steps: chips x models x attention layouts x batch x context."),
    "attention": LazyCommand(target="simkit.commands.attention:attention",
                             help="Time one attention kernel, without a model."),
    "roofline": LazyCommand(target="simkit.commands.roofline:roofline",
                            help="Ceilings, ridge points and where attention layouts stand under them."),
    "sweep": LazyCommand(target="simkit.commands.sweep:sweep",
                         help="Every point of a study into a Parquet or CSV file, resumable, on many workers."),
    "crossover": LazyCommand(target="simkit.commands.crossover:crossover",
                             help="Where a layout's advantage crosses a threshold, as any figure varies."),
    "capacity": LazyCommand(target="simkit.commands.capacity:capacity",
                            help="The largest batch and the longest context that fit."),
    "stack": LazyCommand(target="simkit.commands.stack:stack",
                         help="Cache reducers one after another: bytes, time, and the headroom left."),
    "serve": LazyCommand(target="simkit.commands.serve:serve",
                         help="Play requests through a model: throughput, latencies, goodput, largest rate."),
    "trace": LazyCommand(target="simkit.commands.trace:trace",
                         help="Write one decode step as a timeline for Perfetto."),
    "claims": LazyCommand(target="simkit.commands.claims:claims",
                          help="What people say about MQA and GQA, put to the engines."),
    "profile": LazyCommand(target="simkit.commands.profile:profile",
                           help="List, show, check, compare and write hardware profiles."),
    "model": LazyCommand(target="simkit.commands.model:model",
                         help="List, show, import and convert model architectures."),
    "calibrate": LazyCommand(target="simkit.commands.calibrate:calibrate", help="Profiles from measurements."),
    "evidence": LazyCommand(target="simkit.commands.evidence:evidence",
                            help="Predictions beside measured data."),
}


@click.group(cls=Program, lazy=COMMANDS)
@click.version_option(__version__, "--version", prog_name="simkit", message="%(prog)s %(version)s")
def main() -> None:
    """Where does grouped-query attention stop paying?

    simkit predicts LLM decode on GPUs and inference ASICs from YAML profiles: how fast, how much memory, what binds,
    and what fewer key/value heads (GQA, MQA) buy on each machine.

    \b
    simkit simulate -H h100-sxm,groq-lpu -M llama-2-70b -A mha,gqa-8,mqa --batch 1,32 --kv-len 4k
    simkit profile show h100-sxm
    simkit report
    """
