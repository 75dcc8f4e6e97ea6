"""Every combination of lists of chips, models, layouts, batches and contexts, one record a point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from simkit.foundation.errors import UserError
from simkit.foundation.tables import Records
from simkit.study.asked import MOST_POINTS, chips_of, listed, models_of
from simkit.study.causes import CAUSE_FIELDS
from simkit.study.engines import DEFAULT, ENGINES, engine_named
from simkit.study.evaluate import FIT
from simkit.study.grid import Grid, Misfit, misfits
from simkit.study.likely import LIKELY_FIELDS
from simkit.study.own_batch import OWN_BATCH_FIELDS
from simkit.study.pool_fields import POOL_FIELDS
from simkit.study.record import FIELDS, to_records

Progress = Callable[[int, int], None]
"""Called with how many points are done, and of how many."""


class Simulated(Records):
    """Records of :func:`simulate`, with the questions that their points can still answer."""

    def __init__(self, grids: Sequence[Grid], columns: Sequence[dict[str, Any]]) -> None:
        super().__init__(chain.from_iterable(map(to_records, columns)))
        self._grids, self._columns = grids, columns

    def misfits(self) -> list[Misfit]:
        """What does not fit, one entry a chip, model, format and layout, with the chips that would do."""
        return [misfit for grid, columns in zip(self._grids, self._columns, strict=True) if not columns["fits"].all()
                for misfit in misfits(grid, columns)]

    def explain(self) -> list[str]:
        """What binds attention at each point and what would move it, in lines. Raises :class:`UserError`."""
        from simkit.study.explain import explain_grid

        return [line for grid in self._grids for line in explain_grid(grid)]


def simulate(hardware: Any, model: Any, *, attention: Any = "as-trained", batch: Any = 1, kv_len: Any = 4096,
             q_len: Any = 1, kv_dtype: Any = "bf16", chips: Any = FIT, tp: int | None = None, pp: int | None = None,
             engine: str = DEFAULT, explain: bool = False, causes: bool = False, own_batch: bool = False,
             bounds: bool = False, progress: Progress = lambda *_: None, **scenario: Any) -> Simulated:
    """Time one decode step at every combination of the lists given.

    Parameters
    ----------
    hardware, model: names, paths or loaded ones.
    attention, batch, kv_len, q_len, kv_dtype, chips: one value or a list; what they mean says
        :func:`simkit.decode_step`. Rows come in the order chips, hardware, model, kv_dtype, attention, batch, kv_len,
        q_len.
    tp, pp, engine: as of :func:`simkit.decode_step`.
    explain: refuse at once an engine that could not :meth:`Simulated.explain`.
    causes, own_batch, bounds: more columns: what of MHA's time each layout saves, by cause; each layout at its own
        largest batch; where half and nine of ten measurements would lie.
    progress: called with the points that are done, and all.
    scenario: as of :func:`simkit.decode_step`; ``ffn``: a loaded profile and its number of chips.

    Raises :class:`UserError` on bad input, and beyond 100 000 points; points that do not fit have no times.
    """
    asked = {"explain": explain, "causes": causes, "own-batch": own_batch, "bounds": bounds}
    split = scenario.get("ffn") is not None
    if explain and not engine_named(engine).explains:
        raise UserError(f"--explain: the {engine[:40]} engine keeps no account of waiting",
                        hint=f"--engine {next(name for name, other in ENGINES.items() if other.explains)} does")
    for word, wanted in asked.items():
        if wanted and split:
            raise UserError(f"--{word} beside --ffn: it is asked of one machine")
    grid = Grid(hardware=chips_of(hardware), model=models_of(model), kv_dtype=listed(kv_dtype),
                attention=listed(attention), batch=listed(batch), kv_len=listed(kv_len), q_len=listed(q_len), tp=tp,
                pp=pp, engine=engine, scenario=scenario,
                fields=[*FIELDS, *(CAUSE_FIELDS if causes else ()), *(OWN_BATCH_FIELDS if own_batch else ()),
                        *(POOL_FIELDS if split else LIKELY_FIELDS if bounds else ())])
    machines = listed(chips)
    grid.check_size(MOST_POINTS // len(machines), hint="shorten the lists, or split them over several runs")
    grids = [replace(grid, chips=one) for one in machines]
    size = len(grid)

    def columns_of(place: int) -> dict[str, Any]:
        return grids[place].columns(lambda done: progress(place * size + done, len(grids) * size))

    return Simulated(grids, [columns_of(place) for place in range(len(grids))])
