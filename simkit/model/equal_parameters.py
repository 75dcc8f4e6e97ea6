r"""A model with as many parameters as its multi-head form: what a layout saves in K and V, its MLPs get.

.. math:: F' = F + \frac{P_{MHA} - P}{m D}

for attention blocks of ``P`` parameters and MLPs of ``m`` matrices of width ``F`` on a hidden size ``D``. Shazeer 2019,
"Fast Transformer Decoding", widens the MLPs of its multi-query models so: from 8192 to 9088 in a language model of 1024
with 8 heads of 128.
"""

from __future__ import annotations

from dataclasses import replace

from simkit.foundation.errors import UserError
from simkit.model.architecture import ModelArchitecture, attention_parameters
from simkit.model.attention import parse_layout
from simkit.model.kinds.base import AttentionLayout


def with_parameters_of_mha(model: ModelArchitecture, layout: AttentionLayout) -> ModelArchitecture:
    """The model with MLPs so wide, to the nearest column, that it has the parameters of its MHA form under a layout.

    Raises :class:`UserError` where MLPs are not alike in all layers: for a mixture of experts nobody says which widen.
    """
    saved = attention_parameters(model, parse_layout("mha", model)) - attention_parameters(model, layout)
    if not saved:
        return model
    if model.mlp is None or model.moe is not None:
        raise UserError(f"{model.name}: MHA at equal parameters needs an MLP that could be wider, not experts",
                        hint="--baseline mha compares the model as it is")
    width = model.mlp.size + round(saved / (model.mlp.matrices * model.hidden_size))
    return replace(model, mlp=replace(model.mlp, size=width))
