"""What a kind keeps and projects, over all chips together: the machine's totals are what the dense reference adds up."""

import numpy as np
import pytest

from simkit.model.architecture import LayerGroup, ModelArchitecture, attention_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kinds.widths import Mla
from simkit.model.kv_cache import FORMATS
from simkit.step.build import build_step, chip_elements, products, step_totals
from simkit.step.placement import cached_bytes_per_sequence
from simkit.step.prefill import prefill_attention
from simkit.step.workload import DecodeWorkload
from tests.reference.dense_attention import execute
from tests.reference.test_operators_against_execution import LATENT, layers_of
from tests.step.machine_words import machine_words

LAYOUTS = ["gqa-4", "gqa-12", "gta-4", "gta-12", "gta-1", "gla-4", "gla-3", "gqla-4", "gqla-1", "mla"]
SHARDINGS = ["heads", "batch", "context"]


def small(layout: str, mla: Mla | None = LATENT) -> ModelArchitecture:
    return ModelArchitecture(
        name="small", title="small", hidden_size=24, n_q_heads=12, n_kv_heads=12, head_dim=4, mlp=None, moe=None,
        layer_groups=(LayerGroup(count=2, window=None, moe=False), LayerGroup(count=1, window=6, moe=False)),
        mla=mla if layout.startswith("mla") else None, vocab_size=4, tied_embeddings=False)


def workload(layout: str, *, model=None, batch=12.0, kv_len=12.0, **changes) -> DecodeWorkload:
    model = model or small(layout)
    parsed = parse_layout(layout, model)
    return DecodeWorkload(model=model, layout=parsed, n_kv_heads=parsed.n_kv_heads, batch=batch, kv_len=kv_len, q_len=1.0,
                          kv_format=FORMATS["bf16"], value_format=FORMATS["bf16"], weight_format=FORMATS["bf16"], **machine_words(changes))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("tp", [1, 2, 3, 4, 6, 12])
def test_all_chips_read_and_keep_what_the_reference_adds_up(layout, sharding, tp):
    # 12 tokens and a window of 6 deal out over 1, 2, 3, 6 parts evenly; at 4 and 12 the busiest chip is not the mean.
    given = workload(layout, sharding=sharding, tp=float(tp))
    if sharding == "context" and 6 % given.heads.context_ways:
        return
    outcomes = [execute(case) for case in layers_of(given)]
    read = sum(chip["cache.read"] for outcome in outcomes for chip in outcome.chips) / 8
    kept = sum(sum(outcome.resident_bits) for outcome in outcomes) / 8
    assert float(step_totals(build_step(given)).kv_read_bytes) == pytest.approx(read, rel=1e-12)
    assert float(given.copies * cached_bytes_per_sequence(given) * given.batch) == pytest.approx(kept, rel=1e-12)


@pytest.mark.parametrize("layout", [*LAYOUTS, "mla-expanded"])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("tp", [1, 3, 4, 12])
def test_a_step_multiplies_by_every_weight_that_the_chip_holds_once(layout, sharding, tp):
    given = workload(layout, sharding=sharding, tp=float(tp))
    group = given.layer_groups[0]
    operators = [op for after in (False, True) for op in products(given, group, after_core=after)]
    operators += [op for op in build_step(given).layer_operators if op.name == "expand_latent" and op.count == group.count]
    assert sum(op.weight_bytes for op in operators) == pytest.approx(2 * chip_elements(given), rel=1e-12)


@pytest.mark.parametrize("layout", [*LAYOUTS, "mla-expanded"])
def test_one_chip_holds_the_parameters_and_many_hold_no_fewer(layout):
    whole = attention_parameters(small(layout), parse_layout(layout, small(layout)))
    assert chip_elements(workload(layout)) == pytest.approx(whole, rel=1e-12)
    for sharding in SHARDINGS:
        for tp in (2, 3, 4, 6, 12):
            assert tp * chip_elements(workload(layout, sharding=sharding, tp=float(tp))) >= whole * (1 - 1e-12)


def test_grouped_latents_divide_over_chips_where_one_latent_is_copied():
    """arXiv 2505.21487: of GLA-2 each of two chips keeps 2 d_h + d_h/2 = 320 elements a token, of MLA all 576."""
    model = load_model("deepseek-v2")
    kept = {name: float(workload(name, model=model, tp=2.0).stored_bytes(1)) / 2 for name in ("gla-2", "mla")}
    assert kept == {"gla-2": 320, "mla": 576}
    assert float(workload("mla", model=model, tp=2.0).copies) == 2
    assert float(workload("gla-2", model=model, tp=2.0).copies) == pytest.approx((2 * 256 + 2 * 64) / 576)


def test_a_machine_that_cuts_every_dimension_copies_nothing():
    for layout in LAYOUTS:
        given = workload(layout, tp=5.0, static=True)
        assert float(given.copies) == pytest.approx(1.0)
        assert 5 * float(given.stored_bytes(7)) == pytest.approx(float(workload(layout).stored_bytes(7)))


def test_a_prompt_of_grouped_latents_by_hand():
    """100 new tokens after 300, GLA-2 of Llama-3.1-8B's shape: 32 heads with keys of 128 + 64 and values of 128."""
    given = workload("gla-2", model=load_model("llama-3.1-8b"))
    core, expand = prefill_attention(given, 100, 400)
    pairs = 100 * 300 + 100 * 101 / 2
    assert float(core.matrix_flops) == 2 * pairs * 32 * (128 + 64 + 128)
    assert float(core.kv_read_bytes) == 400 * (2 * 256 + 64) * 2
    assert float(expand.matrix_flops) == 2 * 300 * 256 * 32 * (128 + 128)


@pytest.mark.parametrize("layout", ["gta-8", "gla-2"])
def test_numbers_of_heads_and_chips_broadcast(layout):
    model = load_model("llama-2-70b")
    ways = np.array([[1.0], [2.0], [8.0]])
    many = workload(layout, model=model, tp=ways, kv_len=np.array([100.0, 5000.0]))
    core = build_step(many).attention_operators[0]
    for i, tp in enumerate(ways.ravel()):
        for j, kv_len in enumerate((100.0, 5000.0)):
            one = build_step(workload(layout, model=model, tp=tp, kv_len=kv_len)).attention_operators[0]
            for name in ("kv_read_bytes", "kv_reread_bytes", "matrix_flops", "unpack_flops", "activation_bytes"):
                assert np.broadcast_to(getattr(core, name), (3, 2))[i, j] == getattr(one, name), name


@pytest.mark.parametrize("layout", ["gta-8", "gla-8"])
def test_what_heads_share_is_read_again_for_each_head_but_one(layout):
    model = load_model("llama-2-70b")
    grouped, apart = (build_step(workload(layout, model=model, kernel=kernel)).attention_operators[0]
                      for kernel in ("grouped", "per-query-head"))
    rotary = 12 * 12 * 64 * 2  # 12 sequences of 12 tokens
    assert grouped.kv_reread_bytes == grouped.attention.shared_reread_bytes == 7 * rotary
    assert apart.attention.shared_reread_bytes == 8 * 7 * rotary
    assert apart.kv_reread_bytes == 7 * apart.kv_read_bytes + apart.attention.shared_reread_bytes
    ordinary = build_step(workload("gqa-8", model=model)).attention_operators[0]
    assert ordinary.kv_reread_bytes == ordinary.attention.shared_reread_bytes == 0
