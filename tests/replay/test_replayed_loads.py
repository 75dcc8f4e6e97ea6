"""How much replays work: loads and runs counted, which no clock changes. Seconds are benchmarks/bench_replay.py's."""

import subprocess
import sys

import numpy as np
import pytest

from simkit.replay import timeline
from tests.conftest import RUN_TIMEOUT_S
from tests.reference_data import REPOSITORY
from tests.replay.cases import replay

LAYOUTS = ("mha", "gqa-8", "mqa")


@pytest.fixture
def loads_of(monkeypatch):
    """``loads_of(layout, batch, kv_len)``: the loads of each run of the event loop that one layer on one H100 takes."""
    whole = timeline.run_items

    def count(layout, batch, kv_len, **options):
        runs = []

        def counted(items, path, record):
            runs.append(int(np.ceil(items.tokens / items.granule_tokens).sum()))
            return whole(items, path, record)

        monkeypatch.setattr(timeline, "run_items", counted)
        replay("h100-sxm", layout, batch, kv_len, options=options)
        monkeypatch.setattr(timeline, "run_items", whole)
        return runs

    return count


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_takes_few_runs_and_a_bounded_number_of_loads(loads_of, layout):
    """65 000 to 184 000 loads today; 0.02 to 0.05 s of a server's core."""
    runs = loads_of(layout, 32, 4096)
    assert len(runs) <= 6
    assert sum(runs) < 300_000


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_loads_of_a_long_context_are_those_of_its_steady_state_however_long_it_is(loads_of, layout):
    """Lengths n, 2 n and 4 n of every kernel that is tried, instead of loads that grow with the context."""
    long, longer = (loads_of(layout, 128, kv_len) for kv_len in (131072, 524288))
    assert sum(long) < 1_500_000
    assert sum(longer) <= 1.1 * sum(long)


def test_an_exact_replay_takes_loads_in_proportion_to_its_bytes(loads_of):
    short, long = (loads_of("gqa-8", 64, kv_len, exact=True) for kv_len in (32768, 131072))
    assert len(short) == len(long)
    assert sum(long) == pytest.approx(4 * sum(short), rel=0.05)


def test_the_points_of_one_chip_of_a_study_stay_below_a_gibibyte():
    code = ("import runpy; found = runpy.run_path('benchmarks/bench_replay.py')['study_part']('h100-sxm'); "
            "print(found[0], found[2])")
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY,
                           timeout=RUN_TIMEOUT_S)
    points, peak_bytes = (float(word) for word in found.stdout.split())
    assert points == 45
    assert peak_bytes < 2**30


def test_the_compiled_loop_is_kept_on_disk_so_that_only_the_first_use_compiles():
    run_items = timeline.run_items
    replay("h100-sxm", "mqa", 1, 64)
    assert run_items._cache.cache_path
    assert sum(run_items.stats.cache_hits.values()) + sum(run_items.stats.cache_misses.values()) > 0
