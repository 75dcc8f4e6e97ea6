"""The program ``simkit``: a list of commands, each imported when it runs."""

from __future__ import annotations

from typing import Final

import click

from simkit import __version__
from simkit.commands.lazy_group import Program

GROUPS: Final = {
    "Ask": {
        "simulate": "Time decode steps: chips x models x attention layouts x batch x context.",
        "attention": "Time one attention kernel, without a model.",
        "capacity": "The largest batch and the longest context that fit.",
        "crossover": "Where a layout's advantage crosses a threshold, as any parameter varies.",
        "stack": "Cache reducers one after another: bytes, time, and the headroom left.",
        "split": "Which of two pools of chips does best at which part of a step.",
        "serve": "Play requests through a model: throughput, latencies, goodput, largest rate.",
        "plan": "The fewest chips that serve a load within an objective, chip by chip.",
        "design": "The best of hypothetical chips by silicon, watts and dollars, and what each parameter moves.",
        "sweep": "Every point of a study into a Parquet or CSV file, resumable, on many workers.",
    },
    "Draw": {
        "report": "Run a study and write its page, figures and data.",
        "roofline": "Ceilings, ridge points and where attention layouts stand under them.",
        "timeline": "Write one decode step as a timeline for Perfetto.",
    },
    "Check": {
        "claims": "Test common claims about MQA and GQA.",
        "evidence": "Predictions beside measured data.",
    },
    "Describe": {
        "profile": "List, show, check, compare and write hardware profiles.",
        "model": "List, show, import and convert model architectures.",
        "calibrate": "Profiles from measurements.",
    },
}
"""Commands by what a person wants of them; each lies in the module of its name."""
COMMANDS: Final = {name: text for group in GROUPS.values() for name, text in group.items()}


@click.group(cls=Program, lazy=COMMANDS, groups={title: tuple(group) for title, group in GROUPS.items()},
             renamed={"trace": "timeline"})
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
