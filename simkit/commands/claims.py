"""``simkit claims``: statements about MQA and GQA, each tested by the engines."""

from __future__ import annotations

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles


@click.command()
@click.argument("study", required=False, metavar="[STUDY]")
@click.option("--only", metavar="ID", default=None, help="Claims whose id starts with this.")
@options.hardware(default=None)
@options.engine
@options.profiles
@options.records
def claims(*, study: str | None, only: str | None, hardware: list[str], engine: str, profiles: Profiles,
           to: Destination) -> None:
    """Common claims about MQA and GQA: each holds, holds when, or does not hold, with number and condition.

    STUDY is a file of claims (workloads/studies/claims.yaml when left out). The engines find numbers and conditions.
    Chips are those that the claims name, or after -H yours; claims about one machine take one.

    \b
    simkit claims --only speed-in-proportion -H h100-sxm --set memory.hbm.bandwidth=8TB/s
    """
    from simkit.claims.tested_claims import DEFAULT_CLAIMS, judge_claims, read_claims
    from simkit.commands.emit import emit
    from simkit.foundation.errors import UserError
    from simkit.foundation.tables import Column

    stated = read_claims(study or DEFAULT_CLAIMS)
    chosen = [claim for claim in stated if only is None or claim.id.startswith(only)]
    if not chosen:
        raise UserError(f"no claim's id starts with '{only}'", hint="known: " + ", ".join(claim.id for claim in stated))
    if hardware:
        chosen = [claim.on(hardware) for claim in chosen]
    records = judge_claims(chosen, engine, chips=profiles.loader())
    if to.is_table and to.output is None:
        for record in records:
            click.echo(f"{record['verdict'].upper()}: {record['statement']}")
            click.echo(f"    {record['figure']}")
            if record["condition"]:
                click.echo(f"    {'when ' if record['verdict'] == 'holds when' else ''}{record['condition']}")
        return
    emit(records, to, {name: Column("number" if name == "figure" else name) for name in (
        "id", "verdict", "statement", "figure", "condition")})
