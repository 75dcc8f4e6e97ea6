"""What a workload works out before any operator: microbatches, formats that are multiplied as they are, tokens and bytes."""

import pytest

from simkit.foundation.errors import UserError
from simkit.model.kv_cache import (
    FORMATS,
    KvPolicy,
    parse_cache_formats,
    parse_eviction,
    parse_lengths,
    parse_paging,
)
from simkit.step.placement import allocated_bytes_per_sequence, cached_bytes_per_sequence, demand
from simkit.step.sharding import shard_heads
from tests.step.test_operators import attention_of, workload_of


@pytest.mark.parametrize(("batch", "pp", "microbatches", "sequences"), [(5, 2, 2, 3), (1, 4, 1, 1), (8, 4, 4, 2), (9, 4, 4, 3)])
def test_a_stage_works_on_its_part_of_the_batch_and_the_fullest_part_sets_the_pace(batch, pp, microbatches, sequences):
    found = workload_of("llama-2-70b", batch=batch, pp=pp, q_len=2)
    assert (found.microbatches, found.sequences, found.rows) == (microbatches, sequences, 2 * sequences)


def test_attention_of_a_dealt_batch_waits_for_the_chip_with_one_sequence_more():
    assert workload_of("llama-2-70b", "mqa", batch=9, tp=4, sharding="batch").attention_sequences == 3


@pytest.mark.parametrize(("cache", "dtype"), [
    ("bf16", ""), ("fp8", "fp8"), ("int8", ""), ("int4-g128", ""), ("fp8/int8", ""), ("fp8/fp8", "fp8"), ("bf16/fp8", "")])
def test_a_matrix_unit_may_multiply_a_cache_of_one_narrow_format_without_scales_in_groups(cache, dtype):
    keys, values = parse_cache_formats(cache)
    found = workload_of("llama-2-70b", kv="bf16")
    found = type(found)(**{name: getattr(found, name) for name in (
        "model", "layout", "n_kv_heads", "batch", "kv_len", "q_len", "weight_format")}, kv_format=keys, value_format=values)
    assert found.native_cache_dtype == dtype


@pytest.mark.parametrize(("weights", "dtype"), [("bf16", "bf16"), ("fp8", "fp8"), ("fp4", "fp4"), ("int4", "bf16"), ("int8", "bf16")])
def test_weights_are_multiplied_in_their_own_format_where_matrix_units_have_it(weights, dtype):
    found = workload_of("llama-2-70b")
    fields = {name: getattr(found, name) for name in ("model", "layout", "n_kv_heads", "batch", "kv_len", "q_len", "kv_format")}
    assert type(found)(**fields, weight_format=FORMATS[weights]).gemm_dtype == dtype


def test_a_token_that_is_written_brings_its_scales():
    """INT4 in groups of 32 with a 16-bit scale and zero point each: 128 keys take 64 + 16 bytes, and as many values."""
    keys, values = parse_cache_formats("int4-g32")
    found = workload_of("llama-2-70b", "gqa-8", batch=2.0)
    fields = {name: getattr(found, name) for name in (
        "model", "layout", "n_kv_heads", "batch", "kv_len", "q_len", "weight_format")}
    quantised = type(found)(**fields, kv_format=keys, value_format=values)
    assert quantised.appended_bytes == 8 * 2 * (64 + 16)
    assert quantised.stored_bytes(10) == quantised.read_bytes(10) == 8 * 10 * 2 * (64 + 16)
    latent = workload_of("deepseek-v2", kv="fp8")
    assert latent.appended_bytes == latent.stored_bytes(1) == 576
    assert latent.unpack_flops_per_token == 576 * FORMATS["fp8"].unpack_flops


def test_a_tiny_share_of_the_mean_length_is_still_one_token():
    lengths = parse_lengths("1000,1")
    policy = KvPolicy(lengths=lengths)
    long, short = (factor * 10 for factor in lengths.factors)
    assert short < 0.5
    found = workload_of("llama-2-70b", "gqa-8", batch=2.0, kv_len=10.0, policy=policy)
    assert found.tokens_read(found.layer_groups[0]) == (round(long) + 1) / 2


def test_lengths_that_do_not_spread_are_called_equal():
    for text in ("lognormal:0", "uniform:1"):
        with pytest.raises(UserError, match="expected equal"):
            parse_lengths(text)
    assert len(parse_lengths("lognormal:10").factors) == 32


def test_uniform_lengths_run_from_the_shortest_to_the_longest():
    factors = parse_lengths("uniform:0.5").factors
    assert list(factors) == sorted(factors)
    assert factors[0] == pytest.approx(0.5 + 0.5 / 32, rel=1e-12)
    assert factors[-1] == pytest.approx(1.5 - 0.5 / 32, rel=1e-12)
    assert sum(factors) == pytest.approx(32, rel=1e-12)


def test_a_layer_budget_scales_what_a_layer_keeps_and_leaves_at_least_one_token():
    policy = KvPolicy(eviction=parse_eviction("streaming:2+2", (1.5, 0.5, 0.01)))
    found = workload_of("llama-2-70b", "gqa-8", kv_len=1000.0, policy=policy)
    kept = {group.budget: float(found.tokens_read(group)) for group in found.layer_groups}
    assert kept == {1.5: 6.0, 0.5: 2.0, 0.01: 1.0}
    assert {group.budget: group.count for group in found.layer_groups} == {1.5: 27, 0.5: 27, 0.01: 26}
    one = KvPolicy(eviction=parse_eviction("streaming:2+2"))
    assert [group.count for group in one.groups(found.model)] == [80]
    half = KvPolicy(eviction=parse_eviction("streaming:2+2", (0.5,)))
    assert [float(half.kept(1000.0, group)) for group in half.groups(found.model)] == [2.0]


def test_a_paged_kernel_reads_the_table_of_the_pages_that_it_keeps():
    policy = KvPolicy(paging=parse_paging(16, None))
    flat, paged = (attention_of(workload_of("llama-2-70b", "gqa-8", batch=3.0, kv_len=100.0, policy=one))
                   for one in (KvPolicy(), policy))
    assert paged.kv_read_bytes - flat.kv_read_bytes == 3 * 7 * 4  # 7 pages of 16 hold 100 tokens


def test_of_a_dealt_context_each_chip_reads_the_table_of_its_own_pages():
    policy = KvPolicy(paging=parse_paging(16, None))
    flat, paged = (attention_of(workload_of("llama-2-70b", "mqa", batch=3.0, kv_len=1025.0, policy=one, tp=4, sharding="context"))
                   for one in (KvPolicy(), policy))
    assert paged.kv_read_bytes - flat.kv_read_bytes == 3 * 17 * 4  # 257 tokens on the chip that has one more
    assert flat.kv_read_bytes == 3 * 257 * 512
    assert flat.attention.tokens == 257


def test_what_the_replay_is_told_of_a_core_on_eight_chips():
    task = attention_of(workload_of("llama-2-70b", "gqa-16", batch=3.0, kv_len=1000.0, q_len=2.0, tp=8)).attention
    assert (task.sequences, task.kv_heads, task.query_rows, task.tokens) == (3, 2, 4 * 2, 1000)
    assert (task.key_dim, task.value_dim, task.arrays, task.cached_elements, task.latent) == (128, 128, 2, 256, False)
    assert (task.bytes_per_token_head, task.interleaved_heads, task.stride_tokens, task.page) == (512, 1, 1, 1)
    mixed = attention_of(workload_of("llama-2-70b", "gqa-16", batch=3.0, kv_len=1000.0, tp=8, cache_order="token-major"))
    assert mixed.attention.interleaved_heads == 2


@pytest.mark.parametrize(("rule", "stride"), [("h2o:50+50", 10.0), ("snapkv:50+50", 1.0), ("streaming:50+50", 1.0)])
def test_heavy_hitters_lie_where_they_were_written(rule, stride):
    found = attention_of(workload_of("llama-2-70b", "gqa-8", kv_len=1000.0, policy=KvPolicy(eviction=parse_eviction(rule))))
    assert found.attention.stride_tokens == stride
    kept_all = attention_of(workload_of("llama-2-70b", "gqa-8", kv_len=80.0, policy=KvPolicy(eviction=parse_eviction(rule))))
    assert kept_all.attention.stride_tokens == 1.0
    dealt = attention_of(workload_of("llama-2-70b", "mqa", kv_len=81.0, tp=4, sharding="context",
                                     policy=KvPolicy(eviction=parse_eviction(rule))))
    assert dealt.attention.stride_tokens == 1.0  # 21 tokens on the chip that has one more than its share


@pytest.mark.parametrize("budgets", [(), (0.0,), (-0.5,), (1.0, -1e-9), (1000.5,)])
def test_budgets_that_keep_nothing_or_the_world_are_refused(budgets):
    with pytest.raises(UserError, match="layer budgets"):
        parse_eviction("h2o:4+4", budgets)


def test_the_widest_budgets_are_taken():
    assert parse_eviction("h2o:4+4", (1e-6, 1000.0)).layer_budgets == (1e-6, 1000.0)


def test_the_smallest_rules_and_lists_are_taken():
    assert [parse_eviction(text).budget for text in ("streaming:0+1", "streaming:4+0")] == [1, 4]
    assert len(parse_lengths(",".join(["1"] * 100_000)).factors) == 100_000
    assert parse_cache_formats("int8-g1")[0].group == 1


def test_a_rule_without_a_layer_to_work_on_names_the_window():
    with pytest.raises(UserError, match="window of 4096 tokens"):
        KvPolicy(eviction=parse_eviction("streaming:4+4")).groups(workload_of("mistral-7b").model)


def test_a_misspelt_rule_is_offered_the_nearest():
    with pytest.raises(UserError) as caught:
        parse_eviction("strming:4+4")
    assert "did you mean 'streaming'?" in str(caught.value)


@pytest.mark.parametrize(("name", "bits", "group", "scale", "zero"), [
    ("fp32", 32, 0, 0, 0), ("bf16", 16, 0, 0, 0), ("fp16", 16, 0, 0, 0), ("fp8", 8, 0, 0, 0), ("int8", 8, 128, 2, 0),
    ("fp4", 4, 16, 1, 0), ("int4", 4, 64, 2, 2), ("int2", 2, 32, 2, 2)])
def test_formats_store_what_their_makers_say(name, bits, group, scale, zero):
    form = FORMATS[name]
    assert (form.bits, form.group or 0, form.scale_bytes, form.zero_bytes) == (bits, group, scale, zero)


def test_a_static_machine_stores_each_head_once_however_it_is_cut():
    assert shard_heads(64, 8, 3.5, static=True).copies == 1.0
    assert shard_heads(64, 8, 3.5, static=True).kv_per_chip == 8 / 3.5


def test_room_for_a_sequence_counts_scores_pages_and_the_encoder():
    """H2O keeps 100 tokens of 1000 with 4 bytes of score for each and KV head; T5's encoder cache stands beside its own."""
    rule = KvPolicy(eviction=parse_eviction("h2o:50+50"))
    kept = workload_of("llama-2-70b", "gqa-8", kv_len=1000.0, policy=rule, tp=4)
    assert cached_bytes_per_sequence(kept) == 80 * 8 * 100 * 512
    assert allocated_bytes_per_sequence(kept) == 80 * 8 * (100 * 512 + 100 * 4)
    assert demand(kept).kv_bytes_per_sequence == 80 * 2 * (100 * 512 + 100 * 4)
    paged = workload_of("llama-2-70b", "gqa-8", kv_len=1000.0, policy=KvPolicy(paging=parse_paging(16, None)), tp=4, sharding="context")
    assert allocated_bytes_per_sequence(paged) == 80 * 8 * 1008 * 512
    both = workload_of("t5-v1.1-xxl", "gqa-16", kv_len=10.0, encoder_len=512.0)
    assert cached_bytes_per_sequence(both) == allocated_bytes_per_sequence(both) == 24 * 16 * (10 + 512) * 2 * 64 * 2
