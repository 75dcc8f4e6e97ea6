"""Replayed points on disk: the same figures to the last bit, by content, and harmless when damaged or crowded."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import simkit
from simkit.hardware.catalog import load_hardware
from simkit.replay import engine
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.study import replay_cache
from simkit.study.digests import digest, source_digest
from simkit.study.replay_cache import BLOCK_BYTES, ResultCache, cache_folder, shared_cache, without_cache
from simkit.timing.step_timing import TimedOperator
from tests.conftest import RUN_TIMEOUT_S

AT_HOME = Placement(weights={"hbm": 1.0}, kv={"hbm": 1.0}, fits=True, max_batch=0)
TIMED = TimedOperator(total_s=0.1 + 0.2, cause_s={"hbm": 1 / 3, "latency": 5e-324}, level_bytes={"hbm": 2.0**60 + 256})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def h100():
    return load_hardware("h100-sxm")


def operator(tokens):
    return Operator(name="attention", count=80, matrix_flops=float(tokens), kv_read_bytes=2.0 * tokens)


def replayed(batch):
    engine._REPLAYS.clear()
    return simkit.decode_step("h100-sxm", "llama-2-70b", attention="gqa-8", batch=batch, kv_len=2048, chips=8,
                              engine="replay")


def no_replay():
    raise AssertionError("the point was replayed again")


def test_a_point_from_disk_is_the_replayed_point_to_the_last_bit(folder, monkeypatch):
    first = replayed([1, 3])
    monkeypatch.setattr(engine, "replay_attention", lambda *_, **__: no_replay())
    again = replayed([1, 3])
    for name, column in first.items():
        assert np.array_equal(column, again[name], equal_nan=column.dtype.kind == "f"), name
    assert shared_cache().folder == folder


def test_without_the_cache_nothing_is_read_or_written(folder, monkeypatch):
    with without_cache():
        replayed([1])
    assert not folder.exists()


def test_no_cache_on_the_command_line_replays_again(folder, cli):
    command = ("simulate", "-A", "mqa", "--chips", "8", "--kv-len", "1k", "--engine", "replay", "--format", "json")
    engine._REPLAYS.clear()
    kept_off = json.loads(cli(*command, "--no-cache").stdout)
    assert not folder.exists()
    engine._REPLAYS.clear()
    assert json.loads(cli(*command).stdout) == kept_off
    assert list(folder.rglob("*.json"))


def test_floats_survive_to_the_last_bit(tmp_path, h100):
    cache = ResultCache(folder=tmp_path)
    cache.timed(operator(1), AT_HOME, h100, ("cold",), lambda: TIMED)
    assert cache.timed(operator(1), AT_HOME, h100, ("cold",), no_replay) == TIMED


@pytest.mark.parametrize("change", ["operator", "placement", "profile", "how", "sources"])
def test_whatever_the_figures_follow_from_is_in_the_name(tmp_path, h100, monkeypatch, change):
    cache = ResultCache(folder=tmp_path)
    cache.timed(operator(1), AT_HOME, h100, ("cold",), lambda: TIMED)
    other = {"operator": operator(2)}.get(change, operator(1))
    home = Placement(weights={}, kv={"l2": 1.0}, fits=True, max_batch=0) if change == "placement" else AT_HOME
    chip = load_hardware("h100-sxm", overrides={"memory.l2.latency": "142 ns"}) if change == "profile" else h100
    if change == "sources":
        monkeypatch.setattr(replay_cache, "source_digest", lambda _: "another engine")
    fresh = TimedOperator(total_s=2.0, cause_s={}, level_bytes={})
    assert cache.timed(other, home, chip, ("warm",) if change == "how" else ("cold",), lambda: fresh) == fresh


def test_words_for_people_are_not_content(h100):
    assert digest(load_hardware("h100-sxm")) == digest(h100)
    assert digest(h100) != digest(load_hardware("h100-sxm", overrides={"memory.hbm.bandwidth": "3.3519 TB/s"}))
    assert source_digest(("replay", "step")) != source_digest(("replay",))
    with pytest.raises(FileNotFoundError):
        source_digest(("replay", "a-room-that-moved"))


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b"{}", b"0\n[1, {}, {}]\n", None])
def test_a_damaged_entry_is_replayed_and_put_right(tmp_path, h100, damage):
    cache = ResultCache(folder=tmp_path)
    cache.timed(operator(1), AT_HOME, h100, (), lambda: TIMED)
    (entry,) = tmp_path.rglob("*.json")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert cache.timed(operator(1), AT_HOME, h100, (), lambda: TIMED) == TIMED
    assert cache.misses == 2
    assert entry.read_bytes() == whole


def test_an_entry_under_another_s_name_is_ignored(tmp_path, h100):
    cache = ResultCache(folder=tmp_path)
    cache.timed(operator(1), AT_HOME, h100, (), lambda: TIMED)
    (one,) = tmp_path.rglob("*.json")
    fresh = TimedOperator(total_s=2.0, cause_s={}, level_bytes={})
    cache.timed(operator(2), AT_HOME, h100, (), lambda: fresh)
    other = next(path for path in tmp_path.rglob("*.json") if path != one)
    other.write_bytes(one.read_bytes())
    assert cache.timed(operator(2), AT_HOME, h100, (), lambda: fresh) == fresh


def test_the_folder_stays_below_its_bound_and_the_oldest_go_first(tmp_path, h100):
    cache = ResultCache(folder=tmp_path, most_bytes=10 * BLOCK_BYTES)
    for tokens in range(1, 21):
        cache.timed(operator(tokens), AT_HOME, h100, (), lambda: TIMED)
        newest = max(tmp_path.rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, ns=(tokens * 10**9, tokens * 10**9))
    cache.trim()
    left = sorted(path.stat().st_mtime_ns // 10**9 for path in tmp_path.rglob("*.json"))
    assert left == list(range(12, 21))


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, h100):
    (tmp_path / "file").write_text("not a folder")
    cache = ResultCache(folder=tmp_path / "file")
    assert cache.timed(operator(1), AT_HOME, h100, (), lambda: TIMED) == TIMED


def test_runs_side_by_side_share_one_folder(folder, h100):
    """Eight threads of this process and two processes, all on the same points."""
    program = ("import simkit; r = simkit.decode_step('h100-sxm', 'llama-2-70b', attention='gqa-8', batch=[1, 2, 3],"
               " kv_len=1024, chips=8, engine='replay'); print(r['step_time_s'].tolist())")
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, encoding="utf-8") for _ in range(2)]
    cache = ResultCache(folder=folder)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(
            lambda n: cache.timed(operator(n % 4 + 1), AT_HOME, h100, (), lambda: TIMED), range(400)))
    assert all(one == TIMED for one in found)
    first, second = (run.communicate(timeout=RUN_TIMEOUT_S)[0] for run in runs)
    assert first == second != ""
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]


@pytest.mark.parametrize(("platform", "variables", "expected"), [
    ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/simkit"),
    ("linux", {}, "/home/someone/.cache/simkit"),
    ("darwin", {}, "/home/someone/Library/Caches/simkit"),
    ("linux", {"SIMKIT_CACHE": "/else/where"}, "/else/where"),
])
def test_the_folder_is_the_platform_s_or_the_one_named(monkeypatch, platform, variables, expected):
    for name in ("SIMKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(replay_cache.sys, "platform", platform)
    assert cache_folder().as_posix() == expected
