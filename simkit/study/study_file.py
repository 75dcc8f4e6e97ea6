"""A study as its YAML file describes it: what to vary, where to look, what to draw and what to say about it.

::

    schema_version: 1
    name: my_study
    title: What a reader sees first
    question: The question that the page answers.
    hardware: [h100-sxm, groq-lpu]
    models: [llama-2-70b]
    layouts: [mha, gqa-8, mqa]
    batch: 1..256*2            # the command line's list and range syntax
    kv_len: 1k..128k*2
    focus: {batch: 32, kv_len: 4k}
    figures:
      - kind: roofline
      - {kind: advantage_heatmap, hardware: [h100-sxm, groq-lpu]}

Every figure takes the study's hardware, model, layouts and axes unless it names its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, model_validator

from simkit.foundation.errors import UserError, UserErrorGroup, did_you_mean, raise_collected
from simkit.foundation.named_files import catalogue_files, find_file, user_folders
from simkit.foundation.validation import Name, StrictRecord, Text, check, rule
from simkit.foundation.yaml_source import YamlSource, load_yaml
from simkit.hardware.catalog import CATALOGUE, list_chips, load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import parse_format
from simkit.study.engines import ENGINES
from simkit.study.evaluate import FIT, FIT_EACH
from simkit.study.pool_words import parse_between, split_count
from simkit.study.stacking import DEFAULT_STACK, parse_stack
from simkit.study.study_values import Axis, Chips, FigureKind, Point

KIND: Final = "workloads/studies"
VARIABLE: Final = "SIMKIT_STUDIES"
DEFAULT_STUDY: Final = "gqa_on_asics"
MAX_GRID_POINTS: Final = 200_000
# Figures of a layout's advantage over MHA, and those whose ratios need the same chips, also under fit-each.
_COMPARING: Final = ("grouping_law", "advantage_heatmap", "separate_causes", "both_metrics", "bandwidth_scaling",
                     "concurrent_users", "energy_cost", "tp_replication", "quality_speed")
# More layouts than a figure has colours or marks for; goodput draws the last layout once more.
_MOST_LAYOUTS: Final = {"serving_goodput": 5, "concurrent_users": 6, "energy_cost": 6, "split_machines": 6}
_ON_THE_SAME_CHIPS: Final = {*_COMPARING, "stacking", "serving_goodput"} - {"concurrent_users", "energy_cost"}
FIGURE_KINDS: Final[tuple[str, ...]] = get_args(FigureKind)

Names = Annotated[list[Text], Field(min_length=1, max_length=24)]


class FocusSchema(StrictRecord):
    """The point at which figures of a single point are drawn."""

    batch: Point
    """Sequences of figures that show a single point."""
    kv_len: Point
    """Their cached tokens."""


class FigureSchema(StrictRecord):
    """One figure; what it leaves out it takes from the study."""

    kind: FigureKind
    """What it shows; docs/studies.md lists them."""
    name: Name | None = None
    """Name of its files; default: the kind."""
    title: Text | None = None
    """Heading; default: the kind's own."""
    hardware: Names | None = None
    """Profiles in place of the study's; catalogue: all there are."""
    model: Text | None = None
    """Model in place of the study's first."""
    layouts: Names | None = None
    """Layouts in place of the study's."""
    batch: Axis | None = None
    """Sequences in place of the study's; a single one moves the focus."""
    kv_len: Axis | None = None
    """Cached tokens likewise."""
    kv_dtype: Text | None = None
    """Format of the cache in place of the study's."""
    weight_dtype: Text | None = None
    """Format of the weights likewise."""
    chips: Chips | None = None
    """Chips in place of the study's."""
    engine: Text | None = None
    """Engine in place of the study's."""
    reducers: Names | None = None
    """For ``stacking``: what is turned on one after another, as in ``simkit stack``."""
    beside: Text | None = None
    """For ``grouping_law`` and ``kv_head_cost``: a second engine, drawn beside the first, or of tiles before it."""
    ffn: Names | None = None
    """For ``split_machines``: second pools of chips with their numbers, as after --ffn."""
    between: Text | None = None
    """For ``split_machines``: what joins them to the first pool, as after --between."""
    note: Text | None = None
    """A sentence printed under the caption."""

    @model_validator(mode="after")
    def _has_only_its_own_options(self) -> FigureSchema:
        if self.reducers is not None and self.kind != "stacking":
            raise rule(f"only a stacking figure has reducers, not {self.kind}", "reducers")
        if self.beside is not None and self.kind not in ("grouping_law", "kv_head_cost"):
            raise rule(f"only grouping_law and kv_head_cost have a second engine, not {self.kind}", "beside")
        for key in ("ffn", "between"):
            if (getattr(self, key) is not None) != (self.kind == "split_machines"):
                raise rule(f"a split_machines figure has {key}, and no other has: not {self.kind}", key)
        return self


class StudySchema(StrictRecord):
    """A simkit study."""

    schema_version: Literal[1]
    """Form of this file."""
    name: Name
    """Of the folder under out/."""
    title: Text
    """Heading of the page."""
    question: Text
    """The question that the page answers."""
    text: list[Text] = Field(default_factory=list)
    """Paragraphs above the figures."""
    assumptions: list[Text] = Field(default_factory=list)
    """What a reader must know to judge the figures, listed under the text."""
    hardware: Names
    """Profiles by name or path."""
    labels: dict[str, Annotated[str, Field(min_length=1, max_length=24)]] = Field(default_factory=dict)
    """Short names in figures, of chips called as under ``hardware`` or as their profiles are."""
    models: Names
    """Models by name or path; the first is drawn where a figure takes one."""
    layouts: Names
    """Names as on the command line (mha, gqa-K, as-trained), in the order of legends."""
    batch: Axis
    """Sequences, a list or range as on the command line."""
    kv_len: Axis
    """Cached tokens a sequence, likewise."""
    kv_dtype: Text = "bf16"
    """Format of the KV cache, as after --kv-dtype."""
    weight_dtype: Text = "bf16"
    """Format of the weights."""
    chips: Chips = "fit"
    """A number; fit: of least cost a token where every layout fits; fit-each: for each alone; fewest; up-to-N."""
    engine: Text = "roofline"
    """roofline or replay."""
    focus: FocusSchema | None = None
    """The point that figures of one point show; a study without figures needs none."""
    figures: Annotated[list[FigureSchema], Field(max_length=40)] = Field(default_factory=list)
    """What to draw, in the order of the page; empty: only swept."""

    @model_validator(mode="after")
    def _is_consistent(self) -> StudySchema:
        if self.figures and self.focus is None:
            raise rule("missing key 'focus': figures show a point", "focus")
        names = [figure.name or figure.kind for figure in self.figures]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise rule(f"a second figure called '{name}': give it a 'name'", "figures", str(index))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRequest:
    """One figure with everything filled in: what to draw, over which chips, layouts and axes, and the focus point."""

    kind: str
    name: str
    title: str | None
    note: str | None
    hardware: tuple[HardwareProfile, ...]
    model: ModelArchitecture
    layouts: tuple[str, ...]
    batch: tuple[int, ...]
    kv_len: tuple[int, ...]
    focus_batch: int
    focus_kv_len: int
    kv_dtype: str
    weight_dtype: str
    chips: int | str
    engine: str
    reducers: tuple[str, ...] = DEFAULT_STACK
    beside: str | None = None
    ffn: tuple[tuple[HardwareProfile, int], ...] = ()
    between: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A checked study, its profiles and models loaded. ``labels`` gives chips' short names by profile name."""

    name: str
    title: str
    question: str
    text: tuple[str, ...]
    assumptions: tuple[str, ...]
    hardware: tuple[HardwareProfile, ...]
    labels: dict[str, str]
    models: tuple[ModelArchitecture, ...]
    layouts: tuple[str, ...]
    batch: tuple[int, ...]
    kv_len: tuple[int, ...]
    kv_dtype: str
    weight_dtype: str
    chips: int | str
    engine: str
    focus_batch: int
    focus_kv_len: int
    figures: tuple[FigureRequest, ...]
    file: str

    def label(self, hardware: HardwareProfile) -> str:
        """The short name of a chip in figures."""
        return self.labels.get(hardware.name, hardware.name)


def load_study(name_or_path: str | Path = DEFAULT_STUDY, *, profiles: Path | str | None = None,
               studies: Path | str | None = None, overrides: Mapping[str, str] | None = None,
               most_points: int | None = MAX_GRID_POINTS) -> Study:
    """Load a study by catalogue name or path, with its profiles and models.

    Parameters: profiles, studies: folders searched before the catalogue; overrides: values by dotted key that replace
    those of every profile, as after ``--set``; most_points: the bound on the axes' product, None for a sweep.
    Raises :class:`UserError` naming file, line and key.
    """
    path = find_file(str(name_or_path), kind=KIND, what="study", folders=user_folders(studies, VARIABLE))
    return study_from_yaml(load_yaml(path), profiles=profiles, overrides=overrides, most_points=most_points)


def list_studies(studies: Path | str | None = None) -> dict[str, Path]:
    """Every study of the catalogue and of the user's folders, by name; files of claims are for simkit claims."""
    return {name: path for name, path in catalogue_files(KIND, user_folders(studies, VARIABLE)).items()
            if "claims" not in load_yaml(path).data}


def study_from_yaml(source: YamlSource, *, profiles: Path | str | None = None,
                    overrides: Mapping[str, str] | None = None, most_points: int | None = MAX_GRID_POINTS) -> Study:
    """Check a document, load what it names, and fill in every figure's defaults."""
    if "claims" in source.data and "figures" not in source.data:
        raise UserError("this file lists claims and has no figures to report", where=source.locate(("claims",)),
                        hint="simkit claims tests them")
    schema = check(StudySchema, source.data, source)
    if most_points is not None and not schema.figures:
        raise UserError("no figures: this study can only be swept", where=source.locate(("figures",)),
                        hint="simkit sweep takes it; a report needs 'figures' and 'focus'")
    focus = schema.focus or FocusSchema(batch=schema.batch[0], kv_len=schema.kv_len[0])
    points = prod(len(axis) for axis in (schema.hardware, schema.models, schema.layouts, schema.batch, schema.kv_len))
    if most_points is not None and points > most_points:
        raise UserError(f"{points:,} points are too many for a report: expected at most {most_points:,}",
                        where=source.locate(("batch",)), hint="simkit sweep has no such bound")
    loader = _Loader(source, schema, focus, profiles, overrides)
    # Wrong names are told together: whoever writes a first study has several.
    faults: list[UserError] = []
    works: list[Callable[[], object]] = [
        partial(_check_words, source, schema),
        *(partial(loader.chip, name, "hardware", index) for index, name in enumerate(schema.hardware)),
        *(partial(loader.model, name, "models", index) for index, name in enumerate(schema.models))]
    for work in works:
        try:
            work()
        except UserError as fault:
            faults += fault.errors if isinstance(fault, UserErrorGroup) else [fault]
    raise_collected(faults)
    hardware = tuple(loader.chips[name] for name in schema.hardware)
    models = tuple(loader.models[name] for name in schema.models)
    for model in models:
        loader.check_layouts(schema.layouts, model, "layouts")
    figures = tuple(loader.figure(index, figure, hardware, models[0]) for index, figure in enumerate(schema.figures))
    return Study(
        name=schema.name, title=schema.title, question=schema.question, text=tuple(schema.text),
        assumptions=tuple(schema.assumptions), hardware=hardware, labels=loader.labels(), models=models,
        layouts=tuple(schema.layouts), batch=schema.batch, kv_len=schema.kv_len, kv_dtype=schema.kv_dtype,
        weight_dtype=schema.weight_dtype, chips=schema.chips, engine=schema.engine, focus_batch=focus.batch,
        focus_kv_len=focus.kv_len, figures=figures, file=source.file)


class _Loader:
    """Loads each profile and model of a study once, and places mistakes at the key that names them."""

    def __init__(self, source: YamlSource, schema: StudySchema, focus: FocusSchema, profiles: Path | str | None,
                 overrides: Mapping[str, str] | None) -> None:
        self.source, self.schema, self.focus, self.profiles, self.overrides = source, schema, focus, profiles, overrides
        self.chips: dict[str, HardwareProfile] = {}
        self.models: dict[str, ModelArchitecture] = {}

    def chip(self, name: str, *key: str | int) -> HardwareProfile:
        """The profile of that name or path."""
        if name not in self.chips:
            load = partial(load_hardware, name, profiles=self.profiles, overrides=self.overrides)
            self.chips[name] = _at(self.source, key, load, f" (in {name})")
        return self.chips[name]

    def model(self, name: str, *key: str | int) -> ModelArchitecture:
        """The model of that name or path."""
        if name not in self.models:
            self.models[name] = _at(self.source, key, lambda: load_model(name))
        return self.models[name]

    def labels(self) -> dict[str, str]:
        """Short names by profile name, of chips called as the study calls them or as their profiles do."""
        names = {chip.name: chip.name for chip in self.chips.values()} | {
            called: chip.name for called, chip in self.chips.items()}
        for called in self.schema.labels:
            if called not in names:
                raise UserError("no such chip in this study", where=self.source.locate(("labels", called)),
                                hint=did_you_mean(called, names))
        return {names[called]: label for called, label in self.schema.labels.items()}

    def check_layouts(self, layouts: list[str], model: ModelArchitecture, *key: str | int) -> None:
        """Refuse a layout that the model cannot have."""
        for index, layout in enumerate(layouts):
            _at(self.source, (*key, index), lambda text=layout: parse_layout(text, model))

    def figure(self, index: int, figure: FigureSchema, hardware: tuple[HardwareProfile, ...],
               first_model: ModelArchitecture) -> FigureRequest:
        """One figure with the study's values where it has none of its own."""
        schema, key = self.schema, ("figures", index)
        model = self.model(figure.model, *key, "model") if figure.model else first_model
        layouts = figure.layouts or schema.layouts
        if figure.kind in _COMPARING and ("mha" not in layouts or len(layouts) < 2):
            where = self.source.locate((*key, "layouts") if figure.layouts else ("layouts",))
            raise UserError(f"the figure {figure.kind} compares with MHA: expected mha and another layout", where=where,
                            hint="such as [mha, gqa-8]")
        self.check_layouts(layouts, model, *key, "layouts")
        most = _MOST_LAYOUTS.get(figure.kind, len(layouts))
        if len(layouts) > most:
            where = self.source.locate((*key, "layouts") if figure.layouts else ("layouts",))
            raise UserError(f"{len(layouts)} layouts in the figure {figure.kind}: it tells {most} apart", where=where,
                            hint="give this figure fewer 'layouts' of its own")
        if figure.reducers:
            stages = _at(self.source, (*key, "reducers"), lambda: parse_stack(figure.reducers or []))
            self.check_layouts([stage.attention for stage in stages], model, *key, "reducers")
        for word in ("kv_dtype", "weight_dtype"):
            if (named := getattr(figure, word)) is not None:
                _at(self.source, (*key, word), lambda text=named: parse_format(text))
        for word in ("engine", "beside"):
            if named := getattr(figure, word):
                _check_engine(self.source, (*key, word), named)
        if figure.hardware:
            hardware = tuple(self.chip(name, *key, "hardware", i) for i, word in enumerate(figure.hardware)
                             for name in (list_chips(self.profiles) if word == CATALOGUE else [word]))
        named = [split_count(one) for one in figure.ffn or ()]
        if figure.between:
            _at(self.source, (*key, "between"), lambda: parse_between(figure.between or ""))
            if not isinstance(figure.chips or schema.chips, int) or any(number is None for _, number in named):
                raise UserError("split_machines: expected a number of chips for both pools",
                                where=self.source.locate((*key, "ffn")), hint="chips: 8, and such as groq-3-lpu:256")
        batch, kv_len = figure.batch or schema.batch, figure.kv_len or schema.kv_len
        chips = figure.chips or schema.chips
        return FigureRequest(
            kind=figure.kind, name=figure.name or figure.kind, title=figure.title, note=figure.note,
            hardware=hardware, model=model, layouts=tuple(layouts), batch=batch, kv_len=kv_len,
            focus_batch=batch[0] if len(batch) == 1 else self.focus.batch,
            focus_kv_len=kv_len[0] if len(kv_len) == 1 else self.focus.kv_len,
            kv_dtype=figure.kv_dtype or schema.kv_dtype, weight_dtype=figure.weight_dtype or schema.weight_dtype,
            chips=FIT if chips == FIT_EACH and figure.kind in _ON_THE_SAME_CHIPS else chips,
            engine=figure.engine or schema.engine,
            reducers=tuple(figure.reducers or DEFAULT_STACK), beside=figure.beside, between=figure.between or "",
            ffn=tuple((self.chip(name, *key, "ffn", i), number or 1) for i, (name, number) in enumerate(named)))


def _check_words(source: YamlSource, schema: StudySchema) -> None:
    """Names that only the physics modules can judge: formats and the engine."""
    _at(source, ("kv_dtype",), lambda: parse_format(schema.kv_dtype))
    _at(source, ("weight_dtype",), lambda: parse_format(schema.weight_dtype, what="weight dtype"))
    _check_engine(source, ("engine",), schema.engine)
    for layout in schema.layouts:
        if layout != layout.strip().lower():
            raise UserError(f"'{layout[:40]}': layouts are written in small letters",
                            where=source.locate(("layouts", schema.layouts.index(layout))))


def _check_engine(source: YamlSource, key: tuple[str | int, ...], engine: str) -> None:
    if engine not in ENGINES:
        raise UserError(f"unknown engine '{engine[:40]}'", where=source.locate(key), hint=did_you_mean(engine, ENGINES))


def _at(source: YamlSource, key: tuple[str | int, ...], load: Any, of_set: str = "") -> Any:
    """Run ``load``; a mistake without a place of its own is placed at the study's key; of ``--set`` it says in what."""
    try:
        return load()
    except UserError as error:
        if error.where is not None and (error.where.file != "--set" or isinstance(error, UserErrorGroup)):
            raise
        where, of_set = (source.locate(key), "") if error.where is None else (error.where, of_set)
        raise UserError(error.message + of_set, where=where, hint=error.hint) from None


__all__ = ["DEFAULT_STUDY", "FIGURE_KINDS", "FigureRequest", "Study", "list_studies", "load_study", "study_from_yaml"]
