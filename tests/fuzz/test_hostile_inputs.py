"""Every target with its seeds and every input that ever broke one: a result or a UserError, in time, memory and place."""

import random
import time
import zlib
from pathlib import Path

import pytest

from tests.fuzz.hostile_inputs import HOSTILE
from tests.fuzz.run import mutated
from tests.fuzz.targets import CORPUS, TARGETS, outcome
from tests.fuzz.watch import Watch, _peak_bytes

# Of quick targets also this many seeds changed at random, the same ones on every run.
MUTATIONS = 60
QUICK = ("units", "axis", "words", "csv_cells", "yaml", "json", "kernel_csv", "trace", "serving_csv", "dram_csv", "sweep_manifest",
         "report_manifest", "cache_entry", "safetensors")
CASES = [(target, name) for target, inputs in HOSTILE.items() for name in inputs]
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module", autouse=True)
def _warm(folder):
    """Modules are imported, catalogues read and kernels compiled before anything is timed."""
    for target in TARGETS.values():
        for data in list(target.seeds())[:3]:
            outcome(target, data, folder)


def test_every_target_has_hostile_inputs_and_seeds_that_are_read():
    assert set(HOSTILE) == set(TARGETS)
    assert all(list(target.seeds()) for target in TARGETS.values())


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_reads_one_of_its_seeds_at_least(name, folder):
    assert any(outcome(TARGETS[name], data, folder) == "read" for data in TARGETS[name].seeds())


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{case}" for name, case in CASES])
def test_a_hostile_input_is_read_or_refused_in_time_memory_and_place(name, case, folder):
    Watch(folder)(lambda: outcome(TARGETS[name], HOSTILE[name][case], folder))


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}-{path.name}" for path in FILES])
def test_what_a_fuzzer_found_is_read_or_refused(path: Path, folder):
    Watch(folder)(lambda: outcome(TARGETS[path.parent.name], path.read_bytes(), folder))


@pytest.mark.parametrize("name", QUICK)
def test_seeds_changed_at_random_are_read_or_refused(name, folder):
    target = TARGETS[name]
    chance = random.Random(zlib.crc32(name.encode()))
    seeds, watch = list(target.seeds()), Watch(folder)
    for _ in range(MUTATIONS):
        data = mutated(chance, seeds, [word.encode() for word in target.words] or [b"x"], target.longest)
        watch(lambda data=data: outcome(target, data, folder))


@pytest.mark.parametrize("act", ["open", "remove", "system", "exec", "pickle"])
def test_the_watch_sees_what_a_reader_must_not_do(act, tmp_path):
    """The guard itself: without it the tests above would pass whatever a reader does."""
    import os
    import pickle

    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("precious", encoding="utf-8")
    acts = {"open": lambda: outside.open("w", encoding="utf-8"), "remove": outside.unlink, "system": lambda: os.system("true"),
            "exec": lambda: exec("1"), "pickle": lambda: pickle.loads(pickle.dumps(Path("x")))}
    from tests.fuzz.watch import TrespassError

    with pytest.raises(TrespassError):
        Watch(inside)(acts[act])
    assert outside.read_text(encoding="utf-8") == "precious"
    Watch(inside)(lambda: (inside / "x").write_text("fine", encoding="utf-8"))


def test_the_watch_sees_time_and_memory(tmp_path):
    def busy():
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    with pytest.raises(AssertionError, match="processor time"):
        Watch(tmp_path, seconds=0.01)(busy)
    with pytest.raises(AssertionError, match="MB more"):
        Watch(tmp_path, seconds=600)(lambda: bytearray(b"x") * (_peak_bytes() + 250_000_000))
