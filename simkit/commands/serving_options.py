"""Options that serving and planning share: what comes, what is asked of it, and how a replica is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from simkit.commands import options
from simkit.foundation.errors import UserError
from simkit.foundation.units import BYTES, BYTES_PER_S, SECONDS

if TYPE_CHECKING:
    from simkit.serving.ask import Load
    from simkit.serving.serve import Policy

_UNITS: Final = {"rate": "requests_per_s", "scale": "speed_up_factor", "slo_ttft": "slo_ttft_s",
                 "slo_tpot": "slo_tpot_s", "swap_space": "swap_space_bytes", "swap_bandwidth": "swap_bytes_per_s"}
DEFAULT_LENGTHS: Final = "azure-conv-2023"  # of simkit.serving.words, which is not to be loaded for a help


def scheduler_options(function: Any) -> Any:
    """How a replica admits, cuts and preempts."""
    for option in (
        options.quantity("--swap-space", default="4GiB", dimension=BYTES,
                         help="Host memory for swapped caches, a chip."),
        options.quantity("--swap-bandwidth", default="50GB/s", dimension=BYTES_PER_S,
                         help="Way of a chip to its host; about what PCIe 5 x16 carries."),
        click.option("--policy", default="recompute", show_default=True, metavar="NAME",
                     help="Preempted caches: recompute or swap."),
        click.option("--runtime", default="ideal", show_default=True, metavar="NAME",
                     help="Host work added to each step: ideal, vllm, trtllm, sglang, or a YAML file."),
        click.option("--page", type=options.Whole(min=1, max=65536), default=16, show_default=True,
                     help="Tokens of a KV block."),
        click.option("--max-seqs", type=options.Whole(min=1, max=65536), default=1024, show_default=True,
                     help="Most sequences of an iteration."),
        click.option("--chunk", default="2k", show_default=True, metavar="TOKENS",
                     help="Most tokens of an iteration; longer prompts are cut."),
        click.option("--speculation", default="none", show_default=True, metavar="TEXT",
                     help="draft=MODEL,gamma=4,acceptance=0.8, mtp=1,acceptance=0.85 (the model's own layers) or "
                          "medusa=4,acceptance=0.6; acceptance may be a file."),
        click.option("--attention-sharding", default="auto", metavar="NAME", show_default=True,
                     help="heads, batch, context, or auto: as the profile says."),
    ):
        function = option(function)
    return function


def link_options(function: Any) -> Any:
    """How caches get from pool to pool."""
    for option in (
        click.option("--kv-move", default="layers", show_default=True, metavar="NAME",
                     help="layers: each as its prompt is computed; whole: when the prompt has ended."),
        click.option("--kv-link", default=None, metavar="TEXT",
                     help="What moves caches: 400GB/s,5us (a replica's port, each direction), or free."),
    ):
        function = option(function)
    return function


def check_link(prefill: Any, link: str | None) -> None:
    """Raise :class:`UserError` unless pools and the link between them are stated together."""
    if link is not None and not prefill:
        raise UserError("--kv-link goes with --prefill, a pool of chips for prompts")
    if prefill and link is None:
        raise UserError("--prefill: what moves the caches is not stated",
                        hint="--kv-link 400GB/s,5us gives the rate of a replica's port and the latency; or free")


def apart_options(function: Any) -> Any:
    """Prompts that begin alike, and prompts on chips of their own."""
    for option in (
        click.option("--lose", "losses", multiple=True, metavar="POOL[:N]@TIME",
                     help="N replicas (default: all) of a pool, replicas or prefill, are lost with what they hold: "
                          "replicas:1@30s. Later requests go to the others."),
        click.option("--deal", default="turn", show_default=True, metavar="NAME",
                     help="Who gets a request: turn, each in turn; prefix, the replica of its prompt's first block."),
        click.option("--kv-tier", "kv_tiers", multiple=True, metavar="NAME=SIZE,RATE,LATENCY",
                     help="Where cached blocks go that have no room, a chip's share: host=256GiB,50GB/s,10us (DRAM "
                          "over PCIe 5 x16), ssd=4TB,7GB/s,100us (NVMe); loaded where that beats computing."),
        click.option("--prefix-cache", is_flag=True,
                     help="Keep blocks of 512 prompt tokens for prompts that begin alike (hash_ids of a Mooncake "
                          "trace, or --shared-prefix); the least recently used goes first."),
        click.option("--shared-prefix", default=None, metavar="TOKENS[:N]",
                     help="One of N beginnings before each generated prompt, such as 4k:100."),
        link_options,
        click.option("--prefill-replicas", default="1", show_default=True, metavar="N|fit",
                     help="Replicas of --prefill in all; fit: the fewest that meet the objective."),
        click.option("--prefill", default=None, metavar="NAME[:N]",
                     help="Replicas of N chips for prompts; those of -H NAME:N, or --chips, then only decode."),
    ):
        function = option(function)
    return function


def load_options(function: Any) -> Any:
    """What comes, and what is asked of it."""
    for option in (
        click.option("--slo-attainment", "attainment_fraction", type=click.FloatRange(0, 1, min_open=True),
                     default=0.9, show_default=True, help="Share of requests that must meet it."),
        options.quantity("--slo-tpot", dimension=SECONDS,
                         help="Objective: time per token after the first, in seconds or as 30ms."),
        options.quantity("--slo-ttft", dimension=SECONDS, help="Objective: time to the first token."),
        click.option("--seed", type=options.Whole(min=0), default=0, show_default=True, help="Which random stream."),
        click.option("--requests", type=options.Whole(min=1), default=None,
                     help="How many requests.  [default: 2000, or the whole trace]"),
        click.option("--scale", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
                     help="Speed up arrivals by this factor."),
        click.option("--lengths", default=DEFAULT_LENGTHS, show_default=True, metavar="LAW",
                     help="A shipped law, or PROMPT/OUTPUT, such as lognormal:1000:0.8/512."),
        click.option("--arrivals", default="poisson", show_default=True, metavar="LAW", help="poisson or gamma:CV."),
        click.option("--rate", default=None, metavar="LIST", help="Requests a second; several draw goodput."),
        click.option("--trace", "trace_file", default=None, metavar="FILE",
                     help="Requests from CSV (simkit, Azure, vidur) or Mooncake JSONL, plain or .gz."),
    ):
        function = option(function)
    return function


def load_of(words: dict[str, Any], *, requests: int | None, without_rate: str | None) -> Load:
    """The requests and their rates, from the words of the command line; ``without_rate``: what is said without any."""
    from simkit.serving import words as serving

    if without_rate and all(words[name] is None for name in ("rate", "concurrency", "trace_file")):
        raise UserError(f"no requests: give --trace FILE, --rate R{without_rate}")
    return serving.load_of(**options.taken(serving.load_of, _in_python({**words, "requests": requests})))


def policy_of(words: dict[str, Any]) -> Policy:
    """How a replica is run, and the objective."""
    from simkit.serving import words as serving

    return serving.policy_of(**options.taken(serving.policy_of, _in_python(words)))


def _in_python(words: dict[str, Any]) -> dict[str, Any]:
    """Words under the names that Python has for them, which say their units."""
    return {_UNITS.get(name, name): value for name, value in words.items()}
