"""The study's answer in a few sentences, computed from its records: where fewer KV heads pay, why, how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from simkit.report.drawing.style import count, layout_name, times
from simkit.study.study_file import Study

PAYS: Final = 1.1
"""A step faster by a tenth is worth a change of the model."""
Record = Mapping[str, Any]
Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence of the answer, and the name of the page's figure that shows it."""

    text: str
    figure: str | None


def answer(study: Study, records: Sequence[Record],
           bounds_of: Callable[[str, str], Bounds | None]) -> list[Sentence]:
    """Up to five sentences on the first layout beside MHA, for the first model at the study's point.

    Empty where no chip holds both: a study without MHA compares nothing. ``bounds_of`` gives the 90 % bounds of a
    chip's speedup with a layout at that point, None where it has none.
    """
    layout = next((name for name in study.layouts if name != "mha"), None)
    every = [row for row in records if row["model"] == study.models[0].name and row["fits"]]
    at_point = [row for row in every if (row["batch"], row["kv_len"]) == (study.focus_batch, study.focus_kv_len)]
    mha, own = ({row["hardware"]: row for row in at_point if row["attention"] == name} for name in ("mha", layout))
    own = {chip: row for chip, row in own.items() if chip in mha and row["speedup_vs_mha"] is not None}
    if not own or layout is None:
        return []
    name = layout_name(layout)
    paying, others = _parted(own)
    bounds = {chip: ends for chip in own if (ends := bounds_of(chip, layout)) is not None}
    said = [(_where(study, own, paying, others, name),
             ("grouping_law", "separate_causes", "both_metrics", "bandwidth_scaling")),
            (_why(study, mha, paying, others), ("step_breakdown", "separate_causes")),
            (_how_sure(study, bounds, name), ("grouping_law", "both_metrics", "separate_causes")),
            (_what_still_pays(study, own, mha, layout, at_point),
             ("concurrent_users", "both_metrics", "separate_causes", "kv_capacity")),
            (_what_would_change_it(study, every, own, layout),
             ("advantage_heatmap", "bandwidth_scaling"))]
    return [Sentence(text=text, figure=_figure(study, kinds)) for text, kinds in said if text]


def _figure(study: Study, kinds: Sequence[str]) -> str | None:
    """The first figure of the page of one of these kinds."""
    return next((one.name for kind in kinds for one in study.figures if one.kind == kind), None)


def _called(study: Study, chip: str) -> str:
    return study.labels.get(chip, chip)


def _parted(own: Mapping[str, Record]) -> tuple[list[str], list[str]]:
    """Chips on which the step gains a tenth, and the others; each from the least gain to the largest."""
    order = sorted(own, key=lambda chip: own[chip]["speedup_vs_mha"])
    return ([chip for chip in order if own[chip]["speedup_vs_mha"] >= PAYS],
            [chip for chip in order if own[chip]["speedup_vs_mha"] < PAYS])


def _span(study: Study, chips: Iterable[str], value: Callable[[str], float],
          write: Callable[[float], str] = times) -> str:
    """The least and the largest of the chips' values with whose they are."""
    order = sorted(chips, key=value)
    least, most = order[0], order[-1]
    if write(value(least)) == write(value(most)):
        return f"{write(value(least))} ({', '.join(_called(study, chip) for chip in order)})"
    return " to ".join(f"{write(value(chip))} ({_called(study, chip)})" for chip in (least, most))


def _where(study: Study, own: Mapping[str, Record], paying: list[str], others: list[str], name: str) -> str:
    point = f"batch {study.focus_batch} and {count(study.focus_kv_len)} cached tokens"
    gains = [f"makes the whole step at least {PAYS - 1:.0%} faster than MHA on {len(paying)} of {len(own)} chips, by "
             f"{_span(study, paying, lambda chip: own[chip]['speedup_vs_mha'])}"] if paying else []
    if others:
        gains.append(("gains less on the others: " if paying else "nowhere makes the whole step a tenth faster: ")
                     + _span(study, others, lambda chip: own[chip]["speedup_vs_mha"]))
    return f"For {study.models[0].title} at {point}, {name} {'; it '.join(gains)}."


def _why(study: Study, mha: Mapping[str, Record], paying: list[str], others: list[str]) -> str:
    def share(chip: str) -> float:
        return float(mha[chip]["attention_time_s"] / mha[chip]["step_time_s"])

    parts = [f"{_span(study, chips, share, '{:.0%}'.format)} of MHA's step{where if paying and others else ''}"
             for chips, where in ((paying, " where it pays"), (others, " where it does not")) if chips]
    waits = sorted({str(mha[chip]["bound"]) for chip in others})
    return (f"The reason is how much of a step is attention: {', but '.join(parts)}"
            + (f"; {'there ' if paying else ''}the step waits for {' and '.join(waits)}" if waits else "") + ".")


def _how_sure(study: Study, bounds: Mapping[str, Bounds], name: str) -> str:
    def words(held: Callable[[Bounds], bool]) -> str:
        return ", ".join(f"{_called(study, chip)} ({times(ends[0])} to {times(ends[1])})"
                         for chip, ends in bounds.items() if held(ends))

    said = [text + chips for text, chips in (
        (f"{name} surely pays (10 % or more) on ", words(lambda ends: ends[0] >= PAYS)),
        ("it surely does not on ", words(lambda ends: ends[1] < PAYS)),
        ("either answer is within the bounds on ", words(lambda ends: ends[0] < PAYS <= ends[1]))) if chips]
    return f"By 90 % bounds of the step's gain {'; '.join(said)}." if said else ""


def _what_still_pays(study: Study, own: Mapping[str, Record], mha: Mapping[str, Record], layout: str,
                     at_point: Sequence[Record]) -> str:
    alone = [row["hardware"] for row in at_point if row["attention"] == layout and row["hardware"] not in mha]
    known = [chip for chip, row in own.items() if row["max_batch"] and mha[chip]["max_batch"]]
    if not known:
        return ""
    gain = _span(study, known, lambda chip: own[chip]["max_batch"] / mha[chip]["max_batch"])
    return (f"Memory pays on every chip: with {layout_name(layout)} the same chips hold {gain} as many sequences"
            + (f", and {', '.join(_called(study, chip) for chip in alone)} cannot hold MHA at all." if alone else "."))


def _what_would_change_it(study: Study, every: Sequence[Record], own: Mapping[str, Record], layout: str) -> str:
    """Chips whose answer is another one at some other batch and context of the study, and what MHA waits for there."""
    waits = {(row["hardware"], row["batch"], row["kv_len"]): row["attention_bound"] for row in every
             if row["attention"] == "mha"}
    turned = []
    for chip, row in own.items():
        pays = row["speedup_vs_mha"] >= PAYS
        rivals = [other for other in every if other["hardware"] == chip and other["attention"] == layout
                  and other["speedup_vs_mha"] is not None]
        best = (min if pays else max)(rivals, key=lambda other: other["speedup_vs_mha"])
        if (best["speedup_vs_mha"] >= PAYS) != pays:
            turned.append(f"{_called(study, chip)} ({times(best['speedup_vs_mha'])} at batch {best['batch']:g}, "
                          f"{count(best['kv_len'])} tokens, where MHA's attention waits for "
                          f"{waits[chip, best['batch'], best['kv_len']]})")
    if turned:
        return f"At other batches and contexts of this study the answer changes on {', '.join(turned)}."
    return f"At no other batch and context of this study does the answer change on any of them ({layout_name(layout)})."
