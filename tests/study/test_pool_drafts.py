"""Drafts on two pools of chips, and a memory with compute beside it as a pool."""

import itertools

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.study.split import split_records
from tests.study.test_pools import CONSERVED, alone, pooled

DRAFTED = "draft=llama-2-7b,gamma=3,acceptance=0.8"


@pytest.mark.parametrize("kept", ["projections,ends", "projections,ends,draft", "projections,ffn,ends", "none", "draft"])
@pytest.mark.parametrize("how", [DRAFTED, "medusa=3,acceptance=0.6"])
def test_one_micro_batch_over_a_free_link_is_one_machine_wherever_drafts_are(kept, how):
    if kept == "projections,ffn,ends" and how != DRAFTED:
        return  # nothing is left for the other pool
    asked = {"attention_sharding": "heads", "speculation": how}
    found, one = pooled(with_attention=kept, micro_batches=1, **asked), alone(tp=8, **asked)
    for name in ("step_time_s", "tokens_per_s"):
        assert found[name] == pytest.approx(one[name], rel=1e-9), name
    for name in CONSERVED:
        assert found[name] == pytest.approx(one[name], rel=1e-12), name


def test_who_drafts_holds_the_draft_and_is_paid_for_it():
    plain = {where: pooled(with_attention=where) for where in ("projections,ends", "projections,ends,draft")}
    same = {"speculation": DRAFTED, "batch": 32, "kv_len": 4096}
    here, there = (pooled("h100-sxm", ffn="a100-sxm-80gb:8", with_attention=where, micro_batches=2, **same)
                   for where in ("projections,ends,draft", "projections,ends"))
    faster, slower = (alone(name, "llama-2-7b", attention="as-trained", tp=8)["step_time_s"]
                      for name in ("h100-sxm", "a100-sxm-80gb"))
    assert there["step_time_s"] - here["step_time_s"] == pytest.approx(3 * (slower - faster), rel=1e-9)
    first, second = plain.values()
    assert first["step_time_s"] == second["step_time_s"]  # without speculation nobody drafts


def test_the_solver_tries_drafts_on_either_pool():
    """Every assignment of five parts by hand: 32, each in its best micro-batches."""
    from simkit.step.workload import PARTS
    from simkit.study.point import decode_step

    h100, lpu, model = load_hardware("h100-sxm"), load_hardware("groq-3-lpu"), load_model("llama-2-70b")
    same = {"attention": "gqa-8", "batch": 2, "kv_len": 65536, "weight_dtype": "fp8", "speculation": DRAFTED}
    (found,) = split_records(h100, lpu, (8, 256), model, ["gqa-8"], batch=[2], kv_len=[65536], between="400GB/s,2us",
                             weight_dtype="fp8", speculation=DRAFTED)
    steps = {}
    for on in itertools.product((0, 1), repeat=5):
        first, second = ((h100, 8), (lpu, 256)) if on[0] == 0 else ((lpu, 256), (h100, 8))
        kept = [part for part, pool in zip((*PARTS, "draft"), on, strict=True) if pool == on[0]]
        more = {} if len(kept) == 5 else {"ffn": second, "between": "400GB/s,2us",
                                          "with_attention": ",".join(kept[1:]) or "none"}
        steps[on] = float(decode_step(first[0], model, chips=first[1], baseline=False, fields=("step_time_s",), **same,
                                      **more)["step_time_s"])
    known = {on: step_s for on, step_s in steps.items() if not np.isnan(step_s)}
    assert found["step_time_s"] == pytest.approx(min(known.values()), rel=1e-9)
    on = tuple(int(found[f"{part}_on"] == "groq-3-lpu") for part in (*PARTS, "draft"))
    assert known[on] == pytest.approx(found["step_time_s"], rel=1e-9)
    assert found["tokens_per_s"] == pytest.approx(2 * (1 - 0.8**4) / (1 - 0.8) / found["step_time_s"])


def test_units_beside_a_pool_s_memory_take_what_heads_do_not_share():
    """Four times the bandwidth, one multiply-add an element: MHA gains as a pool, eight shared heads nothing."""
    model, gains = load_model("llama-2-70b"), {}
    pim = load_hardware("h100-sxm", overrides={"memory.hbm.compute.bandwidth": "13.4 TB/s",
                                               "memory.hbm.compute.flop_per_byte.bf16": "1"})
    for layout in ("mha", "gqa-8"):
        plain, beside = (split_records(chip, load_hardware("groq-3-lpu"), (8, 256), model, [layout], batch=[64],
                                       kv_len=[1024 if layout == "mha" else 16384], between="400GB/s,2us",
                                       weight_dtype="fp8", micro_batches=4)[0] for chip in (load_hardware("h100-sxm"), pim))
        assert plain["attention_on"] == beside["attention_on"] == "h100-sxm"
        gains[layout] = plain["step_time_s"] / beside["step_time_s"]
    assert gains["mha"] > 2
    assert gains["gqa-8"] == pytest.approx(1.0, rel=1e-6)
