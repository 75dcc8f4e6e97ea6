"""What fits: whole sequences and tokens, one more never; published capacities; agreement with the simulated step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.study.capacity import capacity
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario
from tests.laws import strategies as draw

H100, LLAMA = load_hardware("h100-sxm"), load_model("llama-2-70b")
CHIPS = ["h100-sxm", "mi300x", "tpu-v5e", "groq-lpu", "dmatrix-corsair"]
WORDS = [{}, {"page": 16}, {"page": 256}, {"reserve": 8192}, {"kv_dtype": "int4"}, {"eviction": "h2o:512+512"},
         {"lengths": "lognormal:1", "page": 64}, {"attention_sharding": "batch"}, {"attention_sharding": "context", "page": 16}]


def room_of(name: str = "h100-sxm", gb: float = 80.0):
    """A chip whose usable memory is exactly ``gb``: no reserve."""
    chip = load_hardware(name)
    return replace(chip, memory=tuple(
        replace(level, capacity_bytes=gb * 1e9, reserve_fraction=0.0) if level.name == "hbm" else level for level in chip.memory))


@settings(max_examples=settings.default.max_examples // 2)  # two searches and four steps each
@given(st.sampled_from(["h100-sxm", "mi300x", "b200-sxm"]), st.sampled_from(["llama-2-70b", "gemma-2-27b", "deepseek-v2-lite", "opt-13b"]),
       st.sampled_from(["as-trained", "mqa", "mha"]), st.sampled_from(WORDS), st.integers(1, 300), st.integers(1, 60_000),
       st.sampled_from([(1, 1), (4, 1), (8, 1), (8, 2), (2, 3)]))
def test_what_is_promised_fits_and_one_more_does_not(chip, model, layout, words, batch, kv_len, split):
    tp, pp = split
    shape = load_model(model)
    assume(shape.n_q_heads % tp == 0)
    split_words = {"chips": tp * pp, "tp": tp, "pp": pp}
    try:
        found = capacity(load_hardware(chip), shape, [layout], scenario=parse_scenario(**words), batch=batch, kv_len=kv_len,
                         **split_words)
    except UserError as error:
        assume("weights alone" not in str(error))
        raise
    most, longest = float(found["max_batch"][0, 0]), float(found["max_kv_len"][0, 0])

    def fits(sequences: float, tokens: float) -> bool:
        return bool(decode_step(chip, model, attention=layout, batch=sequences, kv_len=tokens, baseline=False, **split_words,
                                **words)["fits"])

    assert most == int(most)
    if most:
        assert fits(most, kv_len)
    assert not fits(most + 1, kv_len)
    if 1 <= longest < 1e10:
        assert longest == int(longest)
        assert fits(batch, longest)
        assert not fits(batch, longest + 1)
    if longest == 0:
        assert not fits(batch, 1)


def test_a_cache_of_known_size_fills_known_room():
    # 8 x 80 GB less 137.95 GB of weights leave 62.76 GB a chip; GQA-8 takes 40 960 bytes of it a token.
    found = capacity(room_of(), LLAMA, ["gqa-8"], scenario=parse_scenario(), batch=1, kv_len=4096, chips=8, tp=8)
    weights = float(found["weight_bytes_per_chip"][0, 0])
    assert weights == pytest.approx(137.95e9 / 8, rel=1e-3)
    assert found["max_kv_len"][0, 0] == (80e9 - weights) // 40960
    assert found["max_batch"][0, 0] == (80e9 - weights) // (40960 * 4096)


def test_pages_round_up_and_a_reservation_holds_its_longest_context():
    def most(**words) -> float:
        return float(capacity(room_of(), LLAMA, ["gqa-8"], scenario=parse_scenario(**words), batch=1, kv_len=4097, chips=8,
                              tp=8)["max_batch"][0, 0])

    weights = float(capacity(room_of(), LLAMA, ["gqa-8"], scenario=parse_scenario(), chips=8, tp=8)["weight_bytes_per_chip"][0, 0])
    for words, tokens in (({}, 4097), ({"page": 16}, 4112), ({"page": 4096}, 8192), ({"reserve": 32768}, 32768)):
        assert most(**words) == (80e9 - weights) // (40960 * tokens), words


def test_the_reserve_of_a_runtime_is_not_given_to_the_cache():
    held = replace(H100, memory=tuple(
        replace(level, reserve_fraction=level.reserve_fraction + 0.125) if level.name == "hbm" else level for level in H100.memory))
    most, fewer = (float(capacity(chip, LLAMA, ["gqa-8"], scenario=parse_scenario(), chips=8, tp=8)["max_batch"][0, 0])
                   for chip in (H100, held))
    assert most - fewer == pytest.approx(0.125 * held.level("hbm").capacity_bytes / (40960 * 4096), abs=1)


def test_stages_alone_or_ways_alone_say_how_many_chips():
    for words, split in (({"pp": 2}, (2, 1, 2)), ({"tp": 4}, (4, 4, 1)), ({"tp": 4, "pp": 2}, (8, 4, 2))):
        found = capacity(H100, LLAMA, ["gqa-8"], scenario=parse_scenario(weight_dtype="int4"), **words)
        assert tuple(int(found[name][0, 0]) for name in ("chips", "tp", "pp")) == split


def test_points_of_one_call_have_the_answers_of_each_alone():
    batches, contexts = [1, 7, 64], [1000, 4096, 30_000]
    together = capacity(H100, LLAMA, ["mha", "gqa-8"], scenario=parse_scenario(), batch=batches, kv_len=contexts, chips=8)
    for place, (batch, kv_len) in enumerate(zip(batches, contexts, strict=True)):
        alone = capacity(H100, LLAMA, ["mha", "gqa-8"], scenario=parse_scenario(), batch=batch, kv_len=kv_len, chips=8)
        for name in ("max_batch", "max_kv_len"):
            assert together[name][:, place].tolist() == alone[name][:, 0].tolist()


def test_whoever_names_the_chips_has_their_farthest_memory_too():
    """Eight SN40L hold 8 x 64 GB in HBM and 8 x 1500 GB in DDR."""
    chip = load_hardware("sambanova-sn40l")
    found = capacity(chip, LLAMA, ["gqa-8"], scenario=parse_scenario(), batch=1, kv_len=4096, chips=8, tp=8)
    room = sum(level.usable_bytes for level in chip.memory if "kv" in level.holds)
    assert found["max_batch"][0, 0] == (room - float(found["weight_bytes_per_chip"][0, 0])) // (40960 * 4096)


def test_waste_is_what_a_page_rounds_up():
    found = capacity(H100, LLAMA, ["gqa-8"], scenario=parse_scenario(page=256), kv_len=[256, 257], chips=8)
    assert found["allocation_waste_fraction"][0].tolist() == pytest.approx([0, 255 / 512])


def test_eviction_and_windows_let_a_context_grow_without_end():
    evicting = capacity(H100, LLAMA, ["gqa-8"], scenario=parse_scenario(eviction="streaming:4+4092"), chips=8)
    windowed = capacity(H100, load_model("mistral-7b"), ["as-trained"], scenario=parse_scenario(), chips=1)
    assert np.isinf(evicting["max_kv_len"]).all()
    assert np.isinf(windowed["max_kv_len"]).all()


def test_grouping_multiplies_the_batch_and_replication_takes_it_back():
    found = capacity(room_of(), LLAMA, ["mha", "gqa-8", "mqa"], scenario=parse_scenario(attention_sharding="heads"), kv_len=4096,
                     chips=8, tp=8)
    mha, gqa, mqa = found["max_batch"][:, 0]
    assert gqa / mha > 8  # 8 times smaller caches, and smaller projections
    assert mqa == pytest.approx(gqa, rel=0.02)  # 8 copies of one head take the room of 8 heads
    assert found["kv_copies"][:, 0].tolist() == [1, 1, 8]
    # Of all ways to share attention a layout takes the roomiest.
    dealt = capacity(room_of(), LLAMA, ["mqa"], scenario=parse_scenario(), kv_len=4096, chips=8, tp=8)
    assert dealt["max_batch"][0, 0] == pytest.approx(8 * mqa, rel=0.01)


def test_batch_of_64_runs_out_of_an_80_gb_a100_with_a_full_cache_and_fits_with_h2o():
    """H2O (arXiv 2306.14048), table 5: OPT-6.7B, 2048 + 2048 tokens, one A100-80GB: FlexGen is out of memory at 64."""
    def most(eviction: str) -> float:
        return float(capacity(load_hardware("a100-sxm-80gb"), load_model("opt-6.7b"), ["as-trained"], batch=1, kv_len=4096, chips=1,
                              scenario=parse_scenario(eviction=eviction))["max_batch"][0, 0])

    assert 24 <= most("none") < 64
    assert most("h2o:410+409") >= 64  # 20 % of 4096 tokens


def test_llama_7b_reaches_a_million_tokens_on_one_a100_at_2_bits():
    """KVQuant (arXiv 2401.18079), abstract: LLaMA-7B with 1M context on one A100-80GB; 4-bit weights are needed with it."""
    def longest(kv_dtype: str, weights: str) -> float:
        return float(capacity(load_hardware("a100-sxm-80gb"), load_model("llama-7b"), ["as-trained"], chips=1,
                              scenario=parse_scenario(kv_dtype=kv_dtype, weight_dtype=weights))["max_kv_len"][0, 0])

    # Nearly scale-free groups, as the paper's per-channel ones are: 2.004 bits an element.
    assert longest("int2-g8192-channel", "int4") >= 2**20
    assert longest("bf16", "int4") < 2**18


def test_capacity_is_the_simulated_step_s_own_batch():
    step = decode_step("h100-sxm", "llama-2-70b", attention=["mha", "gqa-8", "mqa"], batch=1, kv_len=4096, chips=8,
                       fields=["own_batch"])
    found = capacity(H100, LLAMA, ["mha", "gqa-8", "mqa"], scenario=parse_scenario(), batch=1, kv_len=4096, chips=8)
    assert found["max_batch"][:, 0].tolist() == step["own_batch"].tolist()


@pytest.mark.parametrize("name", CHIPS)
def test_the_fewest_chips_that_fit_hold_the_batch_that_was_asked_for(name):
    found = capacity(load_hardware(name), load_model("llama-2-7b"), ["mha", "gqa-8"], scenario=parse_scenario(), batch=4,
                     kv_len=2048, chips="fit")
    assert (found["max_batch"] >= 4).all()
    assert (found["max_kv_len"] >= 2048).all()


def test_weights_that_do_not_fit_are_said_to():
    with pytest.raises(UserError, match="weights alone do not fit on 1 x h100-sxm"):
        capacity(H100, LLAMA, ["gqa-8"], scenario=parse_scenario(), chips=1)


@given(draw.batches, draw.kv_lens)
def test_smaller_formats_and_fewer_heads_never_hold_less(batch, kv_len):
    def most(layout: str, form: str) -> float:
        return float(capacity(H100, LLAMA, [layout], scenario=parse_scenario(kv_dtype=form), batch=batch, kv_len=kv_len, chips=8,
                              tp=8)["max_batch"][0, 0])

    assert most("mha", "bf16") <= most("gqa-16", "bf16") <= most("gqa-8", "bf16") <= most("gqa-8", "int4") <= most("gqa-8", "int2")
