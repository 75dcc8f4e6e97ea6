"""From a fit to a profile that anybody can read: the same text with a new kernel section, intervals in its notes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from simkit.evidence.silicon.calibrate import Calibration
from simkit.evidence.silicon.tables import MeasuredTimes
from simkit.foundation.errors import Location, UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.authoring import copy_profile
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.kernel import SECTIONS
from simkit.hardware.profile import HardwareProfile

_KERNEL_SECTION: Final = "^kernel:.*(?:\n[ \t].*)*\n"


def rows_of_profile(rows: MeasuredTimes, hardware: HardwareProfile) -> MeasuredTimes:
    """The rows of the profile's chip: its name or aliases, or the table's only system.

    Raises :class:`UserError` when several systems are measured and none of them is this chip.
    """
    known = [system for system in rows.systems if system in (hardware.name, *hardware.aliases)]
    if known:
        return rows.of_system(known[0])
    if len(rows.systems) == 1:
        return rows
    raise UserError(f"no row is of {hardware.name}: the table has {', '.join(rows.systems)[:200]}",
                    where=Location(file=rows.name), hint="the profile's aliases name it in measured data")


def calibrated_text(found: Calibration, name: str, measured: str) -> str:
    """The YAML text of the profile called ``name`` with the fitted parameters; what was not fitted stays as it was."""
    hardware = found.hardware
    text = re.sub(_KERNEL_SECTION, "", copy_profile(name, hardware.file or hardware.name), count=1, flags=re.MULTILINE)
    fitted = {parameter.name: parameter for parameter in found.parameters}
    source = f'"least squares on {len(found.rows)} rows of {Path(measured).name} (simkit calibrate)"'
    sections: dict[str, list[str]] = {section: [] for section in ("", *SECTIONS)}
    for key, value in (hardware.kernel_parameters or {}).items():
        section, _, short = key.rpartition(".")
        if key in fitted and (interval := fitted[key].interval) is not None:
            entry = (f"{{value: {value:.4g}, source: {source}, confidence: calibration, "
                     f'note: "5-95 % interval {interval[0]:.4g} to {interval[1]:.4g}"}}')
        else:
            stated = hardware.provenance.get(f"kernel.{key}")
            words = {"source": stated.source, "confidence": stated.confidence, "note": stated.note} if stated else {}
            entry = "{" + ", ".join([f"value: {value:.6g}", *(
                f"{word}: {_quoted(said)}" for word, said in words.items() if said)]) + "}"
        sections[section].append(f"{'    ' if section else '  '}{short}: {entry}")
    lines = ["kernel:"]
    if hardware.kernel_like is not None:
        lines.append(f"  like: {hardware.kernel_like}")
    lines += sections[""]
    for section in SECTIONS:
        if sections[section]:
            lines += [f"  {section}:", *sections[section]]
    text = text.rstrip("\n") + "\n" + "\n".join(lines) + "\n"
    profile_from_yaml(parse_yaml(text, file=f"{name}.yaml"))
    return text


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
