"""The vocabulary of serving records, beside that of :mod:`simkit.study.record`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from simkit.foundation.units import BYTES, SECONDS
from simkit.study.pool_fields import POOL_FIELDS
from simkit.study.record import FIELDS, Field


def _percentiles(name: str, meaning: str, heading: str) -> tuple[Field, ...]:
    return tuple(Field(name=f"{name}_p{share}_s", meaning=f"{meaning}, {share}th percentile", dimension=SECONDS,
                       heading=f"{heading} p{share}") for share in (50, 90, 99))


_FIELDS: Final = (
    *(FIELDS[name] for name in ("hardware", "assumed", "chips", "tp", "pp", "model", "attention", "n_kv_heads",
                                "kv_dtype", "weight_dtype", "engine", "cost_usd_per_mtok")),
    Field(name="offered_requests_per_s", meaning="requests that arrive a second; the largest that meets the objective "
          "when it is searched for", heading="req/s"),
    Field(name="replicas", meaning="copies of the model, dealt requests in turn"),
    Field(name="runtime", meaning="serving software whose host work is added", dimension=None),
    Field(name="policy", meaning="what happens to preempted caches: recompute or swap", dimension=None),
    Field(name="trace", meaning="where the requests come from", dimension=None),
    Field(name="requests", meaning="requests served or refused"),
    Field(name="finished", meaning="requests that got all their tokens"),
    Field(name="refused", meaning="requests whose cache never fits"),
    Field(name="lost", meaning="requests that a replica held, or that waited for it, when it was lost"),
    Field(name="prompt_tokens", meaning="prompt tokens of admitted requests"),
    Field(name="output_tokens", meaning="tokens generated for finished requests"),
    Field(name="duration_s", meaning="first arrival to last token", dimension=SECONDS),
    Field(name="requests_per_s", meaning="finished requests a second"),
    Field(name="tokens_per_s", meaning="generated tokens a second", heading="tok/s"),
    Field(name="prompt_tokens_per_s", meaning="prompt tokens a second"),
    Field(name="slo_ttft_s", meaning="bound on the time to the first token", dimension=SECONDS),
    Field(name="slo_tpot_s", meaning="bound on the time per token after it", dimension=SECONDS),
    Field(name="slo_attainment", meaning="share of requests within both bounds", heading="in SLO"),
    Field(name="goodput_requests_per_s", meaning="requests a second within both bounds", heading="goodput"),
    Field(name="goodput_tokens_per_s", meaning="their tokens a second"),
    *_percentiles("ttft", "arrival to first token", "TTFT"),
    *_percentiles("tpot", "mean time between a request's tokens after its first", "TPOT"),
    *_percentiles("latency", "arrival to last token", "latency"),
    *_percentiles("queue", "arrival to first work", "queue"),
    Field(name="mean_batch", meaning="sequences running, mean over the time with any", heading="batch"),
    Field(name="max_batch", meaning="most sequences running at once", heading="max batch"),
    Field(name="kv_blocks", meaning="blocks of the cache of one replica"),
    Field(name="block_tokens", meaning="tokens of a block"),
    Field(name="mean_kv_occupancy", meaning="share of blocks in use, mean over time", heading="KV use"),
    Field(name="max_kv_occupancy", meaning="largest share of blocks in use"),
    Field(name="preemptions", meaning="times that a sequence's blocks were taken back"),
    Field(name="swaps", meaning="those whose cache went to the host"),
    Field(name="iterations", meaning="steps of the engine"),
    Field(name="idle_share", meaning="share of time without work"),
    Field(name="attention_share", meaning="share of time in attention of decoding"),
    Field(name="rest_of_decode_share", meaning="share of time in the rest of decoding"),
    Field(name="prefill_share", meaning="share of time that prompts add"),
    Field(name="host_share", meaning="share of time that the runtime's host work adds"),
    Field(name="swap_share", meaning="share of time moving caches to and from the host"),
    Field(name="tokens_per_j", meaning="generated tokens a joule", heading="tok/J"),
    Field(name="grid_mean_error", meaning="mean relative error of an iteration read from the grid"),
    Field(name="grid_max_error", meaning="largest of those"),
)
SERVING_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({field.name: field for field in _FIELDS})
# A second pool for feed-forward layers, where prompts are cached, and where they are computed on chips of their own.
_APART: Final = (
    *(POOL_FIELDS[name] for name in ("ffn_hardware", "ffn_chips", "ffn_tp", "ffn_pp", "between",
                                     "attention_pool_does")),
    Field(name="prefix_hit_rate", meaning="share of prompt tokens met in the cache of prompts", heading="hits"),
    Field(name="prefix_loaded_share", meaning="share of prompt tokens loaded from a tier below memory"),
    Field(name="prefix_room_tokens", meaning="tokens of prompts that a replica's memory has room for"),
    Field(name="kv_tiers", meaning="tiers below memory that keep cached prompts", dimension=None),
    Field(name="prefill_hardware", meaning="chip that computes the prompts", dimension=None),
    Field(name="prefill_replicas", meaning="replicas that compute prompts", heading="prefill"),
    Field(name="prefill_chips", meaning="chips of all of them"),
    Field(name="prefill_tp", meaning="of one of them, chips that share each layer"),
    Field(name="prefill_pp", meaning="of one of them, stages"),
    Field(name="prefill_kv_blocks", meaning="blocks of the cache of one of them"),
    Field(name="prefill_busy_share", meaning="share of time in which they work", heading="prefill busy"),
    Field(name="decode_busy_share", meaning="share of time in which the others work", heading="decode busy"),
    Field(name="kv_link", meaning="what moves caches from pool to pool", dimension=None),
    Field(name="kv_moved", meaning="how: layers, as they are computed, or whole", dimension=None),
    Field(name="kv_bytes_per_token", meaning="bytes of a token's keys and values that move", dimension=BYTES),
    Field(name="kv_moved_bytes", meaning="bytes of all caches that moved", dimension=BYTES, heading="moved"),
    Field(name="handover_mean_s", meaning="end of a prompt to its cache's arrival, mean", dimension=SECONDS),
)
APART_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({field.name: field for field in _APART})
# Where the time went, in the order of a line that says it.
SHARES: Final = ("attention_share", "rest_of_decode_share", "prefill_share", "host_share", "swap_share", "idle_share")
_WHOLE: Final = ("chips", "tp", "pp", "prefill_chips", "prefill_tp", "prefill_pp", "ffn_chips", "ffn_tp", "ffn_pp")


def serving_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record for people and JSON: unknown and unbounded values are None, whole counts are integers."""
    plain: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, float) and not math.isfinite(value):
            plain[name] = None
        elif name in _WHOLE and value == int(value):
            plain[name] = int(value)
        else:
            plain[name] = value
    return plain
