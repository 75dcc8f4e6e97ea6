"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from simkit.commands import chosen_profiles, destination
from simkit.commands.chosen_profiles import MOST_CHIPS
from simkit.foundation.errors import UserError
from simkit.foundation.units import COUNT, parse_quantity
from simkit.model.kinds.catalogue import LAYOUT_FORMS

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Option = Callable[[Decorated], Decorated]
Command = Callable[..., Any]
Profiles = chosen_profiles.Profiles
Destination = destination.Destination
force, form, records = destination.force, destination.form, destination.records
records_or_figure: Final = destination.records_or_figure

DEFAULT_HARDWARE: Final = "h100-sxm"
DEFAULT_MODEL: Final = "llama-2-70b"
DEFAULT_ATTENTION: Final = "mha,gqa-8,mqa"
LAYOUTS: Final = ", ".join(LAYOUT_FORMS)


class Whole(click.IntRange):
    """One whole number in the words of lists, such as ``4k``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, within the range."""
        from simkit.foundation.axis_syntax import parse_one

        if isinstance(value, str):
            value = parse_one(value, what="" if param is None else param.opts[-1])
        return super().convert(value, param, ctx)


def _options(*options: Option[Any]) -> Callable[[Command], Command]:
    """Several options as one decorator; the last stands first in the help."""

    def decorate(function: Command) -> Command:
        for option in options:
            function = option(function)
        return function

    return decorate


class Renamed(click.Option):
    """An option that also answers to the name that it had, which its help does not show: declared first."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Of the last name alone."""
        every, self.opts = self.opts, self.opts[-1:]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every


def _read(*flags: str, read: Callable[[str, Any], Any], **how: Any) -> Option[Any]:
    """An option whose value is made of what was written; ``read`` also gets the option's name, for its messages."""
    return click.option(*flags, callback=lambda _ctx, param, value: read(param.opts[-1], value), **how)


def names(*flags: str, default: str | None, help: str) -> Option[Any]:  # noqa: A002 - click's word
    """A repeatable option that also takes comma lists; the command gets a list of names."""

    def split(option: str, value: tuple[str, ...]) -> list[str]:
        from simkit.foundation.axis_syntax import split_names

        names = split_names(value)
        if value and not names:
            raise UserError(f"{option}: a name is missing")
        return names

    return _read(*flags, read=split, multiple=True, default=None if default is None else (default,),
                 metavar="NAME[,...]", show_default=False,
                 help=help if default is None else f"{help}  [default: {default}]")


def axis(*flags: str, default: str | None, help: str) -> Option[Any]:  # noqa: A002 - click's word
    """A list or range of whole numbers of at least 1, such as ``1,8,32`` or ``1k..128k*2``; not given: none."""

    def read(option: str, value: str | None) -> list[float]:
        from simkit.foundation.axis_syntax import parse_axis

        return [] if value is None else parse_axis(value, what=option)

    return _read(*flags, read=read, default=default, metavar="LIST", help=help, show_default=default is not None)


def number(*flags: str, default: str, help: str, metavar: str = "N") -> Option[Any]:  # noqa: A002 - click's word
    """One whole number of at least 1 in the words of lists, such as ``4k``."""

    def read(option: str, value: str) -> int:
        from simkit.foundation.axis_syntax import parse_axis

        values = parse_axis(value, what=option)
        if len(values) != 1:
            raise UserError(f"{option}: expected one value, not a list")
        return int(values[0])

    return _read(*flags, read=read, default=default, metavar=metavar, help=help, show_default=True)


def point(batch: str = "32", kv_len: str = "4k") -> Callable[[Command], Command]:
    """``--batch`` and ``--kv-len`` of commands about one point, with their defaults."""
    return _options(number("--kv-len", default=kv_len, metavar="TOKENS", help="Cached tokens a sequence."),
                    number("--batch", default=batch, help="Sequences decoded together."))


def quantity(*flags: str, dimension: str, help: str, default: str | None = None) -> Option[Any]:  # noqa: A002
    """A number above 0 with its unit, such as ``30ms``; a bare one is in the SI unit."""

    def read(option: str, value: str | None) -> float | None:
        from simkit.foundation.units import units_of

        if value is None:
            return None
        base = next(unit for unit, factor in units_of(dimension).items() if factor == 1.0)
        try:
            number = parse_quantity(f"{value} {base}" if value[-1:].isdigit() else value, dimension)
        except UserError as error:
            raise UserError(f"{option}: {error.message}", hint=error.hint) from None
        if number <= 0:
            raise UserError(f"{option} {value}: expected more than 0")
        return number

    return _read(*flags, read=read, default=default, metavar="QUANTITY", help=help, show_default=default is not None)


def counted(*flags: str, help: str) -> Option[Any]:  # noqa: A002 - click's word
    """A number above 0 that may end in M, B or T: millions, billions, trillions."""

    def read(option: str, value: str | None) -> float | None:
        if value is None:
            return None
        factor = {"M": 1e6, "B": 1e9, "T": 1e12}.get(value[-1:])
        wrong = UserError(f"{option} {value[:40]}: expected a number above 0, such as 15T")
        try:
            number = parse_quantity(value if factor is None else value[:-1].rstrip(), COUNT) * (factor or 1.0)
        except UserError:
            raise wrong from None
        if number <= 0:
            raise wrong
        return number

    return _read(*flags, read=read, default=None, metavar="COUNT", help=help)


def hardware(default: str | None = DEFAULT_HARDWARE) -> Option[Any]:
    """``-H``: profiles by name, alias or path."""
    return names("-H", "--hardware", default=default, help="Profile names or paths (simkit profile list).")


def model(default: str | None = DEFAULT_MODEL) -> Option[Any]:
    """``-M``: architectures by name or path."""
    return names("-M", "--model", default=default, help="Model names or paths (simkit model list).")


def attention(default: str = DEFAULT_ATTENTION) -> Option[Any]:
    """``-A``: attention layouts."""
    return names("-A", "--attention", default=default, help=f"Layouts: {LAYOUTS} (K key/value or latent heads).")


def points(batch: str) -> Callable[[Command], Command]:
    """``--batch``, ``--kv-len`` and ``--q-len`` of decode steps; ``batch``: the default."""
    return _options(axis("--q-len", default="1", help="Query tokens a sequence and step."),
                    axis("--kv-len", default="4k", help="Cached tokens a sequence; k is 1024."),
                    axis("--batch", default=batch, help="Sequences decoded together."))


def _assume(ctx: click.Context, _param: click.Parameter, value: str) -> str:
    from simkit.hardware.priors import assuming

    ctx.with_resource(assuming(value))
    return value


assume: Final = click.option(
    "--assume", type=click.Choice(["priors", "ideal"]), default="priors", show_default=True, expose_value=False,
    is_eager=True, callback=_assume,
    help="Values of parameters that a profile does not state: the range of its class, or ideal ones (fractions of 1, "
         "no launches).")
profiles_folder: Final = click.option("--profiles", metavar="DIR", default=None,
                                      help="A folder of profiles searched before the shipped ones.")


def profiles(function: Command) -> Command:
    """``--set``, ``--profiles`` and ``--assume``, for every command that loads a profile: ``profiles``."""

    @wraps(function)
    def with_profiles(*args: Any, settings: tuple[str, ...], profiles: str | None, **kwargs: Any) -> Any:
        return function(*args, profiles=Profiles(settings=settings, folder=profiles), **kwargs)

    return _options(assume, profiles_folder, click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help="Override a profile value, such as memory.hbm.bandwidth=8TB/s, or 1TB/s..8TB/s*2 where lists are read; "
             "repeatable."))(with_profiles)


FILE: Final = click.Path(path_type=Path)


def data(help: str, metavar: str = "FILE.csv[.gz]", *, required: bool = False) -> Option[Any]:  # noqa: A002 - as above
    """``--data``: a file of measurements, as a path; None where none is given."""
    return click.option("--data", type=FILE, metavar=metavar, default=None, required=required, help=help)


def _from_workload(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Let a workload file's words stand where the command line is silent."""
    if value is not None:
        from simkit.study.workload_file import load_workload

        # An option that may be repeated takes a list; one of its words is a comma list like any other.
        repeats = {option.name: getattr(option, "multiple", False) for option in ctx.command.params}
        words = load_workload(value)
        if "ffn" in words and "ffn" not in repeats:
            raise UserError(f"-W {value}: it states two pools of chips (ffn); simkit {ctx.info_name} takes one machine")
        stated = {key: [str(word)] if repeats[key] else word for key, word in words.items() if key in repeats}
        ctx.default_map = {**(ctx.default_map or {}), **stated}
    return value


def _budgets(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[float, ...]:
    from simkit.foundation.axis_syntax import parse_axis

    return tuple(parse_axis(value, what="layer budget", minimum=None, whole=False))


scenario: Final = _options(  # how the model is served: cache, kernel, sharding, experts and speculation
    click.option("-W", "--workload", default=None, metavar="FILE", is_eager=True, expose_value=False,
                 callback=_from_workload, help="A workload file: supplies defaults for options not given."),
    click.option("--owned", default="years=4,utilisation=0.6,power=0.1", metavar="TEXT", show_default=True,
                 help="For costs of bought chips: years, the part in which they serve, dollars a kWh."),
    click.option("--baseline", "comparison", default="mha", metavar="NAME", show_default=True,
                 help="mha, or mha-equal-parameters: layouts with fewer K and V weights get a wider MLP."),
    click.option("--layer-budgets", default="1", metavar="LIST", callback=_budgets, show_default=True,
                 help="Factors on the eviction budget, repeated over the layers: 1.5,1,0.5."),
    click.option("--speculation", default="none", metavar="TEXT", show_default=True,
                 help="draft=MODEL,gamma=4,acceptance=0.8, mtp=1,acceptance=0.85 (the model's own layers) or "
                      "medusa=4,acceptance=0.6; acceptance may be a file."),
    click.option("--ep", type=Whole(min=1), default=1, show_default=True,
                 help="Chips that hold different experts, limited by --tp."),
    click.option("--expert-load", default="uniform", metavar="TEXT", show_default=True,
                 help="How often rows choose each expert: uniform (equally often), zipf:S, or a file of counts."),
    click.option("--attention-sharding", default="auto", metavar="NAME", show_default=True,
                 help="heads, batch, context, data (attention data-parallel), or auto: as the profile says."),
    click.option("--cache-order", default="head-major", metavar="NAME", show_default=True,
                 help="What runs on in memory: head-major or token-major."),
    click.option("--attention-kernel", default="grouped", metavar="NAME", show_default=True,
                 help="grouped, grouped-unsplit, per-query-head or unfused."),
    click.option("--lengths", "--kv-len-spread", "lengths", cls=Renamed, default="equal", metavar="TEXT",
                 show_default=True,
                 help="Contexts across the batch: equal, lognormal:CV or uniform:SPREAD."),
    click.option("--encoder-len", default=None, type=Whole(min=1), metavar="TOKENS",
                 help="Tokens that an encoder-decoder's encoder read, for its cross-attention."),
    click.option("--reserve", default=None, type=Whole(min=1), metavar="TOKENS",
                 help="Tokens reserved contiguously for each sequence."),
    click.option("--page", default=None, type=Whole(min=1), metavar="TOKENS", help="Tokens a page of a paged cache."),
    click.option("--eviction", default="none", metavar="TEXT", show_default=True,
                 help="streaming:4+1020, h2o:512+512 or snapkv:1024+256."),
)


def chips(function: Command, *, several: bool = False) -> Command:
    """``--chips``, ``--fewest`` and ``--budget-chips`` as one ``chips``; ``--tp`` and ``--pp``.

    ``several``: the command takes a list of them.
    """

    @wraps(function)
    def with_chips(*args: Any, chips: str, fewest: bool, budget_chips: int | None, **kwargs: Any) -> Any:
        words: list[Any] = ["fewest"] * fewest + ([] if budget_chips is None else [f"up-to-{budget_chips}"])
        if len(words) + (chips != "fit") > 1:
            raise UserError("--chips, --fewest and --budget-chips: give one of them")
        click.get_current_context().meta[MOST_CHIPS] = budget_chips
        found = words or [_parse_chips(one.strip()) for one in (_ranged_chips(chips) if several else [chips])]
        return function(*args, chips=found if several else found[0], **kwargs)

    return _options(
        click.option("--budget-chips", type=Whole(min=1), default=None, metavar="N",
                     help="At most N chips: those that are fastest."),
        click.option("--fewest", is_flag=True, help="The fewest chips that hold every layout compared."),
        click.option("--pp", type=Whole(min=1), default=None, help="Pipeline stages."),
        click.option("--tp", type=Whole(min=1), default=None, help="Chips that share each layer."),
        click.option("--chips", default="fit", show_default=True, metavar="N|fit|fit-each",
                     help="Chips; fit: those of the least cost of a token that hold every layout compared, without an "
                          "overflow tier if possible; fit-each: for each point alone."))(with_chips)


chips_list: Final = partial(chips, several=True)


def _ranged_chips(text: str) -> list[str]:
    """The words and numbers of a list, ranges among them."""
    from simkit.foundation.axis_syntax import parse_axis

    return [str(one) for part in text.split(",") for one in (
        parse_axis(part, what="--chips") if ".." in part else [part])]


def refuse_fit_each(chips: str | int, why: str = "layouts that are compared share their chips here") -> None:
    """Refuse ``--chips fit-each`` where all that is compared runs on the same chips."""
    if chips == "fit-each":
        raise UserError(f"--chips fit-each: {why}", hint="use fit or a number")


kv_dtypes: Final = names("--kv-dtype", default="bf16", help="KV cache formats: bf16, fp8, int8, int4, int4-g128 ...")
kv_dtype: Final = click.option("--kv-dtype", default="bf16", show_default=True, metavar="NAME",
                               help="Format of the KV cache.")
weight_dtype: Final = click.option(
    "--weight-dtype", default="bf16", show_default=True, metavar="NAME",
    help="Format of the weights, of experts after a slash (bf16/mxfp4), or as-published.")


def served(function: Command) -> Command:
    """Formats, chips, scenario, engine and profiles of commands whose points choose their own machine."""
    for option in (profiles, engine, scenario, chips, weight_dtype, kv_dtypes):
        function = option(function)
    return function


def _forget(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - click's signature
    if value:
        from simkit.study.replay_cache import without_cache

        ctx.with_resource(without_cache())
    return value


# Which engine gives the times; and, for the replay, neither reading nor writing of replayed points on disk.
engine: Final = _options(
    click.option("--no-cache", is_flag=True, expose_value=False, callback=_forget,
                 help="Replay every point, also those kept on disk (SIMKIT_CACHE)."),
    click.option("--engine", default="roofline", show_default=True, metavar="ENGINE",
                 help="Engine that gives the times: roofline or replay."))


def _parse_chips(text: str) -> str | int:
    """``--chips``: a whole number of at least 1, ``fit`` or ``fit-each``."""
    if text in ("fit", "fit-each"):
        return text
    if text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0:
        return int(text)
    raise UserError(f"--chips '{text[:20]}': expected a whole number of at least 1, fit or fit-each")


def taken(function: Command, words: dict[str, Any]) -> dict[str, Any]:
    """Those of the command line's words that a function takes."""
    from inspect import signature

    return {name: words[name] for name in signature(function).parameters if name in words}
