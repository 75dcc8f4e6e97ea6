"""The append of new tokens through the DRAM's banks, against cycle-accurate runs that mix reads and writes."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.evidence.dram import read_runs
from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.replay.append import _written_fraction, append_fraction, with_append
from simkit.replay.dram.patterns import generate
from simkit.replay.dram.simulate import DramConfig, replay_requests
from simkit.replay.dram.standards import standard_named
from simkit.replay.dram_pattern import Pattern, channel_requests, standard_of
from simkit.replay.engine import evaluate as replay_step
from simkit.replay.engine import streamed, task_of
from simkit.roofline.engine import evaluate as roofline_step
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.study.scenario import parse_scenario
from simkit.timing.step_timing import TimedOperator
from tests.replay.cases import attention_operator, in_home

CHIPS = ("h100-sxm", "l40s", "sambanova-sn40l", "epyc-9654-2s", "tpu-v5e", "groq-lpu")
# The same physics under another mapping (the engine hashes banks, the table's rows do not), eight draws of 12 000
# requests that each differ by up to 20 %: 21 % below for HBM2, 16 % above for LPDDR5, at most 8 % for the others.
SAMPLE = 0.25


def fraction_by_table(runs, reads_a_write: int) -> float:
    """What a 256-byte write adds to sequential reads in the simulator's runs, as a share of the streaming rate."""
    fraction = {(run.pattern, run.parameter): run.achieved_fraction_of_peak for run in runs}
    streaming = next(value for (pattern, _), value in fraction.items() if pattern == "sequential")
    mixed = fraction["mixed_seq", reads_a_write]
    return (1 / streaming) / ((reads_a_write + 1) / mixed - reads_a_write / streaming)


@pytest.mark.parametrize("name", ["HBM2_2400", "HBM3_6400", "GDDR6_14000", "LPDDR5_6400", "DDR5_4800"])
def test_a_scattered_write_costs_what_the_cycle_accurate_simulator_says(name):
    runs = [run for run in read_runs() if run.dram_type == name and run.simulator.startswith("ramulator")
            and (run.mapping, run.scheduler, run.refresh, run.read_queue, run.driven_pseudo_channels)
            == ("bg128", "rowhit", "ab", 64, 1)]
    reads = Pattern(streams=1, run_bytes=16384, stride_bytes=16384, footprint_bytes=1 << 30)
    found = _written_fraction(standard_named(name), 1, reads, 256)
    assert found == pytest.approx(fraction_by_table(runs, 16), rel=SAMPLE)
    # The simulator too amortises its batches alike at any ratio: a sample of many writes tells the cost of few.
    assert fraction_by_table(runs, 1) == pytest.approx(fraction_by_table(runs, 16), rel=0.1)


@pytest.mark.parametrize("name", ["HBM3_6400", "GDDR6_14000", "DDR5_4800"])
def test_rare_writes_cost_what_frequent_ones_do_in_runs_of_many_batches(name):
    """The table's runs at 4096 reads a write hold 64 written bursts, one batch: a refresh more or less outweighs it."""
    config = DramConfig(standard=standard_named(name))
    bursts = 256 // config.standard.burst_bytes
    reads_a_write, groups = 1024, 100
    mixed = generate("mixed_seq", config, requests=groups * (reads_a_write + 1) * bursts, parameter=reads_a_write, seed=1)
    both = replay_requests(config, mixed.address_bytes, is_write=mixed.is_write, completions=False)
    stream = np.arange(groups * reads_a_write * bursts) * config.standard.burst_bytes
    alone = replay_requests(config, stream, completions=False)
    fraction = alone.elapsed_s / reads_a_write / (both.elapsed_s - alone.elapsed_s)
    runs = [run for run in read_runs() if run.dram_type == name and run.simulator.startswith("ramulator")
            and (run.mapping, run.scheduler, run.refresh, run.read_queue, run.driven_pseudo_channels)
            == ("bg128", "rowhit", "ab", 64, 1)]
    assert fraction == pytest.approx(fraction_by_table(runs, 16), rel=0.15)


def layer_step(chip, layout: str, batch: float):
    model = load_model("llama-2-70b")
    workload = parse_scenario().workload(
        chip, model, parse_layout(layout, model), batch=np.array([batch]), kv_len=np.array([2048.0]),
        q_len=np.array([1.0]), machine=Machine(chips=1.0, tp=1.0, pp=1.0))
    return build_step(workload)


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("layout", ["mha", "mqa"])
def test_an_append_moves_its_bytes_and_never_makes_the_layer_faster(name, layout):
    chip = load_hardware(name)
    where = in_home(chip.main_memory.name)
    step = layer_step(chip, layout, 16.0)
    append = next(operator for operator in step.layer_operators if operator.name == "kv_append")
    without = replace(step, layer_operators=tuple(
        operator for operator in step.layer_operators if operator is not append))
    found, bare = (replay_step(one, where, chip) for one in (step, without))
    home = chip.main_memory.name
    moved = found.level_bytes[home] - bare.level_bytes[home]
    assert moved == pytest.approx(roofline_bytes(step, where, chip, home) - roofline_bytes(without, where, chip, home))
    assert found.step_time_s >= bare.step_time_s
    assert found.operator_time_s["kv_append"] >= append.count * streamed(append, where, chip).total_s * (1 - 1e-12)


def roofline_bytes(step, where, chip, home):
    return roofline_step(step, where, chip).level_bytes[home]


def test_heads_that_lie_side_by_side_are_written_in_longer_runs_that_cost_less():
    level = load_hardware("h100-sxm").main_memory
    operator = attention_operator("mha", 16, 2048)
    task = task_of(operator)
    alone, together = (append_fraction(level, task, float(operator.kv_read_bytes), float(task.bytes_per_token_head), heads)
                       for heads in (1, 4))
    assert alone < together <= 1.0


def test_memory_without_rows_takes_an_append_as_a_stream():
    chip = load_hardware("groq-lpu")
    operator = attention_operator("mha", 16, 2048)
    task = task_of(operator)
    assert append_fraction(chip.main_memory, task, float(operator.kv_read_bytes), float(task.bytes_per_token_head), 1) == 1.0


def fraction_by_hand(standard, channels, reads, run_bytes):
    """Reads of one channel with a written run of at most a row before each sixteenth run's worth of them, at eight draws."""
    config = DramConfig(standard=standard, mapping="bg128x")
    burst = standard.burst_bytes
    read = channel_requests(reads, channels, burst, config.capacity_bytes, about=6000).tolist()
    pieces = -(-run_bytes // standard.row_bytes)  # rows that a run fills
    bursts = min(-(-run_bytes // burst), standard.row_bytes // burst)
    runs = max(len(read) // (16 * bursts), 1)
    before = [run * len(read) // runs for run in range(runs)]
    together_s = []
    for draw in range(8):
        places = np.random.default_rng(draw).integers(0, config.capacity_bytes // (bursts * burst), runs).tolist()
        requests, writes = [], []
        for number, address in enumerate(read):
            if number in before:
                first = places[before.index(number)] * bursts * burst
                requests += [first + burst * place for place in range(bursts)]
                writes += [1] * bursts
            requests.append(address)
            writes.append(0)
        together_s.append(replay_requests(config, requests, is_write=writes).elapsed_s)
    alone_s = replay_requests(config, read).elapsed_s
    stream = replay_requests(config, [burst * place for place in range(len(read))])
    wanted_s = runs * run_bytes / pieces / stream.bandwidth_bytes_per_s
    return min(1.0, wanted_s / (sum(together_s) / 8 - alone_s))


@pytest.mark.parametrize(("name", "run_bytes", "tile_bytes"), [
    ("l40s", 256, 16384), ("h100-sxm", 100, 16384), ("h100-sxm", 2048, 16384), ("sambanova-sn40l", 5000, 16384),
    ("epyc-9654-2s", 100_000, 16384), ("h100-sxm", 100_000, 32)])
def test_a_written_run_costs_what_it_adds_to_a_channel_that_reads(name, run_bytes, tile_bytes):
    standard, channels = standard_of(load_hardware(name).main_memory)
    reads = Pattern(streams=128, run_bytes=tile_bytes, stride_bytes=tile_bytes, footprint_bytes=1 << 30)
    expected = fraction_by_hand(standard, channels, reads, run_bytes)
    assert _written_fraction(standard, channels, reads, run_bytes) == pytest.approx(expected, rel=1e-9)


def test_an_append_writes_a_vector_a_head_and_part_beside_64_tiles_that_are_read():
    """Of 128 bf16 keys, 256 bytes, and as many values; a tile is 64 tokens. Latents of 576 elements are one part, and their
    tiles of 73 728 bytes count as 65 536.
    """
    level = load_hardware("l40s").main_memory
    found = standard_of(level)
    heads = task_of(attention_operator("gqa-8", 4, 2048))
    latent = task_of(attention_operator("mla", 4, 2048, model="deepseek-v2"))
    tiles = Pattern(streams=128, run_bytes=16384, stride_bytes=16384, footprint_bytes=1 << 29)
    assert append_fraction(level, heads, 6e8, 512.0, 1) == _written_fraction(*found, tiles, 256)
    assert append_fraction(level, heads, 6e8, 512.0, 8) == _written_fraction(*found, tiles, 2048)
    assert append_fraction(level, heads, 6e8, 512.0, 0) == _written_fraction(*found, tiles, 256)
    of_latents = Pattern(streams=64, run_bytes=65536, stride_bytes=65536, footprint_bytes=1 << 29)
    assert append_fraction(level, latent, 6e8, 1152.0, 1) == _written_fraction(*found, of_latents, 1152)


def test_a_vector_of_less_than_a_byte_is_written_as_one():
    """64 tokens of half a byte are the shortest run that is read."""
    level = load_hardware("l40s").main_memory
    task = task_of(attention_operator("gqa-8", 4, 2048))
    tiles = Pattern(streams=128, run_bytes=32, stride_bytes=32, footprint_bytes=1 << 29)
    assert append_fraction(level, task, 6e8, 1.0, 1) == _written_fraction(*standard_of(level), tiles, 1)


def stream_of(seconds, home):
    return TimedOperator(total_s=seconds, cause_s={"latency": 1e-6, home: seconds - 1e-6}, level_bytes={home: 1.0})


def test_scattered_writes_take_longer_than_a_stream_by_what_the_fraction_says():
    """Two points that write 1 and 2 MB, half of each in a cache's home: the rate is what long streams reach."""
    chip = load_hardware("l40s")
    level = chip.main_memory
    reader = attention_operator("gqa-8", 4, 2048)
    append = Operator(name="kv_append", count=1, kv_write_bytes=np.array([1e6, 2e6]))
    where = Placement(weights={level.name: 1.0}, kv={level.name: np.array([1.0, 0.5])}, fits=True, max_batch=0)
    found = with_append(stream_of(np.array([3e-6, 4e-6]), level.name), append, reader, where, [chip, chip], (2,))
    fraction = append_fraction(level, task_of(reader), float(reader.kv_read_bytes), 512.0, 1)
    extra_s = 1e6 / (864e9 * 0.918) * (1 / fraction - 1)
    assert fraction < 0.9
    assert found.total_s == pytest.approx(np.array([3e-6, 4e-6]) + extra_s)
    assert found.cause_s[level.name] == pytest.approx(np.array([2e-6, 3e-6]) + extra_s)
    assert found.cause_s["latency"] == 1e-6
    assert found.level_bytes == {level.name: 1.0}


def test_each_point_has_its_own_reads_heads_and_chip():
    """The second point reads other tokens, of heads side by side, on a chip whose memory is slower."""
    chip = load_hardware("l40s")
    slow = replace(chip, memory=tuple(replace(level, bandwidth_bytes_per_s=432e9) if level.name == "gddr" else level
                                      for level in chip.memory))
    reader = attention_operator("gqa-8", 4, 2048)
    reader = replace(reader, kv_read_bytes=np.array([1e8, 9e9]), attention=replace(
        task_of(reader), bytes_per_token_head=np.array([512.0, 256.0]), interleaved_heads=np.array([1.0, 7.6])))
    append = Operator(name="kv_append", count=1, kv_write_bytes=1e6)
    found = with_append(stream_of(3e-6, "gddr"), append, reader, in_home("gddr"), [chip, slow], (2,))
    expected = [3e-6 + 1e6 / (rate * 0.918) * (1 / append_fraction(one.main_memory, task_of(reader), read, token, heads) - 1)
                for one, rate, read, token, heads in ((chip, 864e9, 1e8, 512.0, 1), (slow, 432e9, 9e9, 256.0, 8))]
    assert found.total_s == pytest.approx(np.array(expected), rel=1e-12)


@pytest.mark.parametrize(("name", "home", "parameters"), [
    ("groq-lpu", "sram", {}), ("l40s", "gddr", {"bandwidth_bytes_per_s": None}), ("l40s", "gddr", {"dram": None})])
def test_sram_and_memories_without_rate_or_rows_write_as_they_stream(name, home, parameters):
    chip = load_hardware(name)
    chip = replace(chip, memory=tuple(replace(level, **parameters) if level.name == home else level for level in chip.memory))
    append = Operator(name="kv_append", count=1, kv_write_bytes=1e6)
    found = with_append(stream_of(3e-6, home), append, attention_operator("gqa-8", 4, 2048), in_home(home), [chip], (1,))
    assert found.total_s.tolist() == [3e-6]


def test_a_home_that_the_stream_did_not_wait_for_is_waited_for_now():
    """A launch-bound append of however little: nothing was charged to memory."""
    chip = load_hardware("l40s")
    timed = TimedOperator(total_s=3e-6, cause_s={"latency": 3e-6}, level_bytes={})
    append = Operator(name="kv_append", count=1, kv_write_bytes=1.0)
    found = with_append(timed, append, attention_operator("gqa-8", 4, 2048), in_home("gddr"), [chip], (1,))
    assert found.cause_s["gddr"] == pytest.approx(found.total_s - 3e-6)
    assert found.cause_s["gddr"] > 0
    assert "gddr" not in timed.cause_s


def test_an_append_whose_reader_is_no_attention_is_refused():
    chip = load_hardware("l40s")
    append = Operator(name="kv_append", count=1, kv_write_bytes=1e6)
    with pytest.raises(ValueError, match="norm is not an attention operator"):
        with_append(stream_of(3e-6, "gddr"), append, Operator(name="norm", count=1), in_home("gddr"), [chip], (1,))
