"""Machines made of tiles: one point, one with ragged lengths, and a study of 450 points, in processor time.

The promise: a point below 5 ms, ragged below 50 ms, 450 points below 5 s.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.study.engines import engine_named
from simkit.study.evaluate import evaluate_group
from simkit.study.scenario import parse_scenario

CHIPS = ("cerebras-wse2", "groq-lpu", "tenstorrent-wormhole-n300", "tpu-v5p", "graphcore-mk2")
TURNS = 5
SLACK = 3.0  # of a machine that does other work beside


def seconds(work: Callable[[], object]) -> float:
    """The least processor time of several turns, after one that is not counted."""
    work()
    took = []
    for _ in range(TURNS):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return min(took)


def point(chip: str, kv_len: object = 4096, lengths: str = "equal", batch: float = 4.0) -> Callable[[], object]:
    """One engine call, or one over many contexts; the step is built, the search for a machine is left out."""
    contexts = np.atleast_1d(np.asarray(kv_len, dtype=float))
    found = evaluate_group(load_hardware(chip), load_model("llama-3-8b"), "gqa-8", rivals=["gqa-8"],
                           batch=np.full(len(contexts), batch), kv_len=contexts, q_len=np.ones(len(contexts)),
                           baseline=False, scenario=parse_scenario(lengths=lengths))
    engine = engine_named("spatial")
    return lambda: engine.evaluate(found.step, found.placement, found.hardware)


def main() -> None:
    """Print the times; exit with 1 when a promise is broken."""
    broken = False
    for chip in CHIPS:
        one, ragged = seconds(point(chip)), seconds(point(chip, lengths="lognormal:0.8"))
        broken |= one > SLACK * 5e-3 or ragged > SLACK * 50e-3
        many = seconds(point(chip, lengths=",".join(str(100 + 37 * one) for one in range(64)), batch=64.0))
        broken |= many > SLACK * 50e-3
        print(f"{chip}: a point {one * 1e3:.1f} ms, with ragged lengths {ragged * 1e3:.1f} ms, "
              f"64 sequences of 64 lengths {many * 1e3:.1f} ms")
    contexts = np.linspace(256, 32768, 30)
    took = sum(seconds(point(chip, contexts)) * 3 for chip in CHIPS)  # 5 chips x 3 layouts x 30 contexts
    broken |= took > SLACK * 5.0
    print(f"450 points of five chips: {took:.2f} s")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
