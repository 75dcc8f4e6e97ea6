r"""What two pools of chips pass each other in a step when each does a part of it (:data:`simkit.step.workload.PARTS`).

A layer is queries' and keys' products, attention over the cache, the output's product, the feed-forward block. Where
one of them and the next lie on different pools, a micro-batch of ``b q`` rows crosses once a layer: :math:`b q\,(n_q
d_k + n_{kv} d_{kv})` elements into attention, :math:`b q\,n_q d_v` out of it (Lamina, arXiv 2405.01814), :math:`b q\,D`
of the hidden state before and after a feed-forward block (MegaScale-Infer, arXiv 2504.02263). Each row crosses once, to
the pool: a mixture's copies of it are made there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from simkit.step.workload import DecodeWorkload


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossings:
    """Of one micro-batch in a step: how often it crosses, and bytes in each direction. ``rounds`` are layers in which
    both pools work: the fewer of those with attention and with a feed-forward block.
    """

    rounds: int
    times: int
    bytes_there: Any
    bytes_back: Any


def crossings(workload: DecodeWorkload, attention_pool: Collection[str]) -> Crossings:
    """What a micro-batch of ``workload`` passes between the pool that does ``attention_pool`` and the other."""
    near = {part: part in attention_pool for part in ("attention", "projections", "ffn", "ends")}
    model, rows, bytes_a = workload.model, workload.rows, workload.activation_bytes_per_element
    attending = sum(group.count for group in model.layer_groups if group.attends)
    rounds = min(attending, sum(group.count for group in model.layer_groups if group.feeds)) or attending
    there: Any = 0.0
    back: Any = 0.0
    times = 0
    if near["projections"] != near["attention"]:  # the cache's side is the near one
        times += 2 * attending
        for group in workload.layer_groups:
            if group.attends:
                own = workload.of(group)
                layout, core = own.layout, own.layout.core
                new = sum((1 if array.shared else own.n_kv_heads) * array.elements
                          for array in layout.writes.appended)
                back = back + group.count * rows * bytes_a * (layout.n_q_heads * core.key_dim + new)
                there = there + group.count * rows * bytes_a * layout.n_q_heads * core.value_dim
    hidden = 1.0 * rows * model.hidden_size * bytes_a
    # Embedding and logits stand before the first layer and after the last one, in place of a passage between layers.
    between = rounds if near["projections"] != near["ffn"] else 1 if near["ends"] != near["ffn"] else 0
    return Crossings(rounds=rounds, times=times + 2 * between, bytes_there=there + between * hidden,
                     bytes_back=back + between * hidden)
