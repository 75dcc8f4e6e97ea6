"""Points of a study, evaluated for figures and tables: the only place of the report that calls an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.report.drawing.style import chips_words, count, layout_name
from simkit.study.engines import engine_named, runs_on_tiles
from simkit.study.evaluate import FEWEST, FIT, FIT_EACH, Evaluated, evaluate_group
from simkit.study.pools import evaluate_pools
from simkit.study.record import to_records
from simkit.study.scenario import parse_scenario
from simkit.study.study_file import FigureRequest, Study
from simkit.timing.step_timing import COMPUTE, LATENCY, LINK, LOAD_PATH, SPECIAL_FUNCTION

Result = TypeVar("Result")
# How a step's time is split in figures; the parts add up to the step.
PARTS: Final = ("cache", "load_path", "compute", "weights", "links", "latency")
PART_NAMES: Final = {
    "cache": "KV cache", "load_path": "load path", "compute": "arithmetic", "weights": "weights", "links": "links",
    "latency": "fixed latency"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Omission:
    """A chip that a figure or table leaves out, and why, in words for the page."""

    chip: str
    reason: str


def evaluate(request: FigureRequest | Study, hardware: HardwareProfile, layout: str, *,
             model: ModelArchitecture | None = None, batch: Any = None, kv_len: Any = None,
             chips: int | str | None = None, tp: int | None = None, kv_dtype: str | None = None) -> Evaluated:
    """One chip and layout over arrays of batch and context, beside the request's other layouts on the same chips.

    The model defaults to the request's (a study's first), batch and context to its focus point.
    """
    if model is None:
        model = request.models[0] if isinstance(request, Study) else request.model
    batch = request.focus_batch if batch is None else batch
    kv_len = request.focus_kv_len if kv_len is None else kv_len
    batch, kv_len = np.broadcast_arrays(np.asarray(batch, dtype=float), np.asarray(kv_len, dtype=float))
    timed = evaluate_pools if request.pools else evaluate_group
    return replace(timed(
        hardware, model, layout, rivals=list(request.layouts), batch=batch.ravel(), kv_len=kv_len.ravel(),
        q_len=np.ones(batch.size), chips=request.chips if chips is None else chips, tp=tp, engine=request.engine,
        scenario=parse_scenario(kv_dtype=kv_dtype or request.kv_dtype, weight_dtype=request.weight_dtype,
                                **request.pools)), shape=batch.shape)


def every_layout(request: FigureRequest, chip: HardwareProfile) -> dict[str, Evaluated]:
    """One chip under each layout of the request at its focus point."""
    return {layout: evaluate(request, chip, layout) for layout in request.layouts}


def fitting_layouts(request: FigureRequest, work: Callable[[HardwareProfile, str, Evaluated], Result],
                    ) -> tuple[dict[str, dict[str, Result]], list[Omission]]:
    """``work`` of every chip and layout of the request that fits at its focus point, and what is left out and why.

    Raises :class:`UserError` where nothing fits.
    """
    done, omissions = for_each_chip(request.hardware, lambda chip: {
        layout: work(chip, layout, point) for layout, point in every_layout(request, chip).items() if fits(point)})
    for name, found in done.items():
        omissions += left_out(request, name, found)
    done = {name: found for name, found in done.items() if found}
    require_some(done, request, "it fits on none of its hardware")
    return done, omissions


def asked_of(request: FigureRequest, chip: HardwareProfile) -> FigureRequest:
    """The request with the engine that draws a chip: of one made of tiles the one beside, where that replays them."""
    if request.beside is None or engine_named(request.beside).closed_form or not runs_on_tiles(chip):
        return request
    return replace(request, engine=request.beside, beside=request.engine)


class NoRoomError(UserError):
    """A layout that a figure needs does not fit on a chip: the chip is left out, whatever becomes of the others."""


def for_each_chip(chips: Sequence[HardwareProfile], work: Callable[[HardwareProfile], Result],
                  ) -> tuple[dict[str, Result], list[Omission]]:
    """``work`` of every chip that can do it, and who could not and why.

    A profile may lack a figure (no bandwidth, no link) or a machine be too small for the chips that are asked for;
    the page says so in words. Raises the first fault when no chip is left and none lacks only room.
    """
    done: dict[str, Result] = {}
    missing: list[Omission] = []
    crowded: list[Omission] = []
    fault: UserError | None = None
    for chip in chips:
        try:
            done[chip.name] = work(chip)
        except NoRoomError as error:
            crowded.append(Omission(chip=chip.name, reason=str(error)))
        except UserError as error:
            fault = fault or error
            missing.append(Omission(chip=chip.name, reason=str(error)))
    if fault is not None and not done and not crowded:
        raise fault
    return done, missing + crowded


def require_some(found: Sequence[Any] | Mapping[str, Any], request: FigureRequest, reason: str) -> None:
    """Raise :class:`UserError` when a figure has nothing left to draw."""
    if not found:
        raise UserError(f"figure '{request.name}' has nothing to draw: {reason}",
                        hint="give it other hardware, or a smaller batch or context")


def scalar(evaluated: Evaluated, field: str) -> float:
    """A column of a single point as a plain number."""
    return float(np.ravel(evaluated.select((field,))[field])[0])


def fits(evaluated: Evaluated) -> bool:
    """Whether a single point fits on its chips."""
    return bool(np.ravel(evaluated.fits)[0])


def cache_home(evaluated: Evaluated) -> str:
    """The memory level that holds most of the KV cache of a single point."""
    shares = {name: float(np.ravel(np.asarray(share))[0]) for name, share in evaluated.placement.kv.items()}
    return max(shares, key=lambda name: shares[name])


def split_times_s(evaluated: Evaluated) -> dict[str, Any]:
    """Steps by what takes them (:data:`PARTS`), in seconds, an array or a number each; the parts add up to the step.

    ``cache``: attention's reads; ``load_path``: those of them that too few bytes in flight hold up; ``weights``: all
    other reads; ``compute``: arithmetic and exponentials; ``latency``: launches, layer and fabric latency, waiting
    stages and host work.
    """
    def total(times: dict[str, Any], names: Sequence[str]) -> Any:
        return sum(np.asarray(times[name], dtype=float) for name in names)

    cause, attention = evaluated.timing.cause_time_s, evaluated.timing.attention_cause_time_s
    levels = [level.name for level in evaluated.hardware.memory]
    cache, load_path = total(attention, levels), total(attention, (LOAD_PATH,))
    return {"cache": cache, "load_path": load_path, "compute": total(cause, (COMPUTE, SPECIAL_FUNCTION)),
            "weights": total(cause, (*levels, LOAD_PATH)) - cache - load_path,
            "links": total(cause, (LINK,)),
            "latency": total(cause, (LATENCY,))}


def split_time_s(evaluated: Evaluated) -> dict[str, float]:
    """A single point's :func:`split_times_s`."""
    return {part: float(np.ravel(time_s)[0]) for part, time_s in split_times_s(evaluated).items()}


def grid_records(study: Study) -> tuple[list[dict[str, Any]], list[Omission]]:
    """Every point of the study's axes, its own point among them, as flat records in the study's order."""
    batch, kv_len = ([*sorted({*values, focus})] for values, focus in (
        (study.batch, study.focus_batch), (study.kv_len, study.focus_kv_len)))
    records: list[dict[str, Any]] = []
    omissions: dict[str, Omission] = {}
    for model in study.models:
        def chip_records(chip: HardwareProfile, model: Any = model) -> list[dict[str, Any]]:
            return to_records(replace(study.grid(), hardware=[chip], model=[model], batch=batch,
                                      kv_len=kv_len).columns())

        done, missing = for_each_chip(study.hardware, chip_records)
        records += [row for rows in done.values() for row in rows]
        omissions |= {item.chip: item for item in missing}
    return records, list(omissions.values())


def inputs_text(request: FigureRequest, *, point: bool = True) -> str:
    """The line under a caption: model, point, formats, machine, engine, and a context longer than the model's."""
    where = f"batch {request.focus_batch}, {request.focus_kv_len} cached tokens; " if point else ""
    machine = chips_text(request)
    return (f"{request.model.title}; {where}cache {request.kv_dtype}, weights {request.weight_dtype}; {machine}; "
            f"engine: {request.engine}.{beyond_context(request, point=point)}"
            f"{assumed_text([*request.hardware, *([request.pools['ffn'][0]] if request.pools else [])])}")


def chips_text(request: FigureRequest) -> str:
    """The chips that the request's points run on, in words."""
    if request.pools:
        second, number = request.pools["ffn"]
        return (f"attention's pool: {chips_text(replace(request, pools={}))}; the other: "
                f"{'as few as fit' if number is None else count(number)} of {second.name}, {request.pools['between']} "
                "between")
    if isinstance(request.chips, int):
        return chips_words(request.chips)
    if request.chips == FIT_EACH:
        return "each layout on the chips of least cost a token on which it alone fits"
    if request.chips == FEWEST:
        return "the fewest chips on which every layout fits"
    if request.chips == FIT:
        return "the chips of least cost a token on which every layout fits"
    return f"the fastest number of chips, at most {request.chips.removeprefix('up-to-')}, on which every layout fits"


def left_out(request: FigureRequest, chip: str, fitting: Iterable[str]) -> list[Omission]:
    """The request's layouts that do not fit on a chip, each with the reason."""
    return [Omission(chip=chip, reason=no_room(request, layout_name(layout)))
            for layout in request.layouts if layout not in set(fitting)]


def same_chips_text(request: FigureRequest) -> str:
    """Whether the layouts of a row share their chips, as a sentence."""
    if request.chips == FIT_EACH:
        return "Each layout of a row runs on chips of its own, whose numbers stand in the layouts' order."
    return "All layouts of a row run on the same chips."


def no_room(request: FigureRequest, whose: str = "MHA", *, point: bool = True) -> str:
    """Why a layout cannot be shown on the request's chips, in words; ``point``: at the focus batch alone."""
    whose += f" at batch {request.focus_batch}" if point else ""
    if isinstance(request.chips, int):
        return f"{whose} does not fit on {chips_words(request.chips)}"
    if request.chips in (FIT, FIT_EACH, FEWEST):
        return f"{whose} fits on no number of chips that its system has"
    return f"{whose} does not fit on {request.chips.removeprefix('up-to-')} chips or fewer"


def machines_text(points: Iterable[Evaluated], *, between: str = ", ") -> str:
    """Chips and the cache's level of several layouts, each once where all share it: ``8 → 2 chips, hbm``.

    ``between``: what stands between several numbers of chips and the level.
    """
    every = list(points)
    fitting = [point for point in every if fits(point)] or every
    numbers = list(dict.fromkeys(chips_words(scalar(point, "chips")) for point in fitting))
    homes = list(dict.fromkeys(cache_home(point) for point in fitting))
    if len(numbers) == 1:
        return f"{numbers[0]}, {' → '.join(homes)}"
    # In the layouts' order, so that each stands under its own mark.
    chips = " → ".join(count(scalar(point, "chips")) if fits(point) else "–" for point in every)
    return f"{chips} chips{between}{' → '.join(homes)}"


def beyond_context(request: FigureRequest, *, point: bool) -> str:
    """A sentence where the request goes beyond the contexts that its model takes; empty where it does not."""
    longest = request.focus_kv_len if point else max(request.kv_len)
    trained = request.model.max_context
    if trained is None or longest <= trained:
        return ""
    return (f" {request.model.title} takes contexts of up to {count(trained)} tokens: longer ones show what such a "
            "cache would cost, not what the model can serve.")


def assumed_text(chips: Sequence[HardwareProfile]) -> str:
    """Which chips of a figure have parameters that are assumed, as a sentence; empty where none has."""
    guessed = [chip for chip in chips if chip.assumed]
    if not guessed:
        return ""
    stands = "ideal values" if guessed[0].ideal else "a range of their class"
    return f" Assumed: {stands} for parameters that no source gives of {', '.join(chip.name for chip in guessed)}."

