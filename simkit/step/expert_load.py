r"""How often rows choose each expert, where that is not equally often: Zipf's law, or counts from a file.

An expert of weight ``w`` is chosen by a row with the chance :math:`p_i = \min(1, c\,w_i)`, ``c`` such that the chances
sum to the ``k`` that a row chooses; rows choose independently. Of ``n`` rows it is chosen by any with
:math:`1 - (1 - p_i)^n`. Counts of a group of experts are taken as normal. Where groups differ in mean, the busiest is
where a count is exceeded by as many groups as exceed Blom's mean maximum of equal ones (Blom 1958):

.. math:: \sum_g \left(1 - \Phi\left(\frac{x - \mu_g}{\sigma_g}\right)\right) = \frac{5}{8} \frac{p}{p + 1/4}
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from simkit.foundation.errors import UserError
from simkit.foundation.named_files import find_file
from simkit.foundation.validation import Number, StrictRecord, Text, check
from simkit.foundation.yaml_source import load_yaml
from simkit.model.architecture import Moe

MOST_EXPONENT: Final = 10.0
_BISECTIONS: Final = 60  # of a range of a few dozen deviations: to the last digits


class ExpertLoadSchema(StrictRecord):
    """How often each expert was chosen, as measured."""

    schema_version: Literal[1]
    """Form of this file."""
    source: Text
    """Where it was measured, and on what."""
    chosen: Annotated[list[Annotated[Number, Field(ge=0, le=1e18)]], Field(min_length=2, max_length=100_000)]
    """Choices of each expert of a layer, in the order in which chips hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoad:
    """``weights`` of a file in its order, of which chips hold runs; or Zipf's, its ranks dealt to the chips in turn."""

    zipf_exponent: float = 0.0
    weights: tuple[float, ...] = ()

    def chances(self, moe: Moe) -> NDArray[np.float64]:
        """Chance [experts] that a row chooses each expert. Raises :class:`UserError` for another number of experts."""
        if self.weights and len(self.weights) != moe.experts:
            raise UserError(f"expert load: the file counts {len(self.weights)} experts, and the model has "
                            f"{moe.experts}")
        weights = np.array(self.weights) if self.weights else np.arange(1.0, moe.experts + 1) ** -self.zipf_exponent
        if np.count_nonzero(weights) < moe.top_k:
            raise UserError(f"expert load: only {np.count_nonzero(weights)} experts are ever chosen, and a row chooses "
                            f"{moe.top_k}")
        order = np.argsort(-weights, kind="stable")
        rest = np.cumsum(weights[order][::-1])[::-1]  # of an expert and all less frequent ones
        # The most frequent ones that every row chooses, as few as leave no other a chance above 1.
        sure = np.flatnonzero(weights[order] * (moe.top_k - np.arange(len(order))) <= rest)[0]
        found = np.ones(len(weights))
        found[order[sure:]] = weights[order[sure:]] * (moe.top_k - sure) / rest[sure]
        return found

    def by_group(self, moe: Moe, groups: int) -> NDArray[np.float64]:
        """The same [groups, experts of a group]."""
        chances = self.chances(moe)
        return chances.reshape(groups, -1) if self.weights else chances.reshape(-1, groups).T


def parse_expert_load(text: str) -> ExpertLoad | None:
    """Read ``uniform``, ``zipf:EXPONENT`` or a file of counts. Raises :class:`UserError`."""
    name, _, exponent = text.strip().partition(":")
    if text.strip().lower() == "uniform":
        return None
    if name.lower() == "zipf":
        try:
            found = ExpertLoad(zipf_exponent=float(exponent))
        except ValueError:
            found = ExpertLoad(zipf_exponent=math.nan)
        if not 0 <= found.zipf_exponent <= MOST_EXPONENT:
            raise UserError(f"expert load '{text[:40]}': expected zipf:S with S from 0 to {MOST_EXPONENT:g}")
        return found
    source = load_yaml(find_file(text.strip(), kind="workloads/expert_loads",
                                 what="expert load (uniform, zipf:S or a file)"))
    return ExpertLoad(weights=tuple(float(count) for count in check(ExpertLoadSchema, source.data, source).chosen))


def busiest_group(load: ExpertLoad, moe: Moe, rows: Any, groups: Any) -> tuple[Any, Any, Any]:
    """Choices and distinct experts of the busiest of ``groups`` chips, distinct experts of all; arrays broadcast."""
    rows, groups = np.broadcast_arrays(np.asarray(rows, dtype=float), np.asarray(groups))
    each, at = np.unique(np.stack([rows.ravel(), groups.ravel()]), axis=1, return_inverse=True)
    found = np.array([_busiest(load, moe, float(row), int(ways)) for row, ways in each.T])[at.ravel()].T
    choices, distinct, every = (values.reshape(rows.shape)[()] for values in found)
    return choices, distinct, every


@lru_cache(maxsize=65_536)
def _busiest(load: ExpertLoad, moe: Moe, rows: float, groups: int) -> tuple[float, float, float]:
    chances = load.by_group(moe, groups)
    chosen = 1.0 - (1.0 - chances) ** rows
    # A row's experts differ, which takes the hypergeometric share of the variance, as for equal chances.
    spread = rows * (chances * (1.0 - chances)).sum(axis=1) * moe.experts / max(moe.experts - 1, 1)
    every = rows * moe.top_k
    choices = np.clip(_mean_maximum(rows * chances.sum(axis=1), spread), min(1.0, every), every)
    distinct = np.clip(_mean_maximum(chosen.sum(axis=1), (chosen * (1.0 - chosen)).sum(axis=1)), 1.0,
                       moe.experts / groups)
    return float(choices), float(distinct), float(chosen.sum())


def _mean_maximum(means: NDArray[np.float64], variances: NDArray[np.float64]) -> float:
    """Mean of the largest of normal numbers, one a group."""
    deviations = np.sqrt(2.0 * np.maximum(variances, 1e-18))
    wanted = 0.625 * len(means) / (len(means) + 0.25)
    low, high = float(means.min() - 10 * deviations.max()), float(means.max() + 10 * deviations.max())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = sum(math.erfc(score) for score in ((middle - means) / deviations).tolist()) / 2
        low, high = (middle, high) if above > wanted else (low, middle)
    return max(low, float(means.max()))
