"""A second pool of chips in words: which, how many, what it does of a step, and what joins it to the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.units import BYTES_PER_S, SECONDS, parse_quantity
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.step.workload import PARTS
from simkit.timing.pools import Between

DRAFT: Final = "draft"  # of speculation: proposing, where a model or layers of the target's own do it step by step
KEPT: Final = (*PARTS[1:], DRAFT)
DEFAULT_KEPT: Final = "projections,ends"
FREE: Final = "free"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pools:
    """The chips beside those of attention. ``kept``: parts of a step that attention's pool does, drafts among them.

    ``chips`` None: as few as the first pool is asked for by words. ``micro_batches`` None: those of the shortest step.
    """

    hardware: HardwareProfile
    chips: int | None
    between: Between
    between_words: str
    kept: tuple[str, ...] = ("attention", "projections", "ends")
    micro_batches: int | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """What the other pool does."""
        return tuple(part for part in PARTS if part not in self.kept)


def split_count(text: str) -> tuple[str, int | None]:
    """``groq-3-lpu:64`` as a name and its number of chips; None without one.

    >>> split_count("groq-3-lpu:64"), split_count("h100-sxm")
    (('groq-3-lpu', 64), ('h100-sxm', None))
    """
    name, colon, number = text.rpartition(":")
    if not colon or not (number.isascii() and number.isdigit()):
        return text, None
    if not 0 < len(number) < 8 or int(number) < 1:
        raise UserError(f"'{text[:60]}': expected a number of chips of at least 1 after the colon")
    return name, int(number)


def parse_between(text: str) -> Between:
    """``400GB/s,2us``: bytes a second in each direction and the latency of a message; ``free``: neither."""
    if text.strip().lower() == FREE:
        return Between(bandwidth_bytes_per_s=float("inf"), latency_s=0.0)
    rate, comma, latency = text.partition(",")
    if not comma:
        raise UserError(f"between '{text[:60]}': expected bandwidth and latency, such as 400GB/s,2us, or {FREE}")
    found = Between(bandwidth_bytes_per_s=parse_quantity(rate.strip(), BYTES_PER_S),
                    latency_s=parse_quantity(latency.strip(), SECONDS))
    if not (found.bandwidth_bytes_per_s > 0 and found.latency_s >= 0):
        raise UserError(f"between '{text[:60]}': expected a bandwidth above 0 and a latency that is not negative")
    return found


def parse_kept(text: str) -> tuple[str, ...]:
    """The parts of a step that stay with attention, as after ``--with-attention``; ``none``: attention alone."""
    words = [word.strip().lower() for word in text.split(",") if word.strip().lower() != "none"]
    for word in words:
        if word not in KEPT:
            raise UserError(f"with-attention '{word[:40]}': expected none, or some of {', '.join(KEPT)}",
                            hint=did_you_mean(word, KEPT))
    return tuple(part for part in (*PARTS, DRAFT) if part == "attention" or part in words)


# What files say of a second pool, and how each word is read; all of them: parse_pools.
POOL_WORDS: Final[dict[str, Callable[[str], Any]]] = {
    "ffn": split_count, "between": parse_between, "with_attention": parse_kept, "micro_batches": int}


def parse_pools(ffn: Any, between: str | None, with_attention: str | None, micro_batches: int | None) -> Pools | None:
    """The second pool; None without one.

    Parameters: ffn: a profile's name and a number of chips, ``groq-3-lpu:64``, or a loaded profile and a number;
    between, with_attention: as of :func:`parse_between`, :func:`parse_kept`. Raises :class:`UserError`.
    """
    if ffn is None:
        for word, value in (("between", between), ("with-attention", with_attention), ("micro-batches", micro_batches)):
            if value is not None:
                raise UserError(f"{word} goes with ffn, a second pool of chips")
        return None
    if between is None:
        raise UserError("ffn without between: what joins the two pools is not stated",
                        hint=f"between 400GB/s,2us gives bytes a second in each direction and latency; or {FREE}")
    if isinstance(ffn, str):
        name, chips = split_count(ffn)
        hardware = load_hardware(name)
    else:
        hardware, chips = ffn
    if micro_batches is not None and not 1 <= micro_batches <= 1e6:
        raise UserError(f"micro_batches {micro_batches}: expected a whole number from 1 to 1,000,000")
    return Pools(hardware=hardware, chips=chips, between=parse_between(between), between_words=between.strip(),
                 kept=parse_kept(DEFAULT_KEPT if with_attention is None else with_attention),
                 micro_batches=micro_batches)
