"""All rules over one profile, each remark at its line of the file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simkit.foundation.errors import Location, UserError, UserErrorGroup, one_line
from simkit.foundation.yaml_source import YamlSource
from simkit.hardware.catalog import list_hardware
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.inherit import load_profile_source
from simkit.hardware.lint import compute, costs, dram, links, memory, tiles
from simkit.hardware.lint.likeness import parameters_resemble_like_chips
from simkit.hardware.lint.remarks import Remark, Rule, Severity
from simkit.hardware.lint.sources import parameters_name_their_source
from simkit.hardware.profile import HardwareProfile

RULES: Final[tuple[Rule, ...]] = (*dram.RULES, *memory.RULES, *compute.RULES, *links.RULES, *costs.RULES,
                                  *tiles.RULES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One remark on a profile: how grave, what is wrong with which parameters, and where it stands."""

    severity: Severity
    message: str
    where: Location

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.severity}: {self.message}")


def lint(profile: HardwareProfile, source: YamlSource,
         catalogue: Sequence[HardwareProfile] | None = None) -> list[Finding]:
    """Every remark on a profile, in the order of the file.

    Parameters: source: the document the profile was read from, for places and sources; catalogue: the chips to
    compare with, the shipped ones when not given.
    """
    remarks: list[Remark] = [remark for rule in RULES for remark in rule(profile)]
    remarks += parameters_name_their_source(source)
    remarks += parameters_resemble_like_chips(profile, _shipped() if catalogue is None else catalogue)
    findings = [Finding(severity=severity, message=message, where=source.locate(path))
                for severity, path, message in remarks]
    return sorted(findings, key=lambda finding: (finding.where.file != source.file, finding.where.line or 0,
                                                 finding.severity, finding.message))


def check_profile(path: Path, folders: Sequence[Path] = ()) -> list[Finding]:
    """Every remark on a file: what cannot be read of it, or else what cannot be true.

    Parameters: folders: profiles that it may extend, searched before the shipped ones.
    """
    try:
        source = load_profile_source(path, folders).whole
        profile = profile_from_yaml(source)
    except UserError as error:
        faults = error.errors if isinstance(error, UserErrorGroup) else (error,)
        return [Finding(severity="error", message=f"{fault.message}; {fault.hint}" if fault.hint else fault.message,
                        where=fault.where or Location(file=str(path))) for fault in faults]
    return lint(profile, source)


@functools.cache
def _shipped() -> tuple[HardwareProfile, ...]:
    return tuple(list_hardware())
