"""Indexes, compressed caches and states: operators count what the dense reference touches while it executes them, per chip."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.model.architecture import LayerGroup, ModelArchitecture, count_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kinds.widths import Compression, Indexer, LayerShape, Mla, State
from simkit.model.kv_cache import FORMATS
from simkit.step.build import build_step, chip_elements, products, step_totals
from simkit.step.machine import Machine
from simkit.step.placement import cached_bytes_per_sequence, demand
from simkit.step.workload import DecodeWorkload
from simkit.study.point import decode_step
from tests.laws.strategies import divisors
from tests.reference.dense_choices import Chosen, execute_chosen, execute_state

LATENT = Mla(kv_lora_rank=6, rope_head_dim=2, nope_head_dim=4, v_head_dim=3, q_lora_rank=5)
INDEX = Indexer(heads=4, dim=8, top_k=4)
STATE = State(kind="gated-delta", key_heads=4, key_dim=6, value_heads=12, value_dim=5, conv_width=4)


def model_of(shape, window=None):
    return ModelArchitecture(name="small", title="small", hidden_size=8, n_q_heads=shape.n_q_heads, n_kv_heads=shape.n_kv_heads,
                             head_dim=shape.head_dim, mla=None, mlp=None, moe=None, vocab_size=4, tied_embeddings=False,
                             layer_groups=(LayerGroup(count=2, window=window, moe=False, shape=shape),))


def workload_of(shape, *, layout="as-trained", lengths=(12,), chips=1, sharding="heads", q_len=1, kv_format="bf16"):
    model = model_of(shape)
    parsed = parse_layout(layout, model)
    return DecodeWorkload(model=model, layout=parsed, n_kv_heads=parsed.n_kv_heads, batch=float(len(lengths)),
                          kv_len=float(lengths[0]), q_len=float(q_len), kv_format=FORMATS[kv_format], weight_format=FORMATS["bf16"],
                          machine=Machine.split(tp=float(chips), mapping=sharding))


@st.composite
def cases(draw):
    n_q = draw(st.sampled_from([2, 4, 8, 12]))
    n_kv = draw(st.sampled_from(divisors(n_q)))
    what = draw(st.sampled_from(["dsa", "tokens", "blocks", "compressed", "csa", "nsa", "widths"]))
    mla = LATENT if what == "dsa" else None
    tied = what in ("compressed", "csa") and draw(st.booleans())
    index = None
    if what in ("dsa", "tokens", "csa"):
        index = replace(INDEX, top_k=draw(st.sampled_from([2, 4, 6])))
    elif what in ("blocks", "nsa"):
        index = Indexer(heads=n_kv, dim=8, top_k=2, block=3, by_kv_head=True, weighted=False, key_bytes=2.0)
    pooled = Compression(ratio=draw(st.sampled_from([2, 4])), window=4, overlap=True) if what in ("compressed", "csa") else None
    if what == "nsa":
        pooled = Compression(ratio=2, window=4, among_tokens=True)
    shape = LayerShape(name="small", hidden_size=8, n_q_heads=n_q, n_kv_heads=n_q if mla else n_kv, head_dim=8,
                       value_dim=None if tied or mla else draw(st.sampled_from([None, 5])), mla=mla, tied_values=tied,
                       indexer=index, compression=pooled)
    tokens = 12 * draw(st.sampled_from([1, 2, 4]))
    sharding = draw(st.sampled_from(["heads", "batch", "context"]))
    chips = draw(st.sampled_from([c for c in divisors(n_q) if sharding != "context" or c in (1, 2)]))
    return workload_of(shape, lengths=(tokens,) * draw(st.integers(1, 3)), chips=chips, sharding=sharding)


def reference(workload):
    shape, layout = workload.model.shape, workload.layout
    index, pooled = layout.indexer, layout.compression
    latent = shape.mla is not None
    return Chosen(
        n_q=shape.n_q_heads, n_kv=shape.n_kv_heads, latent=latent, tied=shape.tied_values,
        key_dim=LATENT.latent_dim if latent else shape.head_dim,
        value_dim=LATENT.kv_lora_rank if latent else shape.value_dim or shape.head_dim,
        lengths=(int(workload.kv_len),) * int(workload.batch), q_len=int(workload.q_len),
        index_heads=index.heads if index else 0, index_dim=index.dim if index else 0, top_k=index.top_k if index else 0,
        block=index.block if index else 1, by_kv_head=bool(index and index.by_kv_head),
        index_bits=8 * index.key_bytes if index else 8.25, ratio=pooled.ratio if pooled else 1,
        window=pooled.window if pooled else 0, among_tokens=bool(pooled and pooled.among_tokens), sharding=workload.machine.mapping, chips=int(workload.machine.tp))


def modelled(operators, name, field):
    return float(sum(np.asarray(getattr(op, field)) for op in operators if op.name == name))


@settings(max_examples=2 * settings.default.max_examples)
@given(cases())
def test_operators_count_what_execution_touches(workload):
    touched = execute_chosen(reference(workload))
    operators = build_step(workload).layer_operators
    fullest = max(touched.chips, key=lambda chip: chip["cache.read"])
    assert modelled(operators, "attention", "kv_read_bytes") == pytest.approx(fullest["cache.read"] / 8, rel=1e-12)
    assert modelled(operators, "attention", "matrix_flops") == pytest.approx(fullest["attention.flops"], rel=1e-12)
    assert modelled(operators, "index_scores", "kv_read_bytes") == pytest.approx(fullest["index.read"] / 8, rel=1e-12)
    assert modelled(operators, "index_scores", "matrix_flops") == pytest.approx(fullest["index.flops"], rel=1e-12)
    layers = workload.model.n_layers
    assert float(demand(workload).kv_bytes) == pytest.approx(layers * max(touched.resident_bits) / 8, rel=1e-12)
    if workload.machine.mapping == "context" and workload.layout.entries(workload.kv_len) % 2:
        return  # the busiest chip is not the mean one
    read = sum(chip["cache.read"] + chip["index.read"] for chip in touched.chips) / 8
    assert float(step_totals(build_step(workload)).kv_read_bytes) == pytest.approx(layers * read, rel=1e-12)


@pytest.mark.parametrize("name", ["dsa", "csa", "msa", "nsa"])
@pytest.mark.parametrize("q_len", [1, 2, 3])
def test_queries_of_one_step_gather_what_each_has_chosen(q_len, name):
    """All reads together are exact; which of them are of the same entry depends on the data: at most as few as counted."""
    shape = replace(SHAPES[name], gate_dim=0, query_rank=None, output_groups=0, output_rank=0)
    if shape.indexer.key_bytes is None:
        shape = replace(shape, indexer=replace(shape.indexer, key_bytes=2.0))
    workload = workload_of(shape, lengths=(24,), q_len=q_len)
    touched = execute_chosen(reference(workload)).chips[0]
    operators = build_step(workload).layer_operators
    once = modelled(operators, "attention", "kv_read_bytes")
    assert once + modelled(operators, "attention", "kv_reread_bytes") == (touched["cache.read"] + touched["cache.reread"]) / 8
    assert touched["cache.read"] / 8 <= once <= cached_bytes_per_sequence(workload)
    assert modelled(operators, "attention", "matrix_flops") == touched["attention.flops"]
    assert modelled(operators, "index_scores", "matrix_flops") == touched["index.flops"]


@pytest.mark.parametrize("kind", ["gated-delta", "kda", "lightning", "mamba-2"])
@pytest.mark.parametrize("q_len", [1, 3])
@pytest.mark.parametrize("chips", [1, 2, 4, 12])
def test_a_state_is_read_once_and_written_after_every_token(kind, q_len, chips):
    state = replace(STATE, kind=kind)
    shape = LayerShape(name="small", hidden_size=8, n_q_heads=12, n_kv_heads=4, head_dim=8, state=state)
    workload = workload_of(shape, lengths=(24, 24), q_len=q_len, chips=chips)
    own = workload.of(workload.model.layer_groups[0])
    operators = build_step(workload).layer_operators
    touched = execute_state(12 // chips, 6, 5, q_len, takes_back=kind in ("gated-delta", "kda"))
    assert modelled(operators, "state_update", "kv_read_bytes") == 2 * touched["state.read"] / 8
    assert modelled(operators, "state_update", "kv_write_bytes") == 2 * touched["state.write"] / 8
    assert modelled(operators, "state_update", "vector_flops") == 2 * touched["state.flops"]
    channels = 2 * 4 * 6 + 12 * 5
    assert modelled(operators, "convolution", "kv_read_bytes") == pytest.approx(2 * 3 * channels * 2 / chips)
    assert own.layout.elements_per_token == 0
    longer = workload_of(shape, lengths=(24_000, 24_000), q_len=q_len, chips=chips)
    assert float(demand(longer).kv_bytes) == float(demand(workload).kv_bytes) > 0


SHAPES = {
    "dsa": LayerShape(name="s", hidden_size=8, n_q_heads=12, n_kv_heads=12, head_dim=4, mla=LATENT, indexer=INDEX, gate_dim=3),
    "csa": LayerShape(name="s", hidden_size=8, n_q_heads=12, n_kv_heads=1, head_dim=8, tied_values=True, query_rank=5,
                      output_groups=4, output_rank=3, indexer=INDEX, compression=Compression(ratio=4, window=6, overlap=True)),
    "msa": LayerShape(name="s", hidden_size=8, n_q_heads=12, n_kv_heads=4, head_dim=4,
                      indexer=Indexer(heads=4, dim=8, top_k=2, block=4, by_kv_head=True, weighted=False, key_bytes=None)),
    "nsa": LayerShape(name="s", hidden_size=8, n_q_heads=12, n_kv_heads=4, head_dim=4, value_dim=3, gate_dim=3,
                      indexer=Indexer(heads=4, dim=4, top_k=2, block=4, by_kv_head=True, weighted=False, key_bytes=None),
                      compression=Compression(ratio=2, window=6, among_tokens=True)),
    "state": LayerShape(name="s", hidden_size=8, n_q_heads=12, n_kv_heads=4, head_dim=4, state=replace(STATE, decay_rank=3, kind="kda")),
    "borrowed": LayerShape(name="s", hidden_size=8, n_q_heads=12, n_kv_heads=4, head_dim=4, kept=False),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("sharding", ["heads", "batch", "context"])
@pytest.mark.parametrize("chips", [1, 3, 4, 12])
def test_a_step_multiplies_by_every_weight_that_the_chip_holds_once(name, sharding, chips):
    workload = workload_of(SHAPES[name], chips=chips, sharding=sharding)
    group = workload.layer_groups[0]
    own = workload.of(group)
    operators = [op for after in (False, True) for op in products(own, group, after_core=after)]
    assert sum(op.weight_bytes for op in operators) == pytest.approx(2 * chip_elements(own), rel=1e-12)


def test_a_borrowed_cache_is_read_and_neither_stored_nor_projected():
    workload = workload_of(SHAPES["borrowed"], lengths=(24,))
    own = replace(workload, model=model_of(replace(SHAPES["borrowed"], kept=True)), layout=parse_layout("gqa-4", model_of(replace(SHAPES["borrowed"], kept=True))))
    assert cached_bytes_per_sequence(workload) == 0
    assert {op.name for op in build_step(workload).layer_operators} >= {"attention"}
    reads, stores = (modelled(build_step(one).layer_operators, "attention", "kv_read_bytes") for one in (workload, own))
    assert reads == stores > 0
    assert not [op for op in build_step(workload).layer_operators if op.name == "kv_append"]
    assert chip_elements(workload) == chip_elements(own) - 2 * 4 * 4 * 8


@pytest.mark.parametrize("form", ["bf16", "fp8", "int4"])
@pytest.mark.parametrize("name", ["dsa", "csa", "msa", "nsa"])
def test_fewer_stored_elements_never_mean_more_bytes_and_quantised_ones_fewer(name, form):
    few, many = (workload_of(SHAPES[name], lengths=(tokens,), kv_format=form) for tokens in (40, 400))
    assert cached_bytes_per_sequence(few) < cached_bytes_per_sequence(many)
    assert cached_bytes_per_sequence(many) <= cached_bytes_per_sequence(workload_of(SHAPES[name], lengths=(400,)))
    read = [modelled(build_step(one).layer_operators, "attention", "kv_read_bytes") for one in (few, many)]
    assert read[0] <= read[1]
    if name != "csa":
        return
    heads = [float(cached_bytes_per_sequence(workload_of(SHAPES[name], layout=layout, lengths=(400,), kv_format=form)))
             for layout in ("mqa", "gqa-4", "mha")]
    assert heads == sorted(heads)


def test_a_gathered_latent_of_deepseek_v3_2_has_656_bytes_and_an_index_key_132():
    found = decode_step("h200-sxm", "deepseek-v3.2", attention="as-trained", batch=1, kv_len=131072, chips=8, tp=1, pp=8,
                        kv_dtype="fp8-ds-mla", weight_dtype="fp8")
    assert found["kv_read_bytes"] == 61 * (2048 * 656 + 131072 * 132)
    assert found["kv_cache_bytes"] == 61 * 131072 * (656 + 132)
    heads = [decode_step("h200-sxm", "qwen3-8b", attention="as-trained", batch=1, kv_len=1024, kv_dtype=form)["kv_cache_bytes"]
             for form in ("fp8-ds-mla", "fp8")]
    assert heads[0] == heads[1]


def test_nsa_reads_the_tokens_of_its_papers_table():
    """Yuan et al. 2025 (arXiv 2502.11089), table 4: tokens whose keys and values a decode step loads; full attention loads all."""
    for kv_len, published in ((8192, 2048), (16384, 2560), (32768, 3584), (65536, 5632)):
        found = decode_step("a100-sxm-80gb", "nsa-27b", attention="as-trained", batch=1, kv_len=kv_len, chips=1, baseline=False)
        assert found["kv_read_bytes"] == 30 * published * 4 * (192 + 128) * 2
    model = load_model("nsa-27b")
    assert count_parameters(model, parse_layout("as-trained", model)).total == pytest.approx(27e9, rel=0.05)
