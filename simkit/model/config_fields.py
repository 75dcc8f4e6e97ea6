"""Typed reading of one config.json, remembering which fields were used, defaulted, and where each stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, Final, NoReturn

from simkit.foundation.errors import Location, UserError, shown
from simkit.foundation.yaml_source import KeyPath, YamlSource

MAX_LAYERS: Final = 10_000
_LARGEST: Final = 10**9
_NESTED: Final = ("thinker_config", "text_config", "language_config", "llm_config")
# Said by the outer configuration also where the sizes stand in a nested one.
_OUTER_WINS: Final = frozenset({"model_type", "architectures", "transformers_version", "torch_dtype", "dtype"})


@dataclass(slots=True)
class ConfigFields:
    """The fields of a configuration, those of a nested text decoder (Gemma 3) laid over the outer ones."""

    source: YamlSource
    values: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, KeyPath] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    defaults: dict[str, Any] = field(default_factory=dict)
    no_effect: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    sections: dict[str, ConfigFields] = field(default_factory=dict)
    inner_type: str | None = None
    """``model_type`` of a nested text configuration."""
    _family_defaults: dict[str, Any] = field(default_factory=dict)
    _contradictions: dict[str, UserError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in self.source.data.items():
            self.values[key], self.paths[key] = value, (key,)
        for name in _NESTED:
            if self.values.get(name) is not None:
                said = self.join(name).get("model_type")
                self.inner_type = said if isinstance(said, str) else self.inner_type

    def join(self, name: str) -> dict[str, Any]:
        """Count the fields of an object inside this one as its own; those that differ contradict each other."""
        nested, where = self.values.pop(name, {}), self.paths.get(name, (name,))
        if not isinstance(nested, dict):
            raise UserError(f"{shown(nested)} is not an object of fields", where=self.source.locate(where))
        for key, value in nested.items():
            if key in _OUTER_WINS and key in self.values:
                continue
            if key in self.values and self.values[key] != value:  # of no concern where nothing reads it
                self._contradictions[key] = UserError(
                    f"{shown(value)} contradicts {shown(self.values[key])} outside {name}",
                    where=self.source.locate([*where, key]))
            self.values[key], self.paths[key] = value, (*where, key)
        return nested

    def has(self, key: str) -> bool:
        """Whether the file gives the field a value (null is how transformers writes that it does not)."""
        return self.values.get(key) is not None

    def given(self, key: str) -> bool:
        """Whether the file or the family's configuration class gives the field a value."""
        return self.has(key) or self._family_defaults.get(key) is not None

    def section(self, key: str) -> ConfigFields:
        """The fields of an object inside this one."""
        value = self._given(key, None)
        if not isinstance(value, dict):
            raise self.error(key, f"{shown(value)} is not an object of fields")
        if key not in self.sections:
            inner = ConfigFields(YamlSource(file=self.source.file, data={}, places=self.source.places))
            inner.values, inner.paths = dict(value), {name: (*self.paths[key], name) for name in value}
            self.sections[key] = inner
        return self.sections[key]

    def place(self, key: str) -> Location:
        """Where a field stands; of an absent one, the file's first line."""
        return self.source.locate(self.paths.get(key, (key,)))

    def error(self, key: str, message: str) -> UserError:
        """The error to raise for a field."""
        return UserError(message, where=self.place(key))

    def set_default(self, key: str, value: Any) -> None:
        """What the family's configuration class means by the field's absence."""
        self._family_defaults[key] = value

    def rename(self, older_names: dict[str, str]) -> None:
        """Read fields under older names of theirs; both names with different values contradict each other."""
        for old, new in older_names.items():
            if old not in self.values:
                continue
            if new in self.values and self.values[new] != self.values[old]:
                raise self.error(old, f"contradicts {new}, another name of the same field")
            self.values[new], self.paths[new] = self.values[old], self.paths[old]
            self.used.add(old)

    def says(self, key: str, value: Any) -> None:
        """A field that another one already gives, which it may repeat and not contradict."""
        self.used.add(key)
        if self.has(key) and self.values[key] != value:
            raise self.error(key, f"{shown(self.values[key])} contradicts {shown(value)} of another field")

    def without_effect(self, key: str, reason: str) -> None:
        """Mark a field that this model's other fields make meaningless."""
        if key in self.values:
            self.no_effect[key] = reason

    def came_from(self, ours: str, theirs: str) -> None:
        """Remember which field a dotted key of the architecture was read from, for messages."""
        if theirs in self.paths:
            self.origins[ours] = theirs

    def whole(self, key: str, *, default: int | None = None, least: int = 1, most: int = _LARGEST) -> int:
        """A whole number. Absent or null: the default when there is one, else an error."""
        value = self._given(key, default)
        if isinstance(value, list) and value and len(value) == self.values.get("num_hidden_layers"):
            if any(one != value[0] for one in value):
                raise self.error(key, "differs from layer to layer, which is not modelled: expected one number")
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or (
                value != int(value)):
            self._wrong(key, value, "a whole number")
        most = MAX_LAYERS if key == "num_hidden_layers" else most
        if not least <= value <= most:
            raise self.error(key, f"{shown(value)} is out of range: expected {least} to {most}")
        return int(value)

    def whole_or_none(self, key: str, *, required: bool = False, least: int = 1) -> int | None:
        """A whole number or null. ``required``: the field must be there, if only as null."""
        if required and key not in self.values:
            raise self.error(key, "missing key: expected a whole number, or null for none")
        self.used.add(key)
        return self.whole(key, least=least) if self.has(key) else None

    def blocks(self, key: str) -> list[str]:
        """A list of texts, or the letters of one."""
        value = self._given(key, None)
        return list(value) if isinstance(value, str) else self.texts_or_none(key) or []

    def wholes(self, key: str, *, default: list[int] | None) -> list[int]:
        """A list of whole numbers."""
        value = self._given(key, default)
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            self._wrong(key, value, "a list of whole numbers")
        return value

    def flag(self, key: str, *, default: bool | None) -> bool:
        """True or false."""
        value = self._given(key, default)
        return value if isinstance(value, bool) else self._wrong(key, value, "true or false")

    def ratio(self, key: str, *, default_ratio: float | None = None) -> float:
        """A number above zero."""
        value = self._given(key, default_ratio)
        right = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf
        return float(value) if right else self._wrong(key, value, "a number above 0")

    def text(self, key: str, *, default: str | None = None) -> str:
        """A text, which must be there where no default says what its absence means."""
        value = self._given(key, default)
        return value if isinstance(value, str) else self._wrong(key, value, "a text")

    def texts_or_none(self, key: str) -> list[str] | None:
        """A list of texts, None when absent or null."""
        self.used.add(key)
        value = self.values.get(key)
        right = value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))
        return value if right else self._wrong(key, value, "a list of texts")

    def _wrong(self, key: str, value: Any, expected: str) -> NoReturn:
        raise self.error(key, f"{shown(value)} is not {expected}")

    def _given(self, key: str, default: Any) -> Any:
        self.used.add(key)
        if key in self._contradictions:
            raise self._contradictions[key]
        if self.has(key):
            return self.values[key]
        default = self._family_defaults.get(key, default)
        if default is None:
            raise self.error(key, "missing key" if key not in self.values else "null: expected a value")
        if default not in ([], ""):  # an absent list of exceptions is no parameter that anyone would want to check
            self.defaults[key] = default
        return default
