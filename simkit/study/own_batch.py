r"""Each layout at its own largest batch on the same chips: the other fair comparison beside the same batch.

At one batch a smaller cache shortens the step; on the same chips it also lets more sequences in. Of both metrics
neither stands for the other: where the step hardly depends on the cache, the gain lies in the sequences,

.. math:: \frac{B^*}{T(B^*)} \Big/ \frac{B^*_{MHA}}{T_{MHA}(B^*_{MHA})}

A layout takes the mapping that holds the most sequences for its count, and the fastest that holds them for its time.
A dollar of rent buys the same chips for either layout, so that tokens a dollar gain what tokens/s do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np

from simkit.foundation.units import SECONDS
from simkit.study.record import FIELDS, Field

_FOUND: Final[WeakKeyDictionary[Any, Any]] = WeakKeyDictionary()  # several columns and figures ask for the same points


def at_own_batch(at: Any) -> Any:
    """The layout of :class:`simkit.study.evaluate.Evaluated` points at the largest batch of its chips.

    Points whose weights alone do not fit keep a batch of 1, and do not fit.
    """
    if at not in _FOUND:
        itself = at.mha is not None and at.mha.layout == at.layout
        _FOUND[at] = replace(at_own_batch(at.mha), shape=at.shape) if itself else _at_own_batch(at)
    return _FOUND[at]


def _at_own_batch(at: Any) -> Any:
    points, layout = at.points, at.layout
    roomy = points.roomiest(layout, at.machine)
    most = np.maximum(points.placed(layout, roomy).placement.max_batch, 1.0)
    full = replace(points, batch=most if np.ndim(most) else float(most))
    machine = full.mapped(layout, roomy)
    step, placement, timing = full.timed(layout, machine)
    return replace(at, points=full, machine=machine, step=step, placement=placement, timing=timing, mha=None)


def _batch(at: Any) -> Any:
    own = at_own_batch(at)
    return np.where(own.fits, own.points.batch, 0.0)


def _column(name: str, at: Any) -> Any:
    return FIELDS[name].value_of(at_own_batch(at))


def _over_mha(name: str, at: Any) -> Any:
    """This layout's over MHA's: tokens/s, or (of what less is better) MHA's over this layout's."""
    if at.mha is None:
        return np.nan
    own, mha = (FIELDS[name].value_of(at_own_batch(one)) for one in (at, at.mha))
    return own / mha if name == "tokens_per_s" else mha / own


OWN_BATCH_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({field.name: field for field in (
    Field(name="own_batch", heading="own batch", value_of=_batch,
          meaning="most sequences of this context that the layout holds on these chips, in its roomiest mapping"),
    Field(name="own_batch_step_time_s", heading="its step", dimension=SECONDS, value_of=partial(_column, "step_time_s"),
          meaning="time of a step of own_batch sequences"),
    Field(name="own_batch_tokens_per_s", heading="its tok/s", value_of=partial(_column, "tokens_per_s"),
          meaning="tokens of all own_batch sequences per second"),
    Field(name="own_batch_tokens_per_s_vs_mha", heading="its tok/s vs MHA", value_of=partial(_over_mha, "tokens_per_s"),
          meaning="own_batch_tokens_per_s over MHA's at MHA's own batch on the same chips; tokens a dollar of these "
                  "chips gain as much"),
    Field(name="own_batch_energy_j_per_token", heading="its J/token", value_of=partial(_column, "energy_j_per_token"),
          meaning="energy_j_per_token at own_batch"),
    Field(name="own_batch_tokens_per_j_vs_mha", heading="its tok/J vs MHA",
          value_of=partial(_over_mha, "energy_j_per_token"),
          meaning="tokens a joule over MHA's, each at its own batch on the same chips"),
    Field(name="own_batch_cost_usd_per_mtok", heading="its $/Mtok", value_of=partial(_column, "cost_usd_per_mtok"),
          meaning="cost_usd_per_mtok at own_batch"),
    Field(name="own_batch_owned_usd_per_mtok", heading="its owned $/Mtok",
          value_of=partial(_column, "owned_usd_per_mtok"), meaning="owned_usd_per_mtok at own_batch"),
)})
