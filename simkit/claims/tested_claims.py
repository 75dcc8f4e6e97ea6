"""``simkit claims``: statements that people make about MQA and GQA, each put to the engines.

A file of claims (``workloads/studies/claims.yaml``) holds statements and the settings in which they are tested, never
answers. A test (the modules ``memory``, ``speed`` and ``techniques``) asks the engines, or published
scores (``quality``), and returns a :class:`simkit.claims.verdict.Finding`: a verdict, the figure, and under which
condition the statement holds, found on a grid or by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from simkit.claims import memory, quality, speed, techniques
from simkit.claims.verdict import Claim
from simkit.foundation.errors import UserError, did_you_mean, raise_collected
from simkit.foundation.named_files import find_file, user_folders
from simkit.foundation.validation import check
from simkit.foundation.yaml_source import KeyPath, YamlSource, load_yaml
from simkit.hardware.catalog import Chips, load_hardware

KIND: Final = "workloads/studies"
VARIABLE: Final = "SIMKIT_STUDIES"
DEFAULT_CLAIMS: Final = "claims"
MOST_CLAIMS: Final = 1_000
# The modules register their tests by name as they are imported.
TEST_MODULES: Final = (memory, quality, speed, techniques)


def read_claims(name_or_path: str | Path = DEFAULT_CLAIMS, *, studies: Path | str | None = None) -> list[Claim]:
    """The claims of a file, checked. Raises :class:`UserError` with every fault and its place."""
    path = find_file(str(name_or_path), kind=KIND, what="study", folders=user_folders(studies, VARIABLE))
    return claims_from_yaml(load_yaml(path))


def claims_from_yaml(source: YamlSource) -> list[Claim]:
    """As :func:`read_claims`, from a document."""
    entries = source.data.get("claims")
    if not isinstance(entries, list) or not entries:
        raise UserError("no claims: expected a list 'claims:' of statements with a test each",
                        where=source.locate(("claims",)),
                        hint="a study of figures is drawn by simkit report" if "figures" in source.data else None)
    if len(entries) > MOST_CLAIMS:
        raise UserError(f"more than {MOST_CLAIMS:,} claims", where=source.locate(("claims",)))
    # Faults are told at the claim's own lines: its keys, seen from the claim.
    places: list[dict[KeyPath, tuple[int, int]]] = [{} for _ in entries]
    for path, place in source.places.items():
        if len(path) >= 2 and path[0] == "claims" and isinstance(path[1], int):
            places[path[1]][path[2:]] = place
    claims: list[Claim] = []
    faults: list[UserError] = []
    for index, entry in enumerate(entries):
        try:
            claims.append(_claim(entry, index, source, places[index]))
        except UserError as fault:
            faults.append(fault)
    raise_collected(faults)
    return claims


def _claim(entry: Any, index: int, source: YamlSource, places: dict[KeyPath, tuple[int, int]]) -> Claim:
    here = ("claims", index)
    if not isinstance(entry, dict) or not isinstance(entry.get("test"), str):
        raise UserError("expected a claim with 'id', 'says' and 'test'", where=source.locate(here))
    schema = Claim.tests.get(entry["test"])
    if schema is None:
        raise UserError(f"unknown test '{entry['test'][:40]}'", where=source.locate((*here, "test")),
                        hint=did_you_mean(entry["test"], Claim.tests))
    return check(schema, entry, YamlSource(file=source.file, data=entry, places=places)).at(source.locate(here))


def judge_claims(claims: Sequence[Claim], engine: str = "roofline", *,
                 chips: Chips = load_hardware) -> list[dict[str, Any]]:
    """One record a claim: ``id, statement, verdict, condition, figure, found, claimed, unit, test, engine``.

    Parameters: claims: what is said; engine: who answers; chips: gives the profile that a claim calls by name or path.
    """
    records = []
    for claim in claims:
        finding = claim.judged(engine, chips)
        known = finding.found if finding.found is not None and math.isfinite(finding.found) else None
        records.append({
            "id": claim.id, "statement": claim.says, "verdict": finding.verdict, "condition": finding.condition,
            "figure": finding.figure, "found": known, "claimed": finding.claimed, "unit": finding.unit,
            "test": claim.test, "engine": engine})
    return records
