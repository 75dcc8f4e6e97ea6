r"""Parameter counts of a layout, tensor by tensor: what must be stored, and what one token uses.

Norms, biases and MoE routers' biases are left out (below 0.1 %); routers themselves are counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from simkit.model.architecture import LayerGroup, ModelArchitecture
from simkit.model.kinds.base import AttentionLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """Stored parameters, and those that one token's forward pass uses.

    ``looked_up`` of the active ones are an input embedding of its own (0 when tied to the LM head): a token
    reads one row of it and multiplies by nothing. Publishers count it (Mixtral, Qwen) or not (DeepSeek, gpt-oss).
    """

    total: int
    active: int
    looked_up: int = 0

    @property
    def active_without_embedding(self) -> int:
        """Parameters that one token's forward pass multiplies by."""
        return self.active - self.looked_up


def attention_parameters(model: ModelArchitecture, layout: AttentionLayout) -> int:
    r"""Weights of one attention block: :math:`D (n_q + 2 n_{kv}) d + n_q d D`, or what the layout's kind projects."""
    matrices = {"query": model.n_q_heads, "attended": model.n_q_heads, "kv": layout.n_kv_heads, "one": 1}
    own = sum(matrices[p.heads] * p.rows * p.columns for p in layout.projections)
    return own * 2 if model.cross_attention else own


def mlp_parameters(model: ModelArchitecture, group: LayerGroup) -> ParameterCount:
    """Weights of one layer's MLP or mixture of experts, router included."""
    moe = model.moe
    if not group.moe or moe is None:
        own = model.mlp.matrices * model.hidden_size * model.mlp.size if model.mlp else 0
        return ParameterCount(total=own, active=own)
    expert = moe.matrices * model.hidden_size * moe.expert_size
    always = moe.matrices * model.hidden_size * moe.shared_size + model.hidden_size * moe.experts
    return ParameterCount(total=moe.experts * expert + always, active=moe.top_k * expert + always)


def encoder_parameters(model: ModelArchitecture) -> int:
    r"""Weights of the encoder layers, :math:`L_e (4 D n_q d + m D F)` with m = 3 matrices when gated, else 2.

    Encoders keep one KV head per query head under every layout: the GQA paper groups the decoder only
    (Ainslie et al. 2023, section 3.1), for an encoder computes all tokens at once and is not bound by its cache.
    """
    if not model.encoder_layers or model.mlp is None:
        return 0
    attention = 4 * model.hidden_size * model.n_q_heads * model.head_dim
    return model.encoder_layers * (attention + model.mlp.matrices * model.hidden_size * model.mlp.size)


def count_parameters(model: ModelArchitecture, layout: AttentionLayout) -> ParameterCount:
    """Parameters of the whole model under a layout: embedding, layers, LM head (once when tied), encoder.

    The encoder of an encoder-decoder model is in the total and not in the active ones: decoding does not use it.
    """
    embedding = model.vocab_size * model.hidden_size
    ends = embedding * (1 if model.tied_embeddings else 2) + model.learned_positions * model.hidden_size
    attention = attention_parameters(model, layout)
    total = active = ends
    for group in model.layer_groups:
        mlp = mlp_parameters(model, group)
        total += group.count * (attention + mlp.total)
        active += group.count * (attention + mlp.active)
    return ParameterCount(total=total + encoder_parameters(model), active=active,
                          looked_up=0 if model.tied_embeddings else embedding)
