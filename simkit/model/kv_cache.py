r"""What KV-cache entries cost to store: element formats with their scales and zero points, counted exactly.

.. math:: b_{kv} = \text{bits}/8 + (\text{scale bytes} + \text{zero-point bytes}) / \text{group}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementFormat:
    """How one element is stored. ``group`` elements share a scale (and a zero point); 0: one scale a tensor.

    Groups run along the head dimension of one token (``axis`` token) or along the tokens of one channel (channel:
    KIVI's keys, whose outliers sit in fixed channels).
    """

    name: str
    bits: float
    group: int = 0
    scale_bytes: float = 0.0
    zero_bytes: float = 0.0
    axis: Literal["token", "channel"] = "token"

    @property
    def bytes_per_element(self) -> float:
        """Stored bytes of one element with its share of scale and zero point, whole groups assumed.

        >>> FORMATS["int4"].bytes_per_element * 8
        4.5
        """
        return self.bits / 8 + (self.shared_bytes / self.group if self.group else 0.0)

    @property
    def shared_bytes(self) -> float:
        """Scale and zero point of one group."""
        return self.scale_bytes + self.zero_bytes

    @property
    def is_quantised(self) -> bool:
        """True when reading an element takes de-quantisation work before a bf16 multiply."""
        return self.bits < 16

    @property
    def unpack_flops(self) -> int:
        """Vector work to widen one element: a conversion, or a multiply-add with a group's scale and zero point.

        A scale of the whole tensor folds into the softmax's own factor and costs nothing an element.
        """
        if not self.is_quantised:
            return 0
        return 2 if self.group else 1

    def stored_bytes(self, tokens: Any, dim: int) -> Any:
        r"""Bytes of ``tokens`` vectors of ``dim`` elements, begun groups counted whole.

        .. math:: N d\,\text{bits}/8 + \begin{cases} N \lceil d/G \rceil s & \text{token axis} \\
                  \lceil N/G \rceil d\, s & \text{channel axis} \end{cases}

        >>> float(FORMATS["int4"].stored_bytes(4096, 128))
        294912.0
        """
        elements = np.asarray(tokens, dtype=float) * dim * (self.bits / 8)
        if not self.group:
            return elements
        of_tokens = self.axis == "token"
        groups = tokens * np.ceil(dim / self.group) if of_tokens else np.ceil(np.asarray(tokens) / self.group) * dim
        return elements + groups * self.shared_bytes

    def appended_bytes(self, dim: int) -> float:
        r"""Bytes written for one new vector of ``dim`` elements: :math:`d\,\text{bits}/8` and the shared bytes it owes.

        Along a channel a group of ``G`` tokens writes its scales once, so a token owes :math:`d s / G`. The bf16 tail
        in which KIVI keeps an unfinished group is not modelled.

        >>> FORMATS["bf16"].appended_bytes(128), parse_format("int2-channel").appended_bytes(128)
        (256.0, 48.0)
        """
        if self.axis == "channel":
            return dim * self.bytes_per_element
        return float(self.stored_bytes(1, dim))


# fp8 caches carry one scale a tensor (vLLM, TensorRT-LLM): no bytes an element. int8 keeps an fp16 scale per
# 128 elements; int4 an fp16 scale and zero point per 64 (4.5 bits); int2 per 32 (3 bits: KIVI, arXiv 2402.02750).
FORMATS: Final = MappingProxyType({
    "fp32": ElementFormat(name="fp32", bits=32),
    "bf16": ElementFormat(name="bf16", bits=16),
    "fp16": ElementFormat(name="fp16", bits=16),
    "fp8": ElementFormat(name="fp8", bits=8),
    "int8": ElementFormat(name="int8", bits=8, group=128, scale_bytes=2),
    "fp4": ElementFormat(name="fp4", bits=4, group=16, scale_bytes=1),
    "int4": ElementFormat(name="int4", bits=4, group=64, scale_bytes=2, zero_bytes=2),
    "int2": ElementFormat(name="int2", bits=2, group=32, scale_bytes=2, zero_bytes=2),
})
_VARIANT: Final = re.compile(r"([a-z0-9]+?)(?:-g(\d{1,5}))?(-channel)?", re.ASCII)
_FORMS: Final = ("a group as in int4-g128, groups along tokens as in int2-channel, keys and values apart as in "
                 "int2-channel/int2")


def parse_format(text: str, *, what: str = "KV dtype") -> ElementFormat:
    """Read ``bf16``, ``fp8``, ``int4``, ``int4-g128`` (a group of 128) or ``int2-channel``. Raises UserError."""
    name = text.strip().lower()
    match = _VARIANT.fullmatch(name)
    if match and match[1] in FORMATS:
        base = FORMATS[match[1]]
        plain = match[2] is None and match[3] is None
        if plain:
            return base
        if not base.group:
            raise UserError(f"{what} '{text[:40]}': {match[1]} shares no scale in groups",
                            hint="groups go with " + ", ".join(f for f, v in FORMATS.items() if v.group))
        group = int(match[2]) if match[2] else base.group
        if group < 1:
            raise UserError(f"{what} '{text[:40]}': a group has at least 1 element")
        return replace(base, name=name, group=group, axis="channel" if match[3] else "token")
    raise UserError(f"unknown {what} '{text[:40]}': expected one of {', '.join(FORMATS)}",
                    hint=did_you_mean(name, FORMATS) or _FORMS)


def parse_cache_formats(text: str) -> tuple[ElementFormat, ElementFormat]:
    """Formats of keys and of values: one name for both, or ``keys/values``. Raises :class:`UserError`."""
    keys, slash, values = text.partition("/")
    first = parse_format(keys)
    return first, parse_format(values) if slash else first
