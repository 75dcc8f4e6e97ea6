"""``simkit plan``: the cheapest deployment of each chip and layout for a load and an objective."""

from __future__ import annotations

import shlex
from functools import partial
from itertools import product
from time import monotonic
from typing import Any, Final

import click
from click.core import ParameterSource

from simkit.commands import options, serving_options
from simkit.commands.options import Destination, Profiles
from simkit.commands.pools import pools_beside
from simkit.foundation.errors import UserError, UserErrorGroup
from simkit.foundation.units import USD_PER_HOUR, WATTS

_TABLE: Final = {
    "hardware": 0, "prefill_hardware": 0, "ffn_hardware": 0, "kv_dtype": 3, "attention": 0, "chips": 0, "replicas": 0,
    "prefill_chips": 0, "prefill_replicas": 0, "ffn_chips": 0, "tp": 0, "pp": 0, "ep": 5, "mapping": 4,
    "mean_batch": 2, "offered_requests_per_s": 5, "users": 5, "cost_usd_per_mtok": 0, "owned_usd_per_mtok": 3,
    "mean_power_w": 1, "power_limit_w": 1, "energy_j_per_token": 2, "energy_j_per_request": 2, "binds": 0, "bound": 2,
    "slo_attainment": 3, "ttft_margin": 1, "tpot_margin": 1, "chips_saved_ratio": 0,
}
_FRONT: Final = {
    "hardware": 0, "ffn_hardware": 0, "kv_dtype": 3, "attention": 0, "tokens_per_s_per_user": 0,
    "tokens_per_s_per_chip": 0, "cost_usd_per_mtok": 0, "energy_j_per_token": 2, "chips": 0, "ffn_chips": 0, "tp": 0,
    "pp": 0, "ep": 5, "mapping": 4, "mean_batch": 0, "offered_requests_per_s": 2, "ttft_p90_s": 1, "tpot_p90_s": 1,
}
_LIFTABLE: Final = ("kv_dtype", "offered_requests_per_s", "ep")
# What the plan chooses or says itself in the command that plays a deployment.
_CHOSEN: Final = ("hardware", "model", "attention", "kv_dtype", "chips", "tp", "pp", "ep", "attention_sharding",
                  "concurrency", "rate", "scale", "requests", "settings", "prefill", "ffn", "form", "output", "force")

# What goes with a second pool, and the column that is empty where a deployment has none.
_WITH: Final = {"kv_link": "prefill_hardware", "kv_move": "prefill_hardware", "between": "ffn_hardware",
                "with_attention": "ffn_hardware", "micro_batches": "ffn_hardware"}


@click.command()
@options.hardware()
@options.model()
@options.attention("as-trained")
@click.option("--against", default=None, metavar="LAYOUT",
              help="Also plan this layout, and count each one's chips beside it.")
@options.names("--kv-dtype", default="bf16", help="KV cache formats: bf16, fp8, int8, int4 ...")
@options.weight_dtype
@click.option("--users", "concurrency", type=options.Whole(min=1, max=65536), default=None,
              help="Users who each send a request when their last one ends, instead of --rate.")
@serving_options.load_options
@options.axis("--ep", default=None,
              help="Chips that hold different experts.  [default: 1, and as many as share a layer]")
@options.axis("--pp", default=None, help="Pipeline stages that may be chosen.  [default: any]")
@options.axis("--tp", default=None, help="Chips that may share a layer.  [default: all that divide the query heads]")
@options.axis("--chips", default=None, help="Chips of one replica that may be chosen.  [default: any]")
@options.names("--prefill", default=None, help="Also with prompts on chips of their own: NAME, or NAME:N a replica.")
@serving_options.link_options
@pools_beside(options.names("--ffn", default=None,
                             help="Also with feed-forward layers on chips of their own: NAME, or NAME:N a replica."))
@options.quantity("--budget-rent", dimension=USD_PER_HOUR, help="At most so much an hour, such as '40 USD/h'.")
@options.quantity("--budget-power", dimension=WATTS, help="At most so many watts, by the chips' power limits.")
@click.option("--budget-chips", type=options.Whole(min=1), default=None, metavar="N", help="At most N chips in all.")
@serving_options.scheduler_options
@options.engine
@options.profiles
@click.option("--front", is_flag=True,
              help="The Pareto front instead: tokens/s of a user against tokens/s of a chip and cost.")
@options.records_or_figure
@click.pass_context
def plan(ctx: click.Context, /, *, profiles: Profiles, to: Destination, **words: Any) -> None:
    """Find the fewest chips that serve a load within an objective, for each chip and layout.

    Replicas, tp, pp, ep and mapping are chosen: closed forms leave out what cannot meet the objective, and the request
    loop of simkit serve plays what is left; the last lines say the command that shows it. Cheapest first, chips
    without a price after them by power. -o FILE.svg draws the front. With --prefill or --ffn, also the cheapest pair
    of pools.

    \b
    simkit plan -H h100-sxm,gaudi3 -M llama-3.1-8b --rate 20 --lengths 1k/200 --slo-ttft 1s --slo-tpot 30ms
    simkit plan -H h100-sxm -M llama-3.1-8b -A gqa-8 --against mha --users 200 --lengths 1k/200 --slo-tpot 20ms
    """
    from simkit.commands.console import ProgressLine, warn
    from simkit.commands.emit import emit, from_fields
    from simkit.model.catalog import load_model
    from simkit.serving.front import front
    from simkit.serving.plan import Question
    from simkit.serving.plan import plan as answer
    from simkit.serving.plan_record import PLAN_FIELDS, plan_records

    model, against, requests = words["model"], words["against"], words["requests"]
    is_front = words["front"] or to.figure is not None
    if len(model) != 1:
        raise UserError(f"-M: a plan is for one model, and {len(model)} are named", hint="name one")
    load = serving_options.load_of(words, requests=requests, without_rate=" or --users N")
    if len(load.rates_requests_per_s) > 1:
        raise UserError("--rate: a plan is for one rate")
    question = Question(
        model=load_model(model[0]), load=load, policy=serving_options.policy_of(words), page_tokens=words["page"],
        requests_per_s=load.rates_requests_per_s[0] if load.rates_requests_per_s else load.own_requests_per_s,
        requests=requests or 2000,
        scenario={name: words[name] for name in ("weight_dtype", "speculation", "attention_sharding")},
        **{name: words[name] for name in ("attainment_fraction", "chips", "tp", "pp", "ep", "engine")})
    layouts = list(dict.fromkeys([*words["attention"], *([against] if against else [])]))
    chips, (apart, called) = profiles.every(words["hardware"]), _pools(profiles, words, front=is_front)
    named = {chip.name: which for chip, which in zip(chips, product(
        words["hardware"], profiles.variants.values()), strict=True)}
    line, began = ProgressLine("plans"), monotonic()
    answers = answer(question, chips, layouts, words["kv_dtype"], apart=apart, tell=lambda done, of: line(
        done=done, of=of, kept=0, elapsed_s=monotonic() - began))
    if is_front:
        points = [point for one in answers for point in front(question, one)]
        if to.figure is not None:
            from simkit.report.drawing.export import write_figure
            from simkit.report.figures.plan_front import draw_front

            write_figure(to.figure, lambda: draw_front(question, points), force=to.force)
            return
        shown, records = _FRONT, points
    else:
        shown, records = _TABLE, plan_records(question, answers, against=against, budget={
            "chips": words["budget_chips"], "power_limit_w": words["budget_power"],
            "usd_per_hour": words["budget_rent"]})
    failing = [f"{_chips(record)} {record['attention']} {record['kv_dtype']}: {record['fails']}" for record in records
               if record["fails"] is not None]
    met = [record for record in records if record["fails"] is None]
    if records and not met:
        raise UserErrorGroup([UserError(text) for text in failing]) if len(failing) > 1 else UserError(failing[0])
    for text in failing:
        warn(text)
    for record in met:
        record["command"] = _shown_by(ctx, record, *named[record["hardware"]], called)
    emit(met if to.is_table else records, to, from_fields(shown, _LIFTABLE, met, PLAN_FIELDS),
         footer="\n".join([*_unpriced(met), *(record["command"] for record in met)]))


def _pools(profiles: Profiles, words: dict[str, Any], *, front: bool) -> tuple[list[Any], dict[str, str]]:
    """How to plan with each chip of ``--prefill`` and ``--ffn``, and what these were called, by profiles' names."""
    from simkit.serving.ask import PrefillPool
    from simkit.serving.plan_apart import plan_apart
    from simkit.serving.plan_pooled import FeedForwardPool, plan_pooled
    from simkit.study.pool_words import parse_pools, split_count

    serving_options.check_link(words["prefill"], words["kv_link"])
    if words["prefill"] and front:
        raise UserError("--front beside --prefill: a front has replicas that do everything")
    joined = {name: words[name] for name in ("between", "with_attention", "micro_batches")}
    ways: list[Any] = []
    called: dict[str, str] = {}
    for name, count in map(split_count, words["prefill"]):
        chip = profiles.load([name])[0]
        called[chip.name] = name
        ways.append(partial(plan_apart, pool=PrefillPool(
            hardware=chip, chips=count, replicas=None, moved=words["kv_move"], link=words["kv_link"])))
    for name, count in map(split_count, words["ffn"]):
        chip = profiles.load([name])[0]
        called[chip.name] = name
        parse_pools((chip, count), **joined)  # says what is wrong with the words
        ways.append(partial(plan_pooled, pool=FeedForwardPool(hardware=chip, chips=count, **joined)))
    if not words["ffn"]:
        parse_pools(None, **joined)
    return ways, called


def _chips(record: dict[str, Any]) -> str:
    beside = [f"{what} on {record[name]}" for name, what in (
        ("prefill_hardware", "prompts"), ("ffn_hardware", "feed-forward layers")) if record[name]]
    return f"{record['hardware']} with {', '.join(beside)}" if beside else str(record["hardware"])


def _unpriced(records: list[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(_chips(record) for record in records if record["usd_per_hour"] is None)
    return [f"no rental price, planned by chips and power: {', '.join(names)}"] if names else []


def _shown_by(ctx: click.Context, record: dict[str, Any], chip: str, settings: dict[str, str],
              called: dict[str, str]) -> str:
    """The command that plays a deployment: what was given to the plan, and what the plan chose."""
    from simkit.commands.serve import serve

    given: list[Any] = []
    for option in serve.params:
        name = str(option.name)
        if name in _WITH and record[_WITH[name]] is None:
            continue
        if name in ctx.params and name not in _CHOSEN and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = ctx.params[name]
            for one in value if isinstance(value, tuple) else (value,):
                given += [max(option.opts, key=len), one]
    chosen = {"-H": chip, "-M": record["model"], "-A": record["attention"], "--kv-dtype": record["kv_dtype"],
              "--chips": record["chips_per_replica"], "--ep": record["ep"], "--replicas": record["replicas"]}
    if record["ffn_hardware"] is not None:
        # Each pool's mapping is what serve gives these numbers of chips.
        chosen["--ffn"] = f"{called[record['ffn_hardware']]}:{record['ffn_chips'] // record['replicas']}"
        chosen |= {f"--{name}": record[name] for name in ("tp", "pp") if ctx.params[name]}
    elif record["tp"] == int(record["tp"]) and record["mapping"] is not None:
        chosen |= {"--tp": record["tp"], "--pp": record["pp"], "--attention-sharding": record["mapping"]}
    if record["prefill_hardware"] is not None:
        number = record["prefill_replicas"]
        chosen |= {"--prefill": f"{called[record['prefill_hardware']]}:{record['prefill_chips'] // number}",
                   "--prefill-replicas": number}
    if record["users"]:
        chosen["--concurrency"] = -(-record["users"] // record["replicas"])
    elif ctx.params["rate"] or ctx.params["front"] or ctx.params["scale"] != 1.0:
        chosen["--rate"] = record["offered_requests_per_s"]
    length = ctx.params["requests"] if ctx.params["trace_file"] else record["requests"]
    chosen |= {"--requests": length} if length else {}
    changed = [word for key, text in settings.items() for word in ("--set", f"{key}={text}")]
    return shlex.join(["simkit", "serve", *(str(word) for pair in chosen.items() for word in pair), *changed,
                       *map(str, given)])
