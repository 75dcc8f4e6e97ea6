"""Columns of points on two pools of chips: what each pool and the exchange between them takes of a step."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from simkit.foundation.units import BYTES, SECONDS
from simkit.study.record import Field

NEAR, FAR, LINKED = range(3)  # what a step on two pools may wait for: attention's pool, the other, the link
POOL_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({field.name: field for field in (
    Field(name="ffn_hardware", meaning="profile of the second pool", dimension=None, heading="ffn",
          value_of=lambda at: at.pools.hardware.name),
    Field(name="ffn_chips", meaning="chips of the second pool", heading="ffn chips",
          value_of=lambda at: at.other.machine.chips),
    Field(name="ffn_tp", meaning="of these, chips that share a layer", value_of=lambda at: at.other.machine.tp),
    Field(name="ffn_pp", meaning="stages of the second pool", value_of=lambda at: at.other.machine.pp),
    Field(name="attention_pool_does", meaning="parts of the step on the first pool", dimension=None,
          value_of=lambda at: ", ".join(at.pools.kept)),
    Field(name="between", meaning="what joins the pools: bytes a second in each direction, latency", dimension=None,
          value_of=lambda at: at.pools.between_words),
    Field(name="micro_batches", meaning="groups of sequences that follow one another through both pools",
          heading="micro-batches", value_of=lambda at: at.micro_batches),
    Field(name="attention_pool_time_s", meaning="part of the step in which attention's pool works (its busiest stage)",
          dimension=SECONDS, heading="attention pool", value_of=lambda at: np.where(at.fits, at.busy_s(NEAR), np.nan)),
    Field(name="ffn_pool_time_s", meaning="part of the step in which the second pool works", dimension=SECONDS,
          heading="ffn pool", value_of=lambda at: np.where(at.fits, at.busy_s(FAR), np.nan)),
    Field(name="exchange_time_s", meaning="part of the step in which the busier direction of the link carries bytes",
          dimension=SECONDS, heading="exchange", value_of=lambda at: np.where(at.fits, at.busy_s(LINKED), np.nan)),
    Field(name="exchange_bytes", meaning="bytes that pass between the pools in a step, both directions",
          dimension=BYTES,
          value_of=lambda at: at.micro_batches * (at.passed.bytes_there + at.passed.bytes_back)),
    Field(name="attention_pool_fits", meaning="true when what attention's pool holds fits on it",
          value_of=lambda at: at.own.placement.fits),
    Field(name="ffn_pool_fits", meaning="true when what the second pool holds fits on it",
          value_of=lambda at: at.other.placement.fits),
)})
