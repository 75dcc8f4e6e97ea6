"""Weight matrices that several kinds have: queries, up-projections of latents, gates and outputs."""

from __future__ import annotations

from simkit.model.kinds.base import Projection


def query_projections(hidden_size: int, rank: int | None, query_dim: int) -> tuple[Projection, ...]:
    """Queries of ``query_dim`` a head, through a compressed one of ``rank`` where there is a rank."""
    if not rank:
        return (Projection(name="q_up", rows=hidden_size, columns=query_dim, heads="query",
                           product="q_up_projection"),)
    return (Projection(name="q_down", rows=hidden_size, columns=rank, heads="one", product="q_down_projection"),
            Projection(name="q_up", rows=rank, columns=query_dim, heads="query", product="q_up_projection"))


def up_projections(rank: int, key_dim: int, value_dim: int, *, absorbed: bool) -> tuple[Projection, Projection]:
    """From a latent of ``rank`` to each query head's key and value; ``absorbed`` into the query and the output."""
    if absorbed:
        return (Projection(name="k_up", rows=key_dim, columns=rank, heads="query", joined="none",
                           product="absorb_key"),
                Projection(name="v_up", rows=rank, columns=value_dim, heads="query", joined="none",
                           product="absorb_value", after_core=True))
    return (Projection(name="k_up", rows=rank, columns=key_dim, heads="attended", product=""),
            Projection(name="v_up", rows=rank, columns=value_dim, heads="attended", product=""))


def output_projections(hidden_size: int, value_dim: int, gate_dim: int = 0, groups: int = 0, rank: int = 0,
                       n_q_heads: int = 0) -> tuple[Projection, ...]:
    """From heads' outputs of ``value_dim`` to the hidden state, behind a gate of ``gate_dim`` columns a head if any.

    In two steps where ``groups`` of heads are brought to ``rank`` elements each first (DeepSeek-V4).
    """
    gate = (Projection(name="gate", rows=hidden_size, columns=gate_dim, heads="query", product="gate_projection"),)
    output: tuple[Projection, ...]
    if not groups:
        output = (Projection(name="output", rows=value_dim, columns=hidden_size, heads="query", joined="rows",
                             product="output_projection", after_core=True),)
    else:
        output = (Projection(name="output_down", rows=value_dim * (n_q_heads // groups), columns=rank, heads="group",
                             groups=groups, joined="none", product="output_down_projection", after_core=True),
                  Projection(name="output_up", rows=rank, columns=hidden_size, heads="group", groups=groups,
                             joined="rows", product="output_projection", after_core=True))
    return (*(gate if gate_dim else ()), *output)
