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
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Final, get_args

from simkit.foundation.errors import UserError, UserErrorGroup, did_you_mean, raise_collected
from simkit.foundation.named_files import catalogue_files, find_file, user_folders
from simkit.foundation.validation import check
from simkit.foundation.yaml_source import YamlSource, load_yaml
from simkit.hardware.catalog import CATALOGUE, list_chips, load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import parse_format
from simkit.study.engines import ENGINES
from simkit.study.evaluate import FIT, FIT_EACH
from simkit.study.grid import Grid
from simkit.study.pool_fields import POOL_FIELDS
from simkit.study.pool_words import POOL_WORDS, parse_pools, split_count
from simkit.study.record import FIELDS
from simkit.study.stacking import DEFAULT_STACK, parse_stack
from simkit.study.study_values import FigureKind, FigureSchema, FocusSchema, StudySchema

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
_OF_TWO_POOLS: Final = ("advantage_heatmap", "energy_cost", "split_machines")  # what a second pool of chips has, too
FIGURE_KINDS: Final[tuple[str, ...]] = get_args(FigureKind)


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
    pools: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A checked study, its profiles and models loaded. ``labels`` gives chips' short names by profile name; ``pools``
    a second pool of chips in the words of :func:`simkit.study.scenario.parse_scenario`.
    """

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
    pools: Mapping[str, Any]

    def grid(self, *, engine: str | None = None) -> Grid:
        """Its chips, models and layouts at every batch and context; ``engine`` wins over its own."""
        return Grid(hardware=self.hardware, model=self.models, attention=self.layouts, kv_dtype=(self.kv_dtype,),
                    batch=self.batch, kv_len=self.kv_len, chips=self.chips, engine=engine or self.engine,
                    scenario={"weight_dtype": self.weight_dtype, **self.pools},
                    fields=[*FIELDS, *(POOL_FIELDS if self.pools else ())])

    @property
    def every_chip(self) -> tuple[HardwareProfile, ...]:
        """Its chips, and that of the second pool where it is another one."""
        chips = [*self.hardware, *([self.pools["ffn"][0]] if self.pools else [])]
        return tuple({chip.name: chip for chip in chips}.values())

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
        *(partial(loader.model, name, "models", index) for index, name in enumerate(schema.models)), loader.read_pools]
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
        focus_kv_len=focus.kv_len, figures=figures, file=source.file, pools=loader.pools)


class _Loader:
    """Loads each profile and model of a study once, and places mistakes at the key that names them."""

    def __init__(self, source: YamlSource, schema: StudySchema, focus: FocusSchema, profiles: Path | str | None,
                 overrides: Mapping[str, str] | None) -> None:
        self.source, self.schema, self.focus, self.profiles, self.overrides = source, schema, focus, profiles, overrides
        self.chips: dict[str, HardwareProfile] = {}
        self.models: dict[str, ModelArchitecture] = {}
        self.pools: dict[str, Any] = {}

    def read_pools(self) -> None:
        """The second pool of all points, where the study states one."""
        words = {word: value for word in POOL_WORDS if (value := getattr(self.schema, word)) is not None}
        read = {word: _at(self.source, (word,), partial(POOL_WORDS[word], value)) for word, value in words.items()}
        if "ffn" in read:
            words["ffn"] = self.chip(read["ffn"][0], "ffn"), read["ffn"][1]
        if words:
            _at(self.source, (next(iter(words)),), partial(parse_pools, **{**dict.fromkeys(POOL_WORDS), **words}))
        self.pools = words

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
        if self.pools and figure.kind not in _OF_TWO_POOLS:
            raise UserError(f"the figure {figure.kind} is asked of one machine, and this study has a second pool (ffn)",
                            where=self.source.locate((*key, "kind")), hint=f"expected {', '.join(_OF_TWO_POOLS)}")
        pairs: list[tuple[str, int | None]] = []
        between = figure.between or schema.between or ""
        if figure.kind == "split_machines":
            pairs = [split_count(one) for one in figure.ffn or filter(None, [schema.ffn])]
            _at(self.source, (*key, "between"), partial(POOL_WORDS["between"], between))
            if not pairs or not isinstance(figure.chips or schema.chips, int) or None in [count for _, count in pairs]:
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
            reducers=tuple(figure.reducers or DEFAULT_STACK), beside=figure.beside, between=between, pools=self.pools,
            ffn=tuple((self.chip(name, *key, "ffn", i), number or 1) for i, (name, number) in enumerate(pairs)))


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
