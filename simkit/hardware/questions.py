"""A profile from answers: which questions, checked one by one as the schema checks files, and the commented YAML.

Knows nothing of terminals: ``ask`` brings the answers, be it from a person or from a test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, get_args, get_origin

from pydantic import create_model

from simkit.foundation.errors import UserError
from simkit.foundation.validation import KeyName, StrictRecord, Text, check, key_meanings, schema_at
from simkit.foundation.yaml_source import YamlSource, parse_yaml, read_scalar
from simkit.hardware.authoring import editor_line
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.schema import CONFIDENCES, ProfileSchema

Check = Callable[[str], str]
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
# Other readers of YAML take these for true, false and nothing.
_YAML_1_1_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_PEAKS: Final = ("bf16", "fp16", "fp8", "int8")


class Ask(Protocol):
    """Puts one question; ``read`` returns the answer as it will be written or raises :class:`UserError` to ask again.

    ``default`` is taken for an empty answer, and where it is empty itself the parameter is not known.
    """

    def __call__(self, question: str, read: Check, *, default: str | None = None) -> str:
        """The answer, as ``read`` gives it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One parameter or label: its key, what stands there (empty: not known), and the schema's words on it."""

    key: str
    answer: str
    meaning: str
    sourced: bool = True


def ask_profile(name: str, ask: Ask, say: Callable[[str], None]) -> str:
    """The YAML text of a profile of that name, written from answers.

    ``say`` gets headings and what the answers lack as a whole.
    """
    say("Parameters have units: 3.35 TB/s, 50 MiB, 1.98 GHz, 989.4 TFLOP/s. Peaks are dense. Empty: not known.")
    head = [_field("title", ask, default=name, sourced=False),
            _field("vendor", ask, sourced=False),
            _field("kind", ask, default="asic", sourced=False)]
    say("Compute units")
    compute = [_field("compute.units", ask),
               _field("compute.unit_name", ask, default="unit", sourced=False),
               _field("compute.clock", ask, default="")]
    peaks = _peaks(ask, say)
    tile = _field("compute.matrix.tile_rows", ask, default="")
    vector = _field("compute.vector_peak", ask, default="")
    levels = _levels(ask, say)
    fabric = _fabric(ask, say)
    say("Other chips")
    link = _link(ask)
    system = [_field("system.sharding", ask, default="tensor", sourced=False),
              _field("system.max_chips", ask, default="1")] if link else []
    say("Power, price and where all this comes from")
    power = [_field(f"power.{key}", ask, default="") for key in ("tdp", "idle", "flop_energy")]
    price = [_field("price.per_hour", ask, default="")]
    source = ask("source of these parameters", _reader(Text), default="own estimate, nothing published")
    confidence = ask(f"how far to trust them ({', '.join(CONFIDENCES)})", _one_of(CONFIDENCES), default="estimate")

    def lines(indent: str, entries: list[_Line]) -> Iterator[str]:
        for entry in entries:
            yield f"{indent}# {entry.meaning}"
            if not entry.answer:
                yield f"{indent}# {entry.key}: not known"
            elif entry.sourced:
                yield f"{indent}{entry.key}: {{value: {entry.answer}, source: answers, confidence: {confidence}}}"
            else:
                yield f"{indent}{entry.key}: {entry.answer}"

    def section(heading: str, entries: list[_Line], indent: str = "  ") -> Iterator[str]:
        if any(entry.answer for entry in entries):
            yield heading
            yield from lines(indent, entries)

    text = "\n".join([
        editor_line(),
        f"# {name}: written from answers to `simkit profile new {name}`. All parameters share one source:",
        "# give each its own, with the confidence that it deserves. `simkit profile check` reads this file back.",
        "schema_version: 1", f"name: {name}", *lines("", head), "sources:", f"  answers: {source}",
        "compute:", *lines("  ", compute), "  matrix:", "    peak:", *lines("      ", peaks), *lines("    ", [tile]),
        *lines("  ", [vector]),
        "# Levels, nearest to the compute units first.", "memory:",
        *(line for key, entries, dram in levels for line in (
            f"  {key}:", *lines("    ", entries), *(("    dram:", *lines("      ", dram)) if dram else ()))),
        *(line for heading, entries in fabric.items() for line in section(
            heading, entries, heading[:len(heading) - len(heading.lstrip())] + "  ")),
        *(("links:", "  scale_up:", *lines("    ", link)) if link else ()),
        *section("system:", system), *section("power:", power), *section("price:", price)]) + "\n"
    profile_from_yaml(parse_yaml(text, file=f"{name}.yaml"))
    return text


def _peaks(ask: Ask, say: Callable[[str], None]) -> list[_Line]:
    rate = get_args(_schema_of("compute.matrix.peak").model_fields["peak"].annotation)[1]
    while True:
        peaks = [_Line(key=dtype, answer=ask(f"{dtype} matrix peak", _reader(rate, optional=True), default=""),
                       meaning=f"Dense {dtype} rate of the matrix units.") for dtype in _PEAKS]
        if any(peak.answer for peak in peaks):
            return peaks
        say("At least one matrix rate is needed.")


def _levels(ask: Ask, say: Callable[[str], None]) -> list[tuple[str, list[_Line], list[_Line]]]:
    say("Memory levels, nearest to the compute units first; an empty name ends the list")
    levels: list[tuple[str, list[_Line], list[_Line]]] = []
    home = False
    while True:
        taken = [key for key, _, _ in levels]
        key = ask(f"name of level {len(levels) + 1}, such as {'sram' if not levels else 'hbm'}",
                  _unused(taken, needed=not home), default="")
        if not key:
            return levels
        kind = _field("memory.NAME.kind", ask, default="dram" if levels else "sram", sourced=False)
        scope = _field("memory.NAME.scope", ask, default="chip", sourced=False)
        entries = [kind, scope, _field("memory.NAME.capacity", ask)]
        bandwidth = _field("memory.NAME.bandwidth", ask, default="")
        entries.append(bandwidth if bandwidth.answer else _Line(
            key="bandwidth", answer="null", meaning=bandwidth.meaning, sourced=False))
        entries.append(_field("memory.NAME.latency", ask, default=""))
        if kind.answer == "dram":
            entries.append(_field("memory.NAME.achievable_fraction", ask, default=""))
        entries.append(_field("memory.NAME.energy", ask, default=""))
        dram = [_field("memory.NAME.dram.type", ask, default="")] if kind.answer == "dram" else []
        levels.append((key, entries, [line for line in dram if line.answer]))
        home = home or kind.answer == "dram" or (kind.answer == "sram" and scope.answer == "chip")


def _fabric(ask: Ask, say: Callable[[str], None]) -> dict[str, list[_Line]]:
    """The lines of the fabric by heading; none for a chip that is not made of tiles."""
    say("Tiles on the chip, each with a memory and an engine; empty: none")
    sides = ask("tiles along each side, such as 8 or 750 x 994", _sides, default="")
    if not sides:
        return {}
    return {
        "fabric:": [_Line(key="tiles", answer=sides, meaning="Tiles along each side."),
                    _field("fabric.topology", ask, default="mesh", sourced=False),
                    _field("fabric.start_cycles", ask, default="")],
        "  tile:": [_field(f"fabric.tile.{key}", ask, default="", prefix="tile ")
                    for key in ("port_bytes_per_cycle", "step_cycles")],
        "  link:": [_field(f"fabric.link.{key}", ask, default="", prefix="link between tiles ")
                    for key in ("bytes_per_cycle", "hop_cycles", "add_cycles")]}


def _sides(text: str) -> str:
    """One or two sides as a list of YAML."""
    sides = re.fullmatch(r"\s*(\d{1,5})(?:\s*[x×]\s*(\d{1,5}))?\s*", text)
    if text.strip() and sides is None:
        raise UserError("expected one or two whole numbers, such as 8 or 750 x 994")
    return "" if sides is None else f"[{', '.join(side for side in sides.groups() if side)}]"


def _link(ask: Ask) -> list[_Line]:
    bandwidth = _field("links.scale_up.bandwidth", ask, default="", prefix="link ")
    if not bandwidth.answer:
        return []
    return [_field("links.scale_up.name", ask, default="chip to chip", sourced=False, prefix="link "),
            _field("links.scale_up.topology", ask, default="switch", sourced=False, prefix="link "), bandwidth,
            _field("links.scale_up.latency", ask, prefix="link "),
            _field("links.scale_up.max_chips", ask, prefix="link ")]


def _schema_of(key: str) -> Any:
    """The schema of the section in which a dotted key stands."""
    return schema_at(ProfileSchema, key.split(".")[:-1])


def _field(dotted: str, ask: Ask, *, default: str | None = None, sourced: bool = True, prefix: str = "") -> _Line:
    """Ask for one key in the schema's own words, and check the answer as the schema would."""
    schema, key = _schema_of(dotted), dotted.rpartition(".")[2]
    info = schema.model_fields[key]
    meaning, annotation = " ".join(key_meanings(schema).get(key, "").split()), info.rebuild_annotation()
    choices = [str(word) for word in get_args(annotation)] if get_origin(annotation) is Literal else []
    spelled = [word for word in choices if word not in meaning]  # many a description explains each of its words
    words = "; ".join([", ".join(spelled), meaning.rstrip(".")] if spelled else [meaning.rstrip(".")])
    answer = ask(f"{prefix}{key.replace('_', ' ')} ({words})", _reader(annotation, optional=default == ""),
                 default=default)
    return _Line(key=key, answer=answer, meaning=meaning, sourced=sourced)


def _reader(annotation: Any, *, optional: bool = False) -> Check:
    """Checks an answer as a file's value of that type, and gives it back as it should be written there."""
    model: type[StrictRecord] = create_model("Answer", __base__=StrictRecord, answer=(annotation, ...))

    def read(text: str) -> str:
        text = text.strip()
        if not text and optional:
            return ""
        fault: UserError | None = None
        for value in dict.fromkeys((read_scalar(text), text)):  # a title may look like a number
            try:
                checked: Any = check(model, {"answer": value}, YamlSource(file="answer", data={}, places={}))
            except UserError as error:
                fault = fault or UserError(error.message, hint=error.hint)
            else:
                return _quoted(text) if isinstance(checked.answer, str) and not _plain(text) else text
        assert fault is not None  # noqa: S101 - the loop runs at least once
        raise fault

    return read


def _unused(taken: list[str], *, needed: bool) -> Check:
    read = _reader(KeyName, optional=True)

    def name(text: str) -> str:
        key = read(text)
        if not key and needed:
            raise UserError("no level yet in which weights and cache could live: a dram, or an sram of the whole chip")
        if key in taken:
            raise UserError(f"there is a level '{key}' already")
        return key

    return name


def _one_of(words: tuple[str, ...]) -> Check:
    def read(text: str) -> str:
        if text.strip() not in words:
            raise UserError(f"expected one of {', '.join(words)}")
        return text.strip()

    return read


def _plain(text: str) -> bool:
    """Safe to write without quotes: a word that YAML reads as itself."""
    return bool(_WORD.fullmatch(text)) and text.lower() not in _YAML_1_1_WORDS


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
