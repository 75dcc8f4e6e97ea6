"""Exchanges between chips: formulas by hand, bounds, and what a step asks for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simkit.hardware.catalog import load_hardware
from simkit.step.build import build_step
from simkit.step.operators import Collective
from simkit.timing.exchanges import (
    all_gather_time_s,
    all_reduce_time_s,
    all_to_all_time_s,
    collective_time_s,
    send_time_s,
)
from tests.step.test_operators import workload_of

ALPHA, BETA = 1e-6, 1e11  # 1 us and 100 GB/s in each direction
NVLINK = load_hardware("h100-sxm").scale_up
FORMS = {"all_reduce": all_reduce_time_s, "all_gather": all_gather_time_s, "all_to_all": all_to_all_time_s, "send": send_time_s}


def link(topology: str, *, reduces: bool = False):
    return replace(NVLINK, latency_s=ALPHA, bandwidth_bytes_per_s=BETA, topology=topology, in_network_reduction=reduces)


def test_small_all_reduces_go_in_one_shot_and_large_ones_in_two():
    # 8 chips: 8 kB in one shot 1 us + 7 x 80 ns; 8 MB as reduce-scatter and all-gather 2 us + 2 x 7/8 x 80 us.
    assert all_reduce_time_s(8e3, 8, link("switch")) == pytest.approx(1e-6 + 7 * 8e-8)
    assert all_reduce_time_s(8e6, 8, link("switch")) == pytest.approx(2e-6 + 2 * 7 / 8 * 8e-5)


def test_a_ring_passes_each_byte_twice_in_steps():
    # 2 (p - 1) messages: 14 us, and 2 x 7/8 of the bytes.
    assert all_reduce_time_s(8e6, 8, link("ring")) == pytest.approx(14e-6 + 2 * 7 / 8 * 8e-5)


def test_a_switch_that_reduces_takes_each_byte_once():
    assert all_reduce_time_s(8e6, 8, link("switch", reduces=True)) == pytest.approx(2e-6 + 8e-5)


def test_gathering_receives_what_all_others_have():
    assert all_gather_time_s(1e6, 4, link("switch")) == pytest.approx(1e-6 + 3e-5)
    assert all_gather_time_s(1e6, 4, link("ring")) == pytest.approx(3e-6 + 3e-5)


def test_spreading_sends_what_is_for_the_others():
    assert all_to_all_time_s(8e6, 8, link("switch")) == pytest.approx(1e-6 + 7 / 8 * 8e-5)
    assert all_to_all_time_s(8e6, 8, link("ring")) == pytest.approx(4e-6 + 2 * 8e-5)
    assert send_time_s(1e6, 2, link("switch")) == pytest.approx(1e-6 + 1e-5)


def test_traffic_over_a_bridge_that_all_share_passes_it_whole():
    """Pairs talk directly at 100 GB/s; beyond two chips everything passes a bridge of 20 GB/s for all together."""
    bridge = replace(link("switch"), direct_chips=2, shared_bandwidth_bytes_per_s=2e10)
    n = 8e6
    assert all_reduce_time_s(n, 2, bridge) == all_reduce_time_s(n, 2, link("switch"))
    # Every chip gets and gives all but its own share, twice: 2 (p - 1) n bytes, in 2 (p - 1) messages.
    assert all_reduce_time_s(n, 4, bridge) == pytest.approx(2 * 3 * n / 2e10 + 6e-6, rel=1e-12)
    assert all_gather_time_s(n, 4, bridge) == pytest.approx(4 * 3 * n / 2e10, rel=1e-12)
    assert all_to_all_time_s(n, 4, bridge) == pytest.approx(3 * n / 2e10, rel=1e-12)
    assert all_reduce_time_s(n, 1, bridge) == all_gather_time_s(n, 1, bridge) == all_to_all_time_s(n, 1, bridge) == 0.0


def test_a_ring_of_two_sends_half_to_the_other():
    assert all_to_all_time_s(8e6, 2, link("ring")) == pytest.approx(1e-6 + 1 / 2 * 8e-5, rel=1e-12)


@given(st.sampled_from(sorted(FORMS)), st.floats(0, 1e9), st.integers(2, 512), st.sampled_from(["switch", "ring", "all-to-all"]),
       st.booleans())
def test_no_exchange_beats_its_link(kind, bytes_, chips, topology, reduces):
    time_s = float(FORMS[kind](bytes_, chips, link(topology, reduces=reduces)))
    # What must leave (or reach) a chip: all of a message, all but its own part of a spread, everyone else's of a gathering.
    must_move = {"all_reduce": bytes_, "all_gather": (chips - 1) * bytes_, "all_to_all": (chips - 1) / chips * bytes_,
                 "send": bytes_}[kind]
    assert time_s >= (ALPHA + must_move / BETA) * (1 - 1e-12)


@pytest.mark.parametrize("kind", sorted(FORMS))
def test_one_chip_exchanges_nothing(kind):
    assert FORMS[kind](1e9, 1, link("switch")) == 0
    alone = Collective(name="x", kind=kind, count=1, bytes=np.array([1e9, 2e9]), chips=1)
    assert collective_time_s(alone, None).tolist() == [0, 0]


@given(st.sampled_from(sorted(FORMS)), st.floats(1, 1e9), st.integers(2, 256), st.sampled_from(["switch", "ring"]))
def test_more_bytes_never_take_less_time(kind, bytes_, chips, topology):
    assert FORMS[kind](bytes_, chips, link(topology)) <= FORMS[kind](bytes_ * 1.5, chips, link(topology))


def exchanges(name: str, **split) -> dict[str, Collective]:
    return {c.name: c for c in build_step(workload_of(name, batch=4.0, **split)).collectives}


def test_a_llama_step_reduces_twice_a_layer_and_once_after_the_embedding():
    # Megatron-LM (arXiv 1909.08053, section 3): one all-reduce after attention, one after the MLP, one of the embedding.
    found = exchanges("llama-2-70b", tp=8.0)["all_reduce"]
    assert found.count == 2 * 80 + 1
    assert found.bytes == 4 * 8192 * 2


def test_a_parallel_block_reduces_once_a_layer_and_cross_attention_once_more():
    assert exchanges("palm-540b", tp=8.0)["all_reduce"].count == 118 + 1
    assert exchanges("t5-v1.1-xxl", tp=8.0)["all_reduce"].count == 3 * 24 + 1


def test_head_sharding_needs_no_resharding_and_the_others_do():
    assert set(exchanges("palm-540b", tp=8.0)) == {"all_reduce", "gather_logits", "stage_hop"}
    assert {"to_sequences", "to_heads"} <= set(exchanges("palm-540b", tp=8.0, sharding="batch"))
    assert {"gather_queries", "combine_partials"} <= set(exchanges("palm-540b", tp=8.0, sharding="context"))


def test_batch_sharding_sends_queries_new_keys_and_values_and_gets_outputs_back():
    # Per chip: a 16th of 4 rows x (48 queries + 1 key + 1 value) x 256 x 2 bytes, then of 4 x 48 x 256 x 2 bytes.
    found = exchanges("palm-540b", tp=16.0, sharding="batch")
    assert found["to_sequences"].bytes == 4 * (48 + 2) * 256 * 2 / 16
    assert found["to_heads"].bytes == 4 * 48 * 256 * 2 / 16


def test_unabsorbed_latent_attention_exchanges_queries_as_wide_as_its_keys():
    # DeepSeek-V2: 128 queries of 128 + 64 and outputs of 128 elements, not the latents' 576 and 512.
    found = exchanges("deepseek-v2", layout="mla-expanded", tp=8.0, sharding="batch")
    assert found["to_sequences"].bytes == 4 * 128 * 192 * 2 / 8
    assert found["to_heads"].bytes == 4 * 128 * 128 * 2 / 8
