"""Two pools of chips for one step: what is conserved, what equals one machine, what is refused."""

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.study import record
from simkit.study.point import decode_step
from simkit.study.pool_fields import POOL_FIELDS
from simkit.study.pool_words import parse_between, parse_kept, split_count
from simkit.study.record import FIELDS

EVERY = (*FIELDS, *POOL_FIELDS)
CONSERVED = ("flops", "kv_read_bytes", "weight_read_bytes", "kv_cache_bytes", "kv_allocated_bytes")


def pooled(hardware="h100-sxm", model="llama-2-70b", *, ffn="h100-sxm:8", between="free", fields=EVERY, **asked):
    """Points on two pools of eight chips unless asked for otherwise."""
    return decode_step(hardware, model, **{"attention": "gqa-8", "batch": 32, "kv_len": 4096, "chips": 8, "ffn": ffn,
                                           "between": between, "fields": fields, **asked})


def alone(hardware="h100-sxm", model="llama-2-70b", **asked):
    """The same points on one of the pools."""
    return decode_step(hardware, model, **{"attention": "gqa-8", "batch": 32, "kv_len": 4096, "chips": 8, **asked})


@pytest.mark.parametrize("kept", ["projections,ends", "projections", "ends", "none", "ffn", "ffn,ends"])
@pytest.mark.parametrize(("model", "engine"), [("llama-2-70b", "roofline"), ("llama-2-70b", "replay"),
                                               ("mixtral-8x7b", "roofline"), ("deepseek-v2", "roofline")])
def test_one_micro_batch_over_a_free_link_is_one_machine_whoever_does_what(kept, model, engine):
    # The pools take turns: each works while the other waits, so a step is what one of them takes for all of it.
    layout = "as-trained"
    found = pooled(model=model, attention=layout, engine=engine, with_attention=kept, micro_batches=1,
                   attention_sharding="heads")
    one = alone(model=model, attention=layout, engine=engine, tp=8, attention_sharding="heads")
    assert found["step_time_s"] == pytest.approx(one["step_time_s"], rel=1e-9)
    assert found["attention_time_s"] == pytest.approx(one["attention_time_s"], rel=1e-9)
    for name in CONSERVED:
        assert found[name] == pytest.approx(one[name], rel=1e-12), name


def test_two_equal_pools_in_balance_do_what_one_machine_of_both_does():
    # Without fixed times, where a step grows with its rows alone (arithmetic binds, weights count little) and both pools
    # have the same work: each does half of it all the time, as chips of one machine would.
    chip = load_hardware("generic-sram-asic", assume="ideal", overrides={
        "memory.sram.bandwidth": "900PB/s", "memory.sram.capacity": "900TB",
        "links.scale_up.bandwidth": "900PB/s", "links.scale_up.latency": "0s"})
    points = {"batch": 4096, "kv_len": np.arange(26000, 27000, 100), "baseline": False, "attention": "mha"}
    found = pooled(chip, ffn=(chip, 1), chips=1, with_attention="projections", **points)
    level = np.argmin(np.abs(found["attention_pool_time_s"] / found["ffn_pool_time_s"] - 1.0))
    assert found["attention_pool_time_s"][level] == pytest.approx(found["ffn_pool_time_s"][level], rel=0.003)
    both = alone(chip, chips=2, tp=2, **points)
    assert found["step_time_s"][level] == pytest.approx(both["step_time_s"][level], rel=0.01)
    assert found["micro_batches"][level] > 1


def test_bytes_between_pools_are_two_hidden_states_of_each_row_and_layer():
    for count in (1, 4, 5):
        found = pooled(micro_batches=count, batch=20)
        assert found["exchange_bytes"] == 2 * 80 * 20 * 8192 * 2
    # Attention alone: queries, keys and values in, 128 wide heads; outputs back.
    core = pooled(with_attention="none", micro_batches=1, batch=20)["exchange_bytes"]
    assert core == 80 * 20 * 128 * (64 + 2 * 8 + 64) * 2 + 0


def test_micro_batches_read_weights_again_and_nothing_else():
    one, four = (pooled(micro_batches=count) for count in (1, 4))
    assert four["weight_read_bytes"] == pytest.approx(4 * one["weight_read_bytes"], rel=1e-3)  # rows of the embedding
    assert four["flops"] == pytest.approx(one["flops"])
    assert four["kv_read_bytes"] == pytest.approx(one["kv_read_bytes"])


def test_no_pool_works_longer_than_the_step_and_the_best_micro_batches_are_those_of_brute_force():
    axes = {"batch": [8, 64, 200], "kv_len": [[1024], [16384]], "between": "100GB/s,5us", "fields": EVERY}
    found = pooled(**axes)
    busy = [found[name] for name in ("attention_pool_time_s", "ffn_pool_time_s", "exchange_time_s")]
    assert found["fits"].sum() == 5
    assert (np.max(busy, axis=0) <= found["step_time_s"])[found["fits"]].all()
    each = [np.where(np.array(axes["batch"]) >= count, pooled(**axes, micro_batches=count)["step_time_s"], np.inf)
            for count in range(1, 25)]
    assert found["step_time_s"] == pytest.approx(np.min(each, axis=0), rel=1e-9, nan_ok=True)


def test_a_faster_link_never_lengthens_a_step_and_a_slow_one_binds_it():
    steps = [pooled(between=f"{rate}GB/s,2us", batch=256)["step_time_s"] for rate in (0.1, 1, 10, 100, 1000)]
    assert (np.diff(steps) <= 1e-12).all()
    slow = pooled(between="0.1GB/s,2us", batch=256)
    assert slow["bound"] == "link"
    assert slow["exchange_time_s"] == pytest.approx(slow["step_time_s"], rel=0.02)


def test_costs_are_those_of_both_pools():
    found, small = pooled(), pooled(ffn="h100-sxm:4")
    price = 16 * load_hardware("h100-sxm").price.usd_per_hour / 3600
    assert found["cost_usd_per_mtok"] == pytest.approx(price / found["tokens_per_s"] * 1e6)
    assert small["cost_usd_per_mtok"] == pytest.approx(price * 0.75 / small["tokens_per_s"] * 1e6)
    assert found["energy_j_per_token"] > alone()["energy_j_per_token"]  # two pools idle for a longer while than one


def test_each_pool_holds_its_own_and_the_fuller_one_refuses():
    found = pooled(ffn="groq-3-lpu:16", weight_dtype="fp8", batch=[1, 4000], kv_len=8192)
    assert found["attention_pool_fits"].tolist() == [True, False]
    assert found["ffn_pool_fits"].tolist() == [False, False]  # 45 GB of feed-forward layers in 8 GB
    assert not found["fits"].any()
    assert np.isnan(found["step_time_s"]).all()
    roomy = pooled(ffn="groq-3-lpu:160", weight_dtype="fp8", kv_len=8192)
    # 640 GB less a tenth in reserve, 0.64 GB... of attention's pool alone: as many as its room holds.
    assert roomy["max_batch"] > alone(weight_dtype="fp8", kv_len=8192)["max_batch"]


def test_ranges_of_assumed_parameters_hold_the_estimate():
    found = pooled(ffn="groq-3-lpu:160", between="400GB/s,2us", weight_dtype="fp8", attention=["mha", "gqa-8"], batch=8)
    for name in ("step_time_s", "tokens_per_s", "speedup_vs_mha"):
        assert (found[f"{name}_low"] <= found[name] * (1 + 1e-12)).all()
        assert (found[f"{name}_high"] >= found[name] * (1 - 1e-12)).all()
    assert found["step_time_s_high"].max() > 1.5 * found["step_time_s"].max()  # the LPU's layer latency is not known


@pytest.mark.parametrize(("words", "wrong"), [
    ({"between": None}, "what joins the two pools is not stated"),
    ({"between": "400GB/s"}, "expected bandwidth and latency"),
    ({"between": "0GB/s,1us"}, "above 0"),
    ({"with_attention": "projection"}, "did you mean 'projections'"),
    ({"with_attention": "projections,ffn,ends"}, "nothing is left"),
    ({"micro_batches": 0}, "from 1 to"),
    ({"fields": ("gain_cache_s",)}, "of one machine"),
])
def test_words_that_do_not_name_pools_are_refused(words, wrong):
    with pytest.raises(UserError) as refused:
        pooled(**words)
    assert wrong in f"{refused.value}"


def test_words_of_pools_are_read_as_written():
    assert split_count("a/b.yaml:3") == ("a/b.yaml", 3)
    assert split_count("h100-sxm") == ("h100-sxm", None)
    assert (parse_between("400GB/s,2us").bandwidth_bytes_per_s, parse_between("free").latency_s) == (400e9, 0.0)
    assert parse_kept("ends, projections") == ("attention", "projections", "ends")
    with pytest.raises(UserError, match="between goes with ffn"):
        alone(between="400GB/s,2us")


def test_the_second_chip_of_a_pool_drops_nothing_that_is_known_of_the_first(monkeypatch):
    """A table of what is unknown was cleared between two chips when it was full, and then asked for the first."""
    first, second = load_hardware("h100-sxm"), load_hardware("groq-3-lpu")
    monkeypatch.setattr(record, "MOST_REMEMBERED", 1)
    both = record.unknown_costs(first, second)
    assert both == record.unknown_costs(first, second)
    assert record.unknown_costs(second) in both
