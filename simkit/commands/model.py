"""``simkit model``: list, show, import, convert and uptrain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from simkit.commands import options
from simkit.commands.lazy_group import CommandGroup
from simkit.commands.options import Destination, Profiles
from simkit.foundation.errors import UserError

_MODELS: Final = click.option("--models", metavar="DIR", default=None,
                              help="A folder of models searched before the shipped ones.")


@click.group(cls=CommandGroup)
def model() -> None:
    """List, show, import and convert model architectures; price their uptraining."""


@model.command("list")
@_MODELS
@options.records
def list_command(*, models: str | None, to: Destination) -> None:
    """Every architecture of the catalogue, with its heads and the cache of one token."""
    from simkit.commands.console import warn_of
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.model.catalog import list_models
    from simkit.study.model_summary import summaries

    columns = {
        "name": Column(), "title": Column(optional=2), "n_layers": Column("layers", optional=1),
        "hidden_size": Column("hidden", optional=1), "n_q_heads": Column("q heads", optional=1),
        "n_kv_heads": Column("kv heads"), "attention": Column(),
        "head_dim": Column("head dim", optional=1), "text": Column("parameters"),
        "kv_bytes_per_token": Column("KV/token, bf16"),
    }
    emit(summaries(list_models(models, warn_of)), to, columns)


@model.command()
@click.argument("name")
@_MODELS
@options.records
def show(*, name: str, models: str | None, to: Destination) -> None:
    """An architecture: shape, parameters, and its KV cache under each layout."""
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.model.catalog import load_model
    from simkit.study.model_summary import parameter_records

    architecture = load_model(name, models=models)
    title = f"{architecture.name}: {architecture.title}"
    footer = "\n".join([f"source: {architecture.source}"] * bool(architecture.source)
                       + [f"note: {note}" for note in architecture.notes])
    emit(parameter_records(architecture), to, {"key": Column("parameter"), "text": Column("value")}, title=title,
         footer=footer)


@model.command("import")
@click.argument("config", metavar="CONFIG.JSON")
@click.option("--name", default=None, help="Name of the architecture.  [default: the file's, or its folder's]")
@click.option("-o", "--output", metavar="FILE", default=None, help="Write to a file instead of the standard output.")
@options.force
def import_command(*, config: str, name: str | None, output: str | None, force: bool) -> None:
    """Read a Hugging Face config.json into an architecture file.

    Families: llama, mistral, mixtral, qwen2 and qwen3, gemma2 and gemma3, falcon, deepseek_v2 and deepseek_v3,
    gpt_oss. Fields that simkit does not know are named, never guessed.

    \b
    simkit model import ./config.json --name my-model -o my-model.yaml
    simkit simulate -M my-model.yaml
    """
    from simkit.commands.console import warn
    from simkit.foundation.output import check_target, write_text
    from simkit.model.import_config import import_config

    if output is not None:
        check_target(output, force=force)
    result = import_config(config, name)
    for field in result.unknown:
        warn(f"{field.where}: {field.reason}")
    for key, value in result.defaults:
        warn(f"{config}: '{key}' is absent; the family's default {value!r} is taken")
    if output is None:
        click.echo(result.yaml_text, nl=False)
    else:
        write_text(output, result.yaml_text, force=force)
        click.echo(f"{output}: written", err=True)


@model.command()
@click.argument("checkpoint", metavar="FOLDER")
@click.option("-A", "--attention", default=None, metavar="NAME", help="Layout of the result: gqa-K or mqa.")
@click.option("--n-kv-heads", type=options.Whole(min=1), default=None, hidden=True, help="-A gqa-K, as it was.")
@click.option("--method", default="mean", show_default=True, metavar="mean|first|random",
              help="What becomes of a group's heads; mean is the GQA paper's.")
@click.option("--seed", default=0, show_default=True, help="Of the random method and of the check.")
@click.option("-o", "--output", metavar="FOLDER", required=True, help="The folder to make.")
@click.option("--force", is_flag=True, help="Replace an output folder that is a checkpoint.")
def convert(*, checkpoint: str, attention: str | None, n_kv_heads: int | None, method: str, seed: int, output: str,
            force: bool) -> None:
    """Pool the key/value heads of a safetensors checkpoint into fewer, as before uptraining to GQA or MQA.

    \b
    simkit model convert ./llama-2-7b -A gqa-8 -o ./llama-2-7b-gqa-8
    """
    from simkit.model.convert import convert_checkpoint

    chosen: Any = method  # convert_checkpoint says which methods there are
    done = convert_checkpoint(Path(checkpoint), Path(output), n_kv_heads or _heads(attention), method=chosen, seed=seed,
                              force=force)
    click.echo(f"{done.output}: {done.layers} layers, {done.n_kv_heads_before} KV heads pooled into {done.n_kv_heads} "
               f"({done.method}), {done.tensor_bytes_before:,} bytes of tensors became {done.tensor_bytes:,}")
    for check in done.checks:
        click.echo(f"layer {check.layer}: pooling into all heads is the identity within "
                   f"{check.identity_max_error:.1e}; attention output moved by {check.output_relative_error:.1%}")


def _heads(attention: str | None) -> int:
    """KV heads of ``gqa-K`` or ``mqa``: what a checkpoint can be pooled into."""
    found = re.fullmatch(r"gqa-([1-9]\d{0,5})|mqa", attention or "")
    if found is None:
        raise UserError("-A is missing: give gqa-K or mqa" if attention is None else
                        f"-A {attention[:40]}: expected gqa-K or mqa")
    return int(found[1] or 1)


@model.command()
@click.argument("name", metavar="MODEL")
@click.option("-A", "--attention", default="gqa-8", show_default=True, help="Layout that is trained.")
@click.option("-H", "--hardware", required=True, metavar="NAME", help="Chip that trains it, and its price.")
@click.option("--utilization", type=click.FloatRange(0, 1, min_open=True), default=0.4, show_default=True,
              help="Share of the chip's bf16 peak that training achieves (MFU).")
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), default=0.05, show_default=True,
              help="Share of pre-training that is repeated (Ainslie et al. 2023).")
@options.counted("--tokens", help="Pre-training tokens, in powers of ten: 15T.  [default: the model file's]")
@options.profiles
@options.records
def uptrain(*, name: str, hardware: str, profiles: Profiles, to: Destination, **how: Any) -> None:
    """What it costs to turn a multi-head checkpoint into one with fewer KV heads, in flops, chip time and money.

    \b
    simkit model uptrain llama-2-7b -A gqa-8 -H h100-sxm --utilization 0.4
    """
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.foundation.units import USD
    from simkit.study.model_summary import uptrain as priced

    emit(priced(name, profiles.load([hardware]), **how), to,
         {**dict.fromkeys(("model", "attention", "hardware"), Column()), "uptraining_flops": Column("flops"),
          "uptraining_tokens": Column("tokens"), "chip_hours": Column("chip hours"), "cost_usd": Column("cost", USD)})
