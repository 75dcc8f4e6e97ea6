"""Attention modules of a layer and recurrences beside measured ones, and what of a framework's time carries over."""

import numpy as np
import pytest

from simkit.evidence.silicon.compare import predicted_times_s
from simkit.evidence.silicon.layer_rows import layer_operators, overheads
from simkit.evidence.silicon.score import streamed_bytes
from simkit.evidence.silicon.tables import parse_table, read_table
from simkit.hardware.catalog import load_hardware
from tests.evidence import compared
from tests.reference_data import reference_path
from tools.refit_layers import fitted_overheads

SPARSE = """\
system,framework,op,kernel,model,n_q_heads,weight_dtype,kv_dtype,q_len,batch,kv_len,latency_us
h100_sxm,vllm,dsa_generation,FLASHMLA_SPARSE,deepseek-ai/DeepSeek-V3.2,16,fp8_block,fp8,1,8,4096,200
h100_sxm,vllm,dsa_generation,FLASHMLA_SPARSE,deepseek-ai/DeepSeek-V3.2,16,fp8_block,fp8,1,8,131072,400
h100_sxm,sglang,glm5_topk,fast_topk_transform_fused,zai-org/GLM-5,64,fp8_block,fp8,1,8,512,0.0
"""
LINEAR = """\
system,framework,op,kernel,n_k_heads,k_head_dim,n_v_heads,v_head_dim,state_dim,conv_width,n_groups,batch,q_len,latency_us
h100_sxm,vllm,gdn,fused_recurrent_gated_delta_rule_packed_decode,16,128,32,128,128,4,,64,1,60
h100_sxm,vllm,gdn,causal_conv1d_update,16,128,32,128,128,4,,64,1,4
"""


@pytest.mark.parametrize(("table", "mape", "median"), [
    pytest.param("decode_sparse_attention", 0.20, 0.12, marks=pytest.mark.slow), ("decode_linear_attention", 0.15, 0.10)])
def test_modules_and_recurrences_of_h100_and_b200_are_within_the_stated_errors(table, mape, median):
    found = {system: record for (system, regime), record in compared.kernels(table).items() if regime == "all"}
    for system in ("h100_sxm", "b200_sxm"):
        assert found[system]["mape"] <= mape
        assert found[system]["median_ape"] <= median
        assert found[system]["baseline_mape"] > 2 * found[system]["mape"]


def test_the_shipped_overheads_are_those_that_the_fit_finds():
    rows = read_table(reference_path("decode_linear_attention.csv.gz")).of_system("h100_sxm")
    chip = load_hardware("h100-sxm")
    for key, (floor_s, ratio) in fitted_overheads(rows, chip).items():
        assert overheads(chip, *key) == pytest.approx((floor_s, ratio), abs=5e-9), key


def test_a_sibling_takes_the_overheads_of_the_chip_that_it_is_like_and_others_the_mean():
    known = overheads(load_hardware("h100-sxm"), "vllm", "dsv4_hca_generation/FLASHMLA_SPARSE_DSV4")
    assert overheads(load_hardware("h200-sxm"), "vllm", "dsv4_hca_generation/FLASHMLA_SPARSE_DSV4") == known
    blackwell = overheads(load_hardware("b200-sxm"), "vllm", "dsv4_hca_generation/FLASHMLA_SPARSE_DSV4")
    assert overheads(load_hardware("mi300x"), "vllm", "dsv4_hca_generation/a-kernel") == pytest.approx(
        tuple(np.mean([known, blackwell], axis=0)))
    assert overheads(load_hardware("mi300x"), "nobody", "dsv4_hca_generation/a-kernel") == (0.0, 1.0)


def test_a_module_is_the_layer_s_own_operators_and_rows_without_a_kernel_are_left_out():
    rows = parse_table(SPARSE, "t.csv")
    assert (rows.kind, len(rows), rows.unmeasured) == ("decode_sparse_attention", 2, 1)
    ((where, operators, key),) = layer_operators(rows)
    assert where.tolist() == [0, 1]
    assert key == ("vllm", "dsa_generation/FLASHMLA_SPARSE")
    assert {"index_scores", "top_k", "attention", "output_projection"} <= {op.name for op in operators}
    # 2048 latents of 576 bytes and 131072 index keys of 132 of 8 sequences: the context adds index keys alone.
    moved = streamed_bytes(rows)
    assert moved[1] - moved[0] == pytest.approx(8 * (131072 - 4096) * 132)
    times = predicted_times_s(rows, load_hardware("h100-sxm"))
    assert times[1] > times[0]


def test_a_recurrence_reads_and_writes_its_state_and_the_convolution_its_inputs():
    rows = parse_table(LINEAR, "t.csv")
    moved = streamed_bytes(rows)
    assert moved[0] == 2 * 64 * 32 * 128 * 128 * 4
    assert moved[1] == 2 * 64 * 3 * (2 * 16 * 128 + 32 * 128) * 2
