"""One step on many chips: nothing is lost, nothing is read twice but what must be, and stages add up."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simkit.hardware.catalog import load_hardware
from simkit.model.architecture import count_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import list_models, load_model
from simkit.model.kv_cache import FORMATS
from simkit.step.build import build_step, step_totals
from simkit.step.machine import Machine
from simkit.step.placement import cached_bytes_per_sequence, demand
from simkit.step.sharding import shard_heads
from simkit.step.workload import DecodeWorkload
from simkit.study.evaluate import evaluate_group
from simkit.study.point import decode_step
from tests.laws import strategies as draw
from tests.reference_data import reference_path
from tests.step.test_operators import workload_of

SHARDINGS = ["heads", "batch", "context"]


@given(draw.any_model, st.sampled_from([1, 2, 4, 8, 16, 3, 6]), st.sampled_from(SHARDINGS), st.integers(1, 40),
       st.integers(1, 9), st.integers(1, 5000))
def test_chips_together_do_at_least_the_whole_work_and_exactly_it_when_everything_divides(
        model, tp, sharding, batch, pp, kv_len):
    if model.n_q_heads % tp:
        return
    one = workload_of(model.name, batch=float(batch), kv_len=float(kv_len))
    many = replace(one, machine=Machine.split(tp=float(tp), pp=float(min(pp, model.n_layers)), mapping=sharding))

    def flops(workload) -> float:
        return float(sum(op.count * op.matrix_flops for op in build_step(workload).operators))

    whole, busiest = flops(one), flops(many) * tp * float(many.microbatches)
    assert busiest >= whole * (1 - 1e-12)
    heads = many.heads
    divides = (batch % float(many.microbatches) == 0 and float(many.sequences) % heads.batch_ways == 0
               and all(min(kv_len, group.window or kv_len) % heads.context_ways == 0 for group in model.layer_groups)
               and heads.copies == 1 and tp == 1 + (model.mla is None and model.moe is None) * (tp - 1))
    if divides:
        assert busiest == pytest.approx(whole, rel=1e-12)


@given(draw.any_model, st.sampled_from([1, 2, 4, 8]), st.sampled_from(SHARDINGS), st.integers(1, 40), st.integers(1, 9))
def test_totals_count_each_sequence_once_however_it_is_dealt(model, tp, sharding, batch, pp):
    if model.n_q_heads % tp or any(group.shape is not None for group in model.layer_groups):
        return  # layers of unlike attention: tests/reference/test_choices_against_execution.py
    kv_len = 4096.0  # divides, so that a context's shares are whole
    one = workload_of(model.name, batch=float(batch), kv_len=kv_len)
    many = replace(one, machine=Machine.split(tp=float(tp), pp=float(min(pp, model.n_layers)), mapping=sharding))
    alone, together = step_totals(build_step(one)), step_totals(build_step(many))
    copies = many.heads.copies
    assert together.kv_read_bytes == pytest.approx(alone.kv_read_bytes * copies, rel=1e-12)
    assert together.kv_write_bytes == pytest.approx(alone.kv_write_bytes * copies, rel=1e-12)
    assert alone.kv_read_bytes == pytest.approx(batch * cached_bytes_per_sequence(one), rel=1e-12)


@pytest.mark.parametrize("sharding", ["batch", "context"])
def test_sharding_the_batch_or_the_context_stores_and_reads_one_copy(sharding):
    for layout, copies in (("mqa", 8), ("gqa-8", 1), ("gqa-4", 2)):
        heads, dealt = (workload_of("llama-2-70b", layout, batch=64.0, tp=8.0, sharding=s) for s in ("heads", sharding))
        assert heads.heads.copies == copies
        assert dealt.heads.copies == 1
        assert demand(heads).kv_bytes == demand(dealt).kv_bytes * copies
        assert step_totals(build_step(dealt)).kv_read_bytes == 64 * cached_bytes_per_sequence(dealt)


def test_mla_under_tensor_parallelism_is_replicated_like_mqa():
    # One latent serves all heads: 8 chips hold 8 of them (60 layers x 576 x 2 bytes a token).
    whole, dealt = (workload_of("deepseek-v2", tp=8.0, sharding=s) for s in ("heads", "batch"))
    assert demand(whole).kv_bytes == 60 * 576 * 2 * 4096
    assert whole.heads.copies == 8
    assert demand(replace(dealt, batch=8.0)).kv_bytes * 8 == demand(replace(whole, batch=8.0)).kv_bytes


def test_copies_are_the_kv_heads_that_all_chips_hold_together():
    for n_q in range(1, 25):
        for n_kv in draw.divisors(n_q):
            for ways in draw.divisors(n_q):
                own, group = n_q // ways, n_q // n_kv
                held = sum(len({q // group for q in range(c * own, (c + 1) * own)}) for c in range(ways))
                assert shard_heads(n_q, n_kv, ways, static=False).copies == pytest.approx(held / n_kv)


@pytest.mark.parametrize("model", [m.name for m in list_models()])
def test_one_chip_holds_every_parameter_of_the_model(model):
    counted = count_parameters(load_model(model), parse_layout("as-trained", load_model(model)))
    assert demand(workload_of(model)).weight_bytes == pytest.approx(2 * counted.total, rel=1e-12)


@pytest.mark.parametrize("layout", ["mla", "mla-expanded"])
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_chips_hold_the_weights_that_their_operators_read(layout, sharding):
    workload = workload_of("deepseek-v2", layout, batch=1e8, tp=8.0, sharding=sharding)  # every expert is chosen
    read = sum(op.count * op.weight_bytes for op in build_step(workload).operators if op.name != "embedding")
    embedding = 2 * workload.model.vocab_size * workload.model.hidden_size / 8
    assert demand(workload).weight_bytes == pytest.approx(read + embedding, rel=1e-12)


def test_unabsorbed_latents_are_expanded_once_for_each_head_wherever_their_sequences_are():
    one, batch, context = (workload_of("deepseek-v2", "mla-expanded", batch=8.0, tp=tp, sharding=s)
                           for tp, s in ((1.0, "heads"), (8.0, "batch"), (8.0, "context")))
    expanding = [next(op for op in build_step(w).operators if op.name == "expand_latent") for w in (one, batch, context)]
    # 2 x 8 sequences x 4096 tokens x 512 x 128 heads x (128 + 128) flops a layer, an eighth on each chip.
    assert expanding[0].matrix_flops == 2 * 8 * 4096 * 512 * 128 * 256
    assert [op.matrix_flops * 8 for op in expanding[1:]] == [expanding[0].matrix_flops] * 2


@pytest.mark.parametrize(("attention", "heads", "head_dim", "sharding", "row"),
                         [("mha", 64, 128, "heads", 0), ("mqa", 64, 256, "heads", 1), ("mqa", 64, 256, "batch", 2)])
@pytest.mark.parametrize("batch", [128, 512])
def test_palm_540b_reaches_the_contexts_of_pope_et_al_table_1(attention, heads, head_dim, sharding, row, batch):
    """arXiv 2211.05102, table 1: 64 TPU v4 give 30 % of 32 GiB to the cache; heads padded from 48 to 64."""
    table = yaml.safe_load(reference_path("published_results.yaml").read_text(encoding="utf-8"))["pope_2022"]
    column = list(table["table1_max_context_30pct_mem"].values())[row]
    model = replace(load_model("palm-540b"), n_q_heads=heads, head_dim=head_dim)
    workload = replace(workload_of("palm-540b", attention, batch=float(batch), kv_len=1.0, tp=64.0, sharding=sharding),
                       model=model, layout=parse_layout(attention, model))
    longest = np.floor(0.3 * 32 * 2**30 / demand(workload).kv_bytes)
    assert longest == pytest.approx(column[batch], rel=0.02)  # the paper prints two or three digits
    assert longest == pytest.approx(table["table1_rederived"][batch][row], abs=1)


def test_a_pipeline_s_latency_is_the_sum_of_its_stages_and_its_throughput_the_slowest_s():
    chip = load_hardware("h100-sxm")
    base = {"attention": "gqa-8", "kv_len": 2048, "tp": 8, "baseline": False}
    # 80 layers on 8 stages of 10: eight microbatches of 4 wait no longer than one alone, and give 8 times the tokens.
    alone = decode_step(chip, "llama-2-70b", batch=4, pp=1, **base)
    piped = decode_step(chip, "llama-2-70b", batch=32, pp=8, **base)
    hops = 8 * (chip.scale_out.latency_s + 4 * 8192 * 2 / 8 / chip.scale_out.bandwidth_bytes_per_s)
    assert float(piped["step_time_s"]) == pytest.approx(float(alone["step_time_s"]) + hops, rel=1e-9)
    assert float(piped["tokens_per_s"]) == pytest.approx(32 / float(piped["step_time_s"]))
    # 80 layers on 3 stages: the slowest has 27, and the others wait for it.
    uneven = decode_step(chip, "llama-2-70b", batch=12, pp=3, **base)
    hops = 3 * (chip.scale_out.latency_s + 4 * 8192 * 2 / 8 / chip.scale_out.bandwidth_bytes_per_s)
    host = chip.overheads.step_s
    assert float(uneven["step_time_s"]) - host == pytest.approx(
        (float(alone["step_time_s"]) - host + hops) * 27 * 3 / 80, rel=1e-9)


@pytest.mark.parametrize("name", ["groq-lpu", "cerebras-wse3"])
def test_a_layer_pipelined_machine_tells_latency_from_throughput(name):
    chip = draw.unbounded(load_hardware(name))
    chips = 4 if name == "cerebras-wse3" else 80
    stages = min(chips, 80)

    def timed(batch: float):
        return evaluate_group(chip, load_model("llama-2-70b"), "gqa-8", rivals=["gqa-8"], batch=np.array([batch]),
                              kv_len=np.array([1024.0]), q_len=np.ones(1), chips=chips, baseline=False)

    one, full = timed(1.0), timed(float(stages))
    # Every stage holds one sequence: nobody waits longer, and the machine gives a token for each stage time.
    assert full.columns["step_time_s"] == pytest.approx(one.columns["step_time_s"])
    assert full.columns["tokens_per_s"] == pytest.approx(stages * one.columns["tokens_per_s"])
    parts = sum(np.max(time) for time in one.timing.operator_time_s.values())
    assert one.columns["step_time_s"] == pytest.approx(parts)


def test_a_batch_of_one_reads_one_cache_though_eight_chips_could_deal_it_out():
    # Energy and bytes are those of the machine, not eight times those of the one busy chip.
    point = {"attention": "mqa", "chips": 8, "tp": 8, "kv_len": 4096, "attention_sharding": "batch"}
    one, eight = (decode_step("h100-sxm", "llama-2-70b", batch=b, **point) for b in (1, 8))
    assert one["kv_read_bytes"] == 167772160
    assert eight["kv_read_bytes"] == 8 * 167772160
    powered = {"power.idle": "100 W", "power.flop_energy": "1 pJ/FLOP", "memory.hbm.energy": "50 pJ/B"}
    lit = decode_step("h100-sxm", "llama-2-70b", batch=1, overrides=powered, **point)
    moved_j = 50e-12 * (float(lit["kv_read_bytes"]) + float(lit["weight_read_bytes"])) + 1e-12 * float(lit["flops"])
    # The new token's 40 960 bytes written are the rest.
    assert float(lit["energy_j_per_token"]) == pytest.approx(moved_j + 100 * 8 * float(lit["step_time_s"]), rel=1e-6)


def test_of_three_kv_heads_on_four_chips_six_copies_are_read_though_each_chip_has_room_for_two():
    """12 query heads in groups of 4, dealt out by 3: chips need heads {0}, {0, 1}, {1, 2}, {2}."""
    model = replace(load_model("llama-2-7b"), n_q_heads=12, n_kv_heads=3)
    layout = parse_layout("gqa-3", model)
    step = build_step(DecodeWorkload(model=model, layout=layout, n_kv_heads=3, batch=2.0, kv_len=100.0, q_len=1.0,
                                     kv_format=FORMATS["bf16"], weight_format=FORMATS["bf16"],
                                     machine=Machine.split(tp=4.0)))
    assert step.attention_operators[0].kv_read_bytes == 2 * 2 * 100 * 512
    assert step_totals(step).kv_read_bytes == pytest.approx(32 * 2 * 6 * 100 * 512, rel=1e-12)


def test_stages_read_their_weights_once_a_microbatch_and_heads_that_are_copied_are_written_as_often():
    whole = step_totals(build_step(workload_of("llama-2-7b", batch=4.0, kv_len=100.0)))
    staged = step_totals(build_step(workload_of("llama-2-7b", batch=4.0, kv_len=100.0, pp=2)))
    rows = 4 * 4096 * 2  # of the embedding, each microbatch reads those of its own tokens
    assert staged.weight_bytes == pytest.approx(2 * (whole.weight_bytes - rows) + rows, rel=1e-12)
    assert staged.kv_write_bytes == whole.kv_write_bytes == 32 * 4 * 2 * 4096 * 2
    copied = step_totals(build_step(workload_of("llama-2-7b", "mqa", batch=4.0, kv_len=100.0, tp=8)))
    assert copied.kv_write_bytes == 8 * 32 * 4 * 2 * 128 * 2


@pytest.mark.parametrize(("heads", "ways", "devices", "queries", "keys"), [
    # AWS Neuron, transformers-neuronx: heads are padded to a multiple of the cores, KV heads copied to each.
    ((32, 32), 12, 2, 4, 4), ((32, 8), 12, 2, 4, 2), ((64, 8), 12, 2, 6, 2), ((40, 40), 12, 2, 4, 4),
    ((28, 4), 8, 1, 4, 1), ((32, 8), 1, 2, 32, 8), ((64, 8), 4, 2, 16, 2)])
def test_devices_take_whole_heads_and_pad_the_rest(heads, ways, devices, queries, keys) -> None:
    found = shard_heads(*heads, ways, static=False, devices=devices)
    assert (found.q_per_chip, found.kv_per_chip) == (queries, keys)
    assert ways * found.q_per_chip >= heads[0]
