r"""Requests by seed: Poisson or bursty gamma arrivals, and lengths from quantiles, log-normal, uniform or fixed.

Gaps are gamma with mean :math:`1/\lambda` and coefficient of variation ``CV`` (1: a Poisson process; above 1: bursts).
Each chunk of requests has a random stream of its own, so that reading a stream twice gives the same requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from simkit.foundation.axis_syntax import parse_axis
from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.named_files import catalogue_files, find_file
from simkit.foundation.validation import Number, StrictRecord, Text, check, rule
from simkit.foundation.yaml_source import YamlSource, load_yaml
from simkit.serving.requests import CHUNK_REQUESTS, PREFIX_TOKENS, Requests, Stream

KIND: Final = "workloads/traces"
_ONE: Final = re.compile(r"(?:(?P<fixed>\d{1,9})|lognormal:(?P<mean>\d{1,9}):(?P<cv>\d{1,2}(?:\.\d{1,6})?)"
                         r"|uniform:(?P<low>\d{1,9}):(?P<high>\d{1,9}))", re.ASCII)
_THOUSANDS: Final = re.compile(r"\b(\d{1,6})k\b", re.ASCII)
_FORMS: Final = ("expected a name such as azure-conv-2023, or PROMPT/OUTPUT where each is a number, "
                 "lognormal:MEAN:CV or uniform:LOW:HIGH")
_MOST_TOKENS: Final = 10**9
_MOST_PREFIXES: Final = 10**7

# Standard normal numbers [n] to whole tokens of at least 1.
Quantiles = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class LengthLaw:
    """How long prompts and outputs are, as functions of standard normal numbers, and how those two correlate."""

    name: str
    prompt: Quantiles
    output: Quantiles
    correlation: float = 0.0
    gap_cv: float = 1.0


def parse_arrivals(text: str) -> float:
    """The gaps' coefficient of variation of ``poisson`` or ``gamma:CV``. Raises :class:`UserError`."""
    name, _, value = text.strip().lower().partition(":")
    if name == "poisson" and not value:
        return 1.0
    if name == "gamma" and re.fullmatch(r"\d{1,2}(\.\d{1,6})?", value, re.ASCII) and 0.01 <= float(value) <= 20:
        return float(value)
    raise UserError(f"arrivals '{text[:40]}': expected poisson or gamma:CV with CV from 0.01 to 20",
                    hint=did_you_mean(name, ["poisson", "gamma"]))


def parse_lengths(text: str) -> LengthLaw:
    """A shipped law by name or path, or ``PROMPT/OUTPUT``. Raises :class:`UserError`."""
    prompt, slash, output = _THOUSANDS.sub(lambda found: str(int(found[1]) * 1024), text.strip().lower()).partition("/")
    if slash and _ONE.fullmatch(prompt) and _ONE.fullmatch(output):
        return LengthLaw(name=text.strip().lower(), prompt=_law(prompt), output=_law(output))
    if text not in catalogue_files(KIND) and not text.endswith((".yaml", ".yml")):
        raise UserError(f"lengths '{text[:60]}': {_FORMS}", hint=did_you_mean(text, catalogue_files(KIND)))
    return _from_yaml(load_yaml(find_file(text, kind=KIND, what="length law")))


def parse_shared_prefix(text: str) -> tuple[int, int]:
    """``(tokens, how many different)`` of ``TOKENS`` or ``TOKENS:N``. Raises :class:`UserError`."""
    tokens, _, several = text.strip().lower().partition(":")
    several = several or "1"
    found = parse_axis(tokens, what="--shared-prefix") + parse_axis(several, what="--shared-prefix")
    if len(found) != 2 or found[0] > _MOST_TOKENS or found[1] > _MOST_PREFIXES:
        raise UserError(f"--shared-prefix '{text[:40]}': expected TOKENS or TOKENS:N, such as 4k:100")
    return int(found[0]), int(found[1])


def generate(lengths: LengthLaw, *, requests_per_s: float, gap_cv: float, requests: int, seed: int,
             shared_prefix: tuple[int, int] | None = None) -> Stream:
    """A stream of ``requests`` requests; equal arguments give equal requests, whatever the machine.

    Parameters
    ----------
    lengths: how long they are.
    requests_per_s: mean arrivals a second.
    gap_cv: coefficient of variation of the gaps between arrivals.
    requests, seed: how many, and which of all such streams.
    shared_prefix: ``(tokens, N)``: before each prompt comes one of N beginnings of so many tokens, equally often.
    """
    if not 0 < requests_per_s < 1e9:
        raise UserError(f"--rate {requests_per_s:g}: expected requests a second, above 0")

    def chunks() -> Iterator[Requests]:
        now_s = 0.0
        for index, start in enumerate(range(0, requests, CHUNK_REQUESTS)):
            random = np.random.Generator(np.random.PCG64([seed, index]))
            count = min(CHUNK_REQUESTS, requests - start)
            shape = gap_cv**-2.0
            gaps = random.gamma(shape, 1.0 / shape, count) / requests_per_s
            first = random.standard_normal(count)
            second = lengths.correlation * first + np.sqrt(1 - lengths.correlation**2) * random.standard_normal(count)
            arrival_s = now_s + np.cumsum(gaps)
            now_s = float(arrival_s[-1])
            drawn = Requests(arrival_s=arrival_s, prompt_tokens=lengths.prompt(first).astype(np.int64),
                             output_tokens=lengths.output(second).astype(np.int64))
            yield drawn if shared_prefix is None else _begun_alike(
                drawn, *shared_prefix, random.integers(shared_prefix[1], size=count), index)

    return Stream(name=lengths.name, chunks=chunks)


def _begun_alike(drawn: Requests, tokens: int, several: int, which: NDArray[np.int64], index: int) -> Requests:
    """The requests with one of ``several`` beginnings before each prompt; all other blocks are met once."""
    prompt_tokens = drawn.prompt_tokens + tokens
    blocks = prompt_tokens // PREFIX_TOKENS
    first = np.cumsum(blocks) - blocks
    place = np.arange(int(blocks.sum())) - np.repeat(first, blocks)
    shared = tokens // PREFIX_TOKENS
    own = several * shared + (index << 36) + np.arange(place.size)
    numbers = np.where(place < shared, np.repeat(which, blocks) * shared + place, own)
    return replace(drawn, prompt_tokens=prompt_tokens, numbers=numbers, first=first, blocks=blocks)


def _law(text: str) -> Quantiles:
    match = _ONE.fullmatch(text)
    if match is None:
        raise UserError(f"lengths '{text[:60]}': {_FORMS}")
    if match["fixed"]:
        tokens = float(match["fixed"])
        if tokens < 1:
            raise UserError(f"lengths '{text}': at least 1 token")
        return lambda normal: np.full(normal.shape, tokens)
    if match["mean"]:
        mean, cv = float(match["mean"]), float(match["cv"])
        sigma = np.sqrt(np.log1p(cv**2))
        return lambda normal: np.clip(np.rint(mean * np.exp(sigma * normal - sigma**2 / 2)), 1, _MOST_TOKENS)
    low, high = float(match["low"]), float(match["high"])
    if not 1 <= low <= high:
        raise UserError(f"lengths '{text}': expected 1 <= LOW <= HIGH")
    return lambda normal: np.rint(low + (high - low) * _probability(normal))


def _probability(normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard normal distribution function."""
    from scipy.special import ndtr

    return np.asarray(ndtr(normal), dtype=float)


class LengthsSchema(StrictRecord):
    """A law of lengths as its file states it: quantiles, between which logarithms are straight lines."""

    name: Text | None = None
    title: Text | None = None
    source: Text | None = None
    rate_per_s: Number | None = None
    gap_cv: Annotated[Number, Field(ge=0.01, le=20.0)]
    rank_correlation: Annotated[Number, Field(ge=-1.0, le=1.0)]
    probabilities: Annotated[list[Annotated[Number, Field(ge=0.0, le=1.0)]], Field(min_length=2)]
    prompt_tokens: list[Annotated[Number, Field(ge=1.0, le=_MOST_TOKENS)]]
    output_tokens: list[Annotated[Number, Field(ge=1.0, le=_MOST_TOKENS)]]

    @model_validator(mode="after")
    def _is_a_distribution(self) -> LengthsSchema:
        if (self.probabilities[0], self.probabilities[-1]) != (0, 1):
            raise rule("expected probabilities from 0 to 1", "probabilities")
        for key in ("probabilities", "prompt_tokens", "output_tokens"):
            values = getattr(self, key)
            if len(values) != len(self.probabilities) or values != sorted(values):
                raise rule(f"expected {len(self.probabilities)} rising numbers, one for each probability", key)
        return self


def _from_yaml(source: YamlSource) -> LengthLaw:
    stated = check(LengthsSchema, source.data, source)
    # A normal copula of correlation r has the rank correlation (6 / pi) asin(r / 2).
    return LengthLaw(name=stated.name or source.file, prompt=_between(stated.probabilities, stated.prompt_tokens),
                     output=_between(stated.probabilities, stated.output_tokens),
                     correlation=float(2 * np.sin(np.pi * stated.rank_correlation / 6)), gap_cv=stated.gap_cv)


def _between(probabilities: list[float], tokens: list[float]) -> Quantiles:
    logs = np.log(tokens)
    return lambda normal: np.maximum(np.rint(np.exp(np.interp(_probability(normal), probabilities, logs))), 1.0)
