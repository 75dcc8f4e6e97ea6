"""Options of a second pool of chips, and what they and ``-H NAME:N`` state together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from simkit.commands.options import Profiles, Whole
from simkit.foundation.errors import UserError

FFN_HELP: Final = "A second pool of N chips for feed-forward layers; -H NAME:N for attention's."
BETWEEN_HELP: Final = "What joins the pools: 400GB/s,2us (all chips, each direction; a message), or free."
micro_batches: Final = click.option(
    "--micro-batches", type=Whole(min=1), default=None, metavar="N",
    help="Groups of sequences that keep both pools busy.  [default: those of the shortest step]")


def pools_beside(ffn: Callable[..., Any]) -> Callable[..., Any]:
    """``--ffn``, as it is given, and what goes with it."""
    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
                micro_batches,
                click.option("--with-attention", default=None, metavar="LIST",
                             help="What stays with attention: some of projections, ffn, ends (embedding, LM head), "
                                  "draft, or none.  [default: projections,ends]"),
                click.option("--between", default=None, metavar="TEXT", help=BETWEEN_HELP),
                ffn):
            function = option(function)
        return function

    return decorated


pools: Final = pools_beside(click.option("--ffn", default=None, metavar="NAME[:N]", help=FFN_HELP))


def loaded_pools(profiles: Profiles, hardware: Sequence[str], ffn: str | None,
                 chips: Sequence[str | int]) -> tuple[list[str], Any, list[str | int]]:
    """Names of ``-H``, what ``--ffn`` states, and the chips of ``-H``, which ``NAME:N`` gives beside ``--ffn``."""
    from simkit.study.pool_words import split_count

    if ffn is None:
        return list(hardware), None, list(chips)
    named = [split_count(name) for name in hardware]
    counts = {count for _, count in named}
    if len(counts) > 1:
        raise UserError("-H: pools of different sizes: give one number of chips for all, or a call for each")
    if counts != {None} and list(chips) != ["fit"]:
        raise UserError(f"-H {hardware[0]} beside --chips {chips[0]}: give one of them")
    name, count = split_count(ffn)
    own: list[str | int] = [number for number in counts if number is not None] or list(chips)
    return [one for one, _ in named], (profiles.load([name])[0], count), own
