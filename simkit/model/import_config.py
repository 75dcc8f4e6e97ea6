"""From a Hugging Face ``config.json`` to an architecture YAML, with every field accounted for.

Each field of the file is one of: used, known to be without effect on a decode step, or unknown. Unknown ones are
reported and never guessed at, and refused where their name says that a step may feel them; fields that are missing,
malformed or contradict each other are errors with their line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from simkit.foundation.errors import Location, UserError, did_you_mean, shorten
from simkit.foundation.validation import check
from simkit.foundation.yaml_source import parse_yaml
from simkit.model.architecture import ModelArchitecture
from simkit.model.config_fields import ConfigFields
from simkit.model.import_families import read_family
from simkit.model.import_fields import Fields, families, no_effect, refused
from simkit.model.json_source import load_json
from simkit.model.schema import SCHEMA_VERSION, ModelSchema, model_from_yaml

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LINE_LENGTH: Final = 110  # of the YAML that is written, as in the shipped files
_LONGEST_KEY: Final = 60
# Parts of names that speak of what a step stores, reads or multiplies by.
_FELT: Final = re.compile(
    r"att(n|ention)|head|kv|cache|window|layer|expert|moe|rank|dim|size|sparse|index|compress|state|conv|ssm|mamba|linear"
    r"|shar(e|ing)|chunk|block|top_?k|freq|interval|latent|mlp|ratio|pool|group|quer(y|ies)|lora|recur|loop|depth|width"
    r"|stride|quant|bits|delta|hybrid|stream|draft|mtp|sink|evict|ffn|merg|prun|gate|gating|branch|engram|altup|iterat|repeat"
    r"|exit|fp[48]|int[48]|(^|_)(skip|[gm]qa|mla|cla|swa|[dhmn]sa|rnn|hc|global|local)(_|$)")
# What a name's end says, where the value is of its kind and the rest of the name speaks of nothing else.
_ENDINGS: Final = (
    (re.compile(r"_token_(ids?|index)$"), (int, list), "token numbers"),
    (re.compile(r"(^|_)(eps|epsilon|dropout|pdrop|dropout_(rate|prob|p))$"), (float,), "norms and training"),
    (re.compile(r"_bias$"), (bool,), "biases: below 0.1 % of the parameters"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigField:
    """One field of the file that did not enter the architecture, and why not."""

    key: str
    where: Location
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """An imported architecture and the account of the file's fields.

    ``defaults`` are absent fields, with the value that the family's configuration class gives them.
    """

    model: ModelArchitecture
    yaml_text: str
    unknown: tuple[ConfigField, ...]
    without_effect: tuple[ConfigField, ...]
    defaults: tuple[tuple[str, Any], ...]


def import_config(path: Path | str, name: str | None = None) -> ImportResult:
    """Read a ``config.json`` of a known family.

    Parameters
    ----------
    path: the file.
    name: the architecture's name; default is the file's, or of a file called config.json its folder's.

    Raises :class:`UserError` with file:line for whatever is missing, malformed, contradictory or not modelled.
    """
    path = Path(path)
    source = load_json(path)
    config = ConfigFields(source)
    family = family_of(config)
    fields: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "name": _name(path, name)}
    model_type = config.text("model_type")
    fields["title"] = f"{fields['name']} (imported)"
    fields |= read_family(config, family)
    taken = f" (its text decoder, {config.inner_type})" if config.inner_type else ""
    fields["source"] = f"config.json of model_type {model_type}{taken}, imported by simkit"
    places = {ours: config.place(theirs) for ours, theirs in config.origins.items()}
    check(ModelSchema, fields, source, places)
    text = yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=_LINE_LENGTH, allow_unicode=True)
    unknown, without_effect = _account(config)
    return ImportResult(model=model_from_yaml(parse_yaml(text, file=str(path))), yaml_text=text, unknown=unknown,
                        without_effect=without_effect, defaults=tuple(sorted(config.defaults.items())))


def family_of(config: ConfigFields) -> Fields:
    """The family that ``model_type`` names. Raises :class:`UserError` for others, and when the class disagrees."""
    model_type, inner, known = config.text("model_type"), config.inner_type, families()
    for name in (model_type, inner or ""):
        if name in refused():
            raise UserError(f"a model of model_type '{name}' {refused()[name]}", where=config.place("model_type"))
    family = known.get(model_type)
    if family is None and inner in known:  # images or sound around a text decoder that is known
        config.without_effect("architectures", "of the model around the text decoder")
        return known[inner]
    if family is None:
        raise UserError(f"model_type '{model_type[:40]}' is not a family that simkit imports",
                        where=config.place("model_type"),
                        hint=did_you_mean(model_type, known) or "known: " + ", ".join(sorted(known)))
    if family["inner"] and inner is not None and inner not in (model_type, *family["inner"]):
        raise UserError(f"a text decoder of model_type '{inner[:40]}' is not that of a {model_type}: "
                        f"expected {' or '.join(family['inner'])}",
                        where=config.source.locate(["text_config", "model_type"]))
    classes = config.texts_or_none("architectures") or []
    # Qwen3MoeForCausalLM begins with Qwen3 and is not of its family: what follows the prefix must begin a new word.
    fitting = re.compile(rf"{family['class']}(For|Text|Model)")
    plain = re.sub(r"\[(.).*?\]", r"\1", re.sub(r"\(.*?\)\??|.\?", "", family["class"]))
    if classes and not any(fitting.match(name) for name in classes):
        raise config.error("architectures", f"'{classes[0][:40]}' is not a model of the family {model_type}: "
                                            f"expected such as {plain}ForCausalLM")
    return family


def _name(path: Path, name: str | None) -> str:
    if name is not None:
        if not _NAME.fullmatch(name):
            raise UserError(f"'{name[:80]}' cannot name a model: expected at most 64 letters, digits, '.', '_' and "
                            "'-', begun by a letter or digit")
        return name
    found = path.resolve().parent.name if path.name == "config.json" else path.stem
    if not _NAME.fullmatch(found):
        raise UserError(f"'{found[:80]}' cannot name a model", where=Location(file=str(path)), hint="give a name")
    return found.lower()


def _account(config: ConfigFields) -> tuple[tuple[ConfigField, ...], tuple[ConfigField, ...]]:
    """Fields that nothing read: unknown ones, and those known to be without effect, in the file's order."""
    reasons = no_effect() | config.no_effect
    unknown: list[ConfigField] = []
    without_effect: list[ConfigField] = []
    for section in config.sections.values():
        further, plain = _account(section)
        unknown += further
        without_effect += plain
    for key, value in config.values.items():
        known = key in reasons and (key not in config.used or key in config.no_effect)
        if key in config.used and not known:
            continue
        reason = reasons[key] if known else next((why for ending, kinds, why in _ENDINGS if (
            ending.search(key) and (not value or isinstance(value, kinds)) and (
                int not in kinds or not _FELT.search(ending.sub("", key.lower()))))), None)
        if reason is None and _is_felt(key, value):
            raise config.error(key, "not known to simkit, and by its name it may change what a step reads or "
                                    "multiplies by: expected a file without it")
        (unknown if reason is None else without_effect).append(ConfigField(
            key=shorten(key, _LONGEST_KEY), where=config.place(key), reason=reason or "not known to simkit"))
    return tuple(unknown), tuple(without_effect)


def _is_felt(key: str, value: Any) -> bool:
    """Whether a step may feel a field, or one inside an object of them."""
    return value not in (None, False, 0, "", [], {}) and (_FELT.search(key.lower()) is not None or (isinstance(
        value, dict) and any(_is_felt(inner, of) for inner, of in value.items() if inner not in no_effect())))
