"""Every column there is: those of all records, and those that a caller names because they cost more time."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from simkit.study.causes import CAUSE_FIELDS
from simkit.study.likely import LIKELY_FIELDS
from simkit.study.own_batch import OWN_BATCH_FIELDS
from simkit.study.pool_fields import POOL_FIELDS
from simkit.study.record import FIELDS, Field

ASKED_FOR: Final[Mapping[str, Field]] = MappingProxyType({**FIELDS, **CAUSE_FIELDS, **OWN_BATCH_FIELDS,
                                                          **LIKELY_FIELDS, **POOL_FIELDS})
