"""What the replay does with units, caches, SRAM, layouts in memory and raggedness, against closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.replay.kernel_plan import split_count
from simkit.replay.target import target_of
from simkit.replay.timeline import FIRST_SERVER, Items, Path, Record, run_items
from simkit.step.placement import Placement
from simkit.study.point import decode_step
from tests.laws.strategies import SIMULATED
from tests.replay.cases import attention_operator, replay, roof_s, with_level


def loop(*, tokens, servers=(1e-9,), latency_s=0.0, in_flight=4, units=1, slots_per_unit=1, granule_tokens=1,
         compute_s=0.0, setup_s=0.0, exposed_setup_share=0.0, stream=None, cache_server=-1, window_bytes=0.0, per_unit=False):
    """One run of the event loop; a token is a byte, so that times are bytes x seconds a byte."""
    tokens = np.asarray(tokens, dtype=np.int64)
    stream = np.arange(len(tokens)) if stream is None else np.asarray(stream)
    stalls, home = np.zeros(FIRST_SERVER + len(servers)), np.zeros(1, dtype=np.int64)
    seconds = run_items(
        Items(tokens=tokens, stream=stream, granules_per_stream=int(-(-tokens.max() // granule_tokens)),
              granule_tokens=granule_tokens, in_flight=in_flight, bytes_per_token=1.0, compute_s_per_token=compute_s,
              setup_s=np.full(len(tokens), setup_s), exposed_setup_share=exposed_setup_share, shared=len(set(stream.tolist())) < len(stream)),
        Path(units=units, slots_per_unit=slots_per_unit, s_per_byte=np.array(servers),
             latency_s=np.full(len(servers), latency_s), per_unit=np.full(len(servers), int(per_unit)),
             extra_share=np.zeros(len(servers)), cache_server=cache_server, hit_share=0.0,
             reread_window_bytes=window_bytes),
        Record(stalls=stalls, home_tokens=home, events=np.zeros((0, 4)), binned_bytes=np.zeros((len(servers), 0)),
               bin_s=1.0))
    return seconds, stalls, int(home[0])


def test_a_slot_reads_at_its_bytes_in_flight_over_the_latency():
    """Little's law: 8 bytes in flight over 1 us are 8 MB/s, however fast the server is."""
    seconds, _, _ = loop(tokens=[8000], servers=(1e-15,), latency_s=1e-6, in_flight=8)
    assert seconds == pytest.approx(8000 / 8e6, rel=1e-3)


def test_a_shared_server_serves_at_its_rate_however_many_ask():
    seconds, _, _ = loop(tokens=[500] * 8, servers=(1e-6,), units=4, slots_per_unit=2, in_flight=4)
    assert seconds == pytest.approx(8 * 500 * 1e-6, rel=1e-9)


def test_servers_of_the_units_work_side_by_side():
    seconds, _, _ = loop(tokens=[500] * 4, servers=(1e-6,), units=4, per_unit=True)
    assert seconds == pytest.approx(500 * 1e-6, rel=1e-9)


def test_arithmetic_hides_behind_loads_but_for_the_last_granule():
    seconds, _, _ = loop(tokens=[1000], servers=(1e-6,), compute_s=0.5e-6)
    assert seconds == pytest.approx(1000e-6 + 0.5e-6, rel=1e-9)


def test_loads_hide_behind_arithmetic_but_for_the_first_granule():
    seconds, stalls, _ = loop(tokens=[1000], servers=(1e-6,), compute_s=2e-6)
    assert seconds == pytest.approx(1e-6 + 2000e-6, rel=1e-9)
    assert stalls[2] == pytest.approx(2000e-6, rel=1e-6)


def test_two_resident_items_set_up_together_and_share_the_server():
    """Alone 1 us of set-up and 1 us of reading an item; in pairs 1 us of set-up and 2 us of reading a pair."""
    alone, _, _ = loop(tokens=[1000] * 8, servers=(1e-9,), setup_s=1e-6, slots_per_unit=1)
    pair, _, _ = loop(tokens=[1000] * 8, servers=(1e-9,), setup_s=1e-6, slots_per_unit=2)
    assert alone == pytest.approx(8 * 2e-6, rel=0.01)
    assert pair == pytest.approx(4 * 3e-6, rel=0.01)


def test_exposed_setup_idles_a_units_part_of_the_shared_server():
    """100 items of 1 us set-up on 10 units: 30 % of it, a tenth of the server each, adds 3 us to 100 us of reading."""
    common = {"tokens": [1000] * 100, "servers": (1e-9,), "units": 10, "setup_s": 1e-6, "granule_tokens": 10}
    hidden, _, _ = loop(**common)
    exposed, _, _ = loop(**common, exposed_setup_share=0.3)
    assert 101e-6 <= hidden <= 106e-6  # the first set-up, and the last items of units that are done at different times
    assert exposed - hidden == pytest.approx(3e-6 - 0.3e-6, rel=0.25)  # the first ten set up while nothing is read


def test_nine_items_on_eight_units_take_two_waves():
    one, _, _ = loop(tokens=[100] * 8, servers=(1e-6,), units=8, per_unit=True)
    two, stalls, _ = loop(tokens=[100] * 9, servers=(1e-6,), units=8, per_unit=True)
    assert two == pytest.approx(2 * one, rel=1e-9)
    assert stalls[4] == pytest.approx(7 * one, rel=1e-9)


def test_a_range_read_again_soon_comes_from_the_cache_and_late_from_the_home():
    args = {"tokens": [100, 100], "stream": [0, 0], "servers": (1e-9, 1e-6), "cache_server": 0}
    _, _, near = loop(**args, window_bytes=100.0)
    _, _, far = loop(**args, window_bytes=50.0)
    assert (near, far) == (100, 200)


def test_readers_side_by_side_wait_for_the_same_fill():
    """The second reader's hit cannot be there before the first reader's miss is."""
    seconds, _, home = loop(tokens=[10, 10], stream=[0, 0], servers=(1e-12, 1e-6), cache_server=0, window_bytes=1e3,
                            slots_per_unit=2, latency_s=1e-3)
    assert home == 10
    assert seconds >= 1e-3


def test_splits_fill_the_slots_and_never_cut_below_256_tokens():
    """Eight heads on 264 slots: 33 pieces fill them, and the smallest count within 85 % of that is taken."""
    assert split_count(items=8, tokens=131072, slots=264) == 29
    assert split_count(items=8, tokens=1024, slots=264) <= 4
    assert split_count(items=1000, tokens=131072, slots=264) == 1


def test_splitting_long_sequences_of_a_small_batch_pays():
    whole = replay("h100-sxm", "mqa", 2, 32768, attention_kernel="grouped-unsplit")
    cut = replay("h100-sxm", "mqa", 2, 32768)
    assert cut.splits > 50
    assert cut.total_s < 0.25 * whole.total_s


def test_a_kernel_a_query_head_reads_once_from_dram_what_its_cache_can_hold_and_again_what_it_cannot():
    """Eight query heads share a KV head: H100's L2 holds what runs at once; without it every read is DRAM's."""
    chip = replace(load_hardware("h100-sxm"), kernel=None)  # units that take whatever memory gives
    kept = replay(chip, "gqa-8", 16, 2048, attention_kernel="per-query-head")
    bare = replay(replace(chip, memory=tuple(level for level in chip.memory if level.name != "l2")), "gqa-8", 16, 2048,
                  attention_kernel="per-query-head")
    grouped = replay(chip, "gqa-8", 16, 2048)
    assert kept.level_bytes["hbm"] == pytest.approx(grouped.level_bytes["hbm"], rel=1e-9)
    assert kept.level_bytes["l2"] > 7.5 * grouped.level_bytes["l2"]
    assert bare.level_bytes["hbm"] == pytest.approx(8 * kept.level_bytes["hbm"], rel=1e-3)  # activations join them
    assert bare.total_s > 1.5 * kept.total_s  # L2 serves eight times the bytes at 1.7 times the rate of DRAM


def test_an_unfused_kernel_pays_for_its_scores_and_launches():
    fused, unfused = (replay("h100-sxm", "mqa", 16, 4096, attention_kernel=name) for name in ("grouped-unsplit", "unfused"))
    assert unfused.level_bytes["l2"] > fused.level_bytes["l2"]
    assert unfused.stall_s["launch"] == pytest.approx(3 * fused.stall_s["launch"])


def test_a_cache_that_straddles_two_homes_takes_the_mean_of_its_layers():
    chip = load_hardware("sambanova-sn40l")
    near, far = (replay(chip, "gqa-8", 8, 4096, home=name) for name in ("hbm", "ddr"))
    both = replay(chip, "gqa-8", 8, 4096, placement=Placement(
        weights={"hbm": 1.0}, kv={"hbm": 0.75, "ddr": 0.25}, fits=True, max_batch=0))
    assert both.total_s == pytest.approx(0.75 * near.total_s + 0.25 * far.total_s, rel=1e-12)
    assert both.level_bytes["ddr"] == pytest.approx(0.25 * far.level_bytes["ddr"], rel=1e-12)


def test_near_memory_tiers_are_as_fast_as_their_bandwidths_say():
    """SN40L streams; its HBM has 16 times the bandwidth of its DDR, and 0.75 of it is reached, of the DDR a prior."""
    chip = load_hardware("sambanova-sn40l")
    near, far = (replay(chip, "mha", 8, 4096, home=name) for name in ("hbm", "ddr"))
    reached = chip.level("ddr").achievable_fraction
    assert far.total_s / near.total_s == pytest.approx(1.6e12 * 0.75 / (100e9 * reached), rel=0.05)


def test_a_cache_that_spills_over_three_tiers_moves_each_tier_s_share_through_all_nearer_ones():
    chip = load_hardware("sambanova-sn40l")
    found = replay(chip, "gqa-8", 32, 8192, placement=Placement(
        weights={"hbm": 1.0}, kv={"sram": 0.25, "hbm": 0.5, "ddr": 0.25}, fits=True, max_batch=0))
    read = float(attention_operator("gqa-8", 32, 8192).kv_read_bytes)
    assert found.level_bytes["ddr"] == pytest.approx(0.25 * read, rel=1e-12)
    assert found.level_bytes["hbm"] == pytest.approx(0.75 * read, rel=1e-12)
    assert sum(found.stall_s.values()) == pytest.approx(found.total_s, rel=1e-12)


@pytest.mark.parametrize("name", ["groq-lpu", "cerebras-wse3", "sambanova-sn40l", "dmatrix-corsair", "tpu-v5e",
                                  "generic-sram-asic", "graphcore-mk2"])
def test_compiled_machines_stay_near_their_roof_and_have_no_dispatch(name):
    chip = load_hardware(name)
    target = target_of(chip, chip.main_memory.name)
    assert target.schedule in ("static", "banked")
    for layout in ("mha", "mqa"):
        found = replay(chip, layout, 32, 8192)
        assert 1.0 - 1e-9 <= found.total_s / roof_s(chip, layout, 32, 8192) <= 1.6
        if target.home.kind == "sram":
            assert found.row_hit_fraction is None


def test_banks_are_as_fast_as_the_fullest_one():
    """133 equal heads on 132 banks, never cut: one bank holds two, so that the chip takes twice the even time."""
    chip = load_hardware("generic-sram-asic")
    even = replay(chip, "mqa", 132, 64)
    odd = replay(chip, "mqa", 133, 64)
    assert odd.total_s / even.total_s == pytest.approx(2.0, rel=0.05)


def test_layer_pipelined_chips_pay_a_hop_between_stages_in_every_engine():
    chip = load_hardware("groq-lpu", overrides={"overheads.layer_latency": "38 us"})  # measured with its exchanges
    slow = replace(chip, scale_up=replace(chip.scale_up, latency_s=chip.scale_up.latency_s + 10e-6))
    before, after = (decode_step(one, "llama-2-70b", attention="gqa-8", batch=8, engine="replay", chips=1200, baseline=False)
                     for one in (chip, slow))
    hops = float(before["pp"])
    assert float(after["step_time_s"] - before["step_time_s"]) == pytest.approx(hops * 10e-6, rel=1e-6)


def test_pages_cost_a_dependent_read_and_their_table():
    flat, paged = replay("h100-sxm", "gqa-8", 1, 2048), replay("h100-sxm", "gqa-8", 1, 2048, page=16)
    assert paged.level_bytes["hbm"] - flat.level_bytes["hbm"] == 2048 / 16 * 4
    chip = load_hardware("mi300x")  # no measured kernels, whose set-up would hold the wait already
    flat, paged = (replay(chip, "gqa-8", 1, 2048, page=page) for page in (None, 16))
    assert paged.total_s - flat.total_s == pytest.approx(chip.main_memory.latency_s, rel=0.05)


def test_scattered_tokens_lose_row_hits_where_runs_do_not():
    """H2O's heavy hitters lie where they were written; a window of as many tokens is one run."""
    run = replay("sambanova-sn40l", "mha", 8, 16384, eviction="streaming:4+1020")
    scattered = replay("sambanova-sn40l", "mha", 8, 16384, eviction="h2o:512+512")
    assert run.level_bytes["hbm"] == scattered.level_bytes["hbm"]
    assert scattered.row_hit_fraction < run.row_hit_fraction
    assert scattered.home_rate_fraction < run.home_rate_fraction


def test_a_latent_cache_is_one_stream_and_is_read_once():
    found = replay("h100-sxm", "mla", 8, 4096, model="deepseek-v2")
    assert found.level_bytes["hbm"] == 8 * 4096 * 576 * 2  # 512 latent and 64 rotary elements a token (section 2.1)


def test_a_level_without_a_rate_is_told_by_name():
    with pytest.raises(UserError, match=r"memory\.hbm\.bandwidth"):
        replay(with_level(load_hardware("h100-sxm"), "hbm", bandwidth_bytes_per_s=None))


@pytest.mark.parametrize("chip", SIMULATED, ids=lambda chip: chip.name)
def test_every_shipped_chip_replays(chip):
    found = replay(chip, "gqa-8", 8, 1024)
    assert math.isfinite(found.total_s)
    assert found.total_s > 0
    assert all(0 <= share <= 1 + 1e-9 for share in found.utilisation.values())


def test_a_figure_may_be_an_array_and_each_point_has_its_own():
    chip = load_hardware("h100-sxm")
    rates = np.array([1e12, 2e12, 4e12])
    varied = decode_step(with_level(chip, "hbm", bandwidth_bytes_per_s=rates), "llama-2-70b", attention="mha", chips=8,
                         batch=np.array([8.0, 8.0, 8.0]), engine="replay", baseline=False)
    for place, rate in enumerate(rates):
        one = decode_step(with_level(chip, "hbm", bandwidth_bytes_per_s=float(rate)), "llama-2-70b", attention="mha",
                          chips=8, batch=8.0, engine="replay", baseline=False)
        assert varied["attention_time_s"][place] == pytest.approx(float(one["attention_time_s"]), rel=1e-12)


def test_slots_without_work_are_no_imbalance_while_the_others_keep_memory_busy():
    """64 heads on 132 units that saturate HBM: twice its bandwidth helps, so that it binds and no idle slot does."""
    found = replay("h100-sxm", "mha", 1, 16384)
    assert found.utilisation["hbm"] > 0.9
    assert found.stall_s["hbm"] >= found.utilisation["hbm"] * 0.97 * found.total_s
    assert found.stall_s["imbalance"] < 0.05 * found.total_s
    assert sum(found.stall_s.values()) == pytest.approx(found.total_s, rel=1e-12)


@pytest.mark.parametrize("scenario", [{"eviction": "h2o:64+64"}, {"cache_order": "token-major"}])
def test_the_layout_in_memory_may_differ_from_point_to_point_too(scenario):
    """Kept tokens lie as far apart as the context is long, and heads side by side as there are: arrays, which once were hashed."""
    kv_len, layouts = np.array([1024.0, 8192.0]), ["gqa-8", "mqa"]
    for layout in layouts:
        varied = decode_step("mi300x", "llama-2-70b", attention=layout, batch=8, kv_len=kv_len, engine="replay", baseline=False,
                             **scenario)
        for place, length in enumerate(kv_len):
            one = decode_step("mi300x", "llama-2-70b", attention=layout, batch=8, kv_len=float(length), engine="replay",
                              baseline=False, **scenario)
            assert varied["attention_time_s"][place] == pytest.approx(float(one["attention_time_s"]), rel=1e-12)
