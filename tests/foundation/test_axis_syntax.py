"""Lists and ranges: what they expand to, within their bounds, and that no text can make them run away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simkit.foundation.axis_syntax import MAX_AXIS_VALUES, parse_axis, split_names
from simkit.foundation.errors import UserError
from tests.work import work_below

REFUSAL_CALLS = 5_000  # of functions: below 500 today, a million where a range is made before it is refused


@pytest.mark.parametrize(("text", "values"), [
    ("8", [8]), ("1,8,32", [1, 8, 32]), (" 1 , 8 ", [1, 8]), ("8,1,8", [8, 1]), ("+5", [5]),
    ("1k..8k*2", [1024, 2048, 4096, 8192]), ("1..100*10", [1, 10, 100]), ("1..99*10", [1, 10]),
    ("1,4..64*2", [1, 4, 8, 16, 32, 64]), ("5..5+9", [5]), ("3..10+3", [3, 6, 9]), ("1..4*4", [1, 4]),
    ("128k", [131072]), ("128K", [131072]), ("1M", [1048576]), ("0.5k", [512]), ("1 .. 4 * 2", [1, 2, 4]),
    ("9007199254740992", [2**53]), ("1..16*2,1..16*4", [1, 2, 4, 8, 16]),
])
def test_lists_and_ranges_read_as_they_are_written(text, values):
    read = parse_axis(text)
    assert read == values
    assert all(type(value) is int for value in read)


def test_a_contract_range_counts_by_ones():
    assert parse_axis("0..10+1", minimum=0) == list(range(11))


@pytest.mark.parametrize(("text", "values"), [
    ("0.5,2", [0.5, 2.0]), ("0..0.3+0.1", [0.0, 0.1, 0.2, 0.3]), ("-10..-5+1", [-10, -9, -8, -7, -6, -5]),
    ("-1..1+0.5", [-1, -0.5, 0, 0.5, 1]), ("0.1..10*10", [0.1, 1, 10]),
])
def test_fractions_reach_the_end_that_is_written(text, values):
    assert parse_axis(text, whole=False, minimum=None) == pytest.approx(values, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("text", "message"), [
    ("", "batch: a value is missing"), (",", "batch: a value is missing"), ("1,,2", "batch: a value is missing"),
    ("eight", "batch: 'eight' is not a number"), ("1;2", "batch: '1;2' is not a number"), ("1e3", "batch: '1e3' is not a number"),
    ("0", "batch 0 is below 1"), ("-4", "batch -4 is below 1"), ("0..4+1", "batch 0 is below 1"),
    ("1.5", "batch 1.5 is not a whole number"), ("1..4+0.5", "batch 1.5 is not a whole number"),
    ("1..4", "batch: the range '1..4' has no step; such as 1..4*2, which doubles, or 1..4+1, which adds"), ("1..4/2", "batch: '1..4/2' is not a range"), ("..", "batch: '..' is not a range"),
    ("4..1+1", "batch: range '4..1+1' needs stop >= start and a step above 0"),
    ("1..4+0", "batch: range '1..4+0' needs stop >= start and a step above 0"),
    ("1..4+-1", "batch: range '1..4+-1' needs stop >= start and a step above 0"),
    ("1..4*1", "batch: range '1..4*1' needs stop >= start and start > 0 and a factor above 1"),
    ("1..4*0.5", "batch: range '1..4*0.5' needs stop >= start and start > 0 and a factor above 1"),
    ("0..4*2", "batch: range '0..4*2' needs stop >= start and start > 0 and a factor above 1"),
    ("1..2..3*2", "batch: '2..3' is not a number"), ("a..b*c", "batch: 'a' is not a number"),
    ("0..999999999999999999+1", "batch: range '0..999999999999999999+1' has more than 1,000,000 values"),
    ("1..999999999999999999+0.000000000000000001", "batch: range "), ("1..2*1.000000000000001", "batch: range "),
    ("1..1000001+1", "batch: range '1..1000001+1' has more than 1,000,000 values"),
    ("1..600000+1,600001..1200000+1", "batch: more than 1,000,000 values"),
    ("999999999999999999", "batch 1e+18 is above 9.0072e+15"), ("999999999999999999M", "batch 1.04858e+24 is above"),
    ("9" * 400, "batch: '999"), ("1" + "0" * 30 + "..2*2", "batch: '1000"), ("x" * 100_000, "batch: 'xxx"),
    ("nan", "batch: 'nan' is not a number"), ("inf", "batch: 'inf' is not a number"), ("\u0663", "batch: '\u0663' is not a number"),
    ("1\n2", r"batch: '1\n2' is not a number"), ("0x10", "batch: '0x10' is not a number"), ("1_0", "batch: '1_0' is not a number"),
])
def test_what_is_no_list_or_range_is_refused_with_what_is_wrong(text, message):
    with pytest.raises(UserError) as caught, work_below(REFUSAL_CALLS):
        parse_axis(text, what="batch")
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300


def test_a_million_values_are_the_most():
    assert len(parse_axis(f"1..{MAX_AXIS_VALUES}+1")) == MAX_AXIS_VALUES


NUMBERS = st.integers(1, 10**6)


@given(NUMBERS, st.integers(0, 10**4), st.integers(1, 10**3))
def test_a_counting_range_is_pythons_range_with_its_end(start, length, step):
    assert parse_axis(f"{start}..{start + length}+{step}") == list(range(start, start + length + 1, step))


@given(NUMBERS, st.integers(0, 10**9), st.integers(2, 1000))
def test_a_growing_range_multiplies_within_its_bounds(start, length, factor):
    values = parse_axis(f"{start}..{start + length}*{factor}")
    expected = [start]
    while expected[-1] * factor <= start + length:
        expected.append(expected[-1] * factor)
    assert values == expected


DECIMALS = st.decimals(min_value="-1000", max_value="1000", places=3)


@given(DECIMALS, DECIMALS, st.decimals(min_value="0.01", max_value="100", places=3))
def test_a_range_of_fractions_stays_within_its_bounds_and_keeps_its_step(start, length, step):
    stop = start + abs(length)
    values = parse_axis(f"{start}..{stop}+{step}", whole=False, minimum=None)
    assert values[0] == float(start)
    assert all(float(start) <= value <= float(stop) for value in values)
    assert len(values) == int(abs(length) / step) + 1  # exact decimal arithmetic


@given(st.lists(st.integers(1, 10**15), min_size=1, max_size=50))
def test_a_list_keeps_its_order_and_loses_only_repetitions(values):
    assert parse_axis(",".join(map(str, values))) == list(dict.fromkeys(values))


@given(st.text() | st.lists(st.sampled_from([*"0123456789", "k", "M", ".", "..", "*", "+", "-", ",", " "])).map("".join),
       st.booleans(), st.sampled_from([None, 0, 1]))
def test_any_text_is_values_within_bounds_or_a_users_error(text, whole, minimum):
    try:
        values = parse_axis(text, whole=whole, minimum=minimum)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        return
    assert values
    assert len(values) == len(set(values)) <= MAX_AXIS_VALUES
    assert all(abs(value) <= 2**53 for value in values)
    assert minimum is None or min(values) >= minimum


def test_names_are_split_at_commas_in_order_without_repetitions_or_blanks():
    assert split_names("mha, gqa-8,,mha") == ["mha", "gqa-8"]
    assert split_names(("h100-sxm", "groq-lpu,h100-sxm")) == ["h100-sxm", "groq-lpu"]
    assert split_names([]) == split_names("") == split_names(" , ") == []
