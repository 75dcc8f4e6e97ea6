"""The program ``simkit``: a list of commands, each imported when it runs."""

from __future__ import annotations

from typing import Final

import click

from simkit import __version__
from simkit.commands.lazy_group import Program

COMMANDS: Final = {
    "report": "Run a study and write its page, figures and data.",
    "simulate": "Time decode steps: chips x models x attention layouts x batch x context.",
    "split": "Which of two pools of chips does best at which part of a step.",
    "attention": "Time one attention kernel, without a model.",
    "roofline": "Ceilings, ridge points and where attention layouts stand under them.",
    "sweep": "Every point of a study into a Parquet or CSV file, resumable, on many workers.",
    "crossover": "Where a layout's advantage crosses a threshold, as any figure varies.",
    "capacity": "The largest batch and the longest context that fit.",
    "stack": "Cache reducers one after another: bytes, time, and the headroom left.",
    "serve": "Play requests through a model: throughput, latencies, goodput, largest rate.",
    "plan": "The fewest chips that serve a load within an objective, chip by chip.",
    "design": "The best of hypothetical chips by silicon, watts and dollars, and what each figure moves.",
    "trace": "Write one decode step as a timeline for Perfetto.",
    "claims": "What people say about MQA and GQA, put to the engines.",
    "profile": "List, show, check, compare and write hardware profiles.",
    "model": "List, show, import and convert model architectures.",
    "calibrate": "Profiles from measurements.",
    "evidence": "Predictions beside measured data.",
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
