"""Every prefix of every unit against exact powers, and the slips that made other tools wrong by 7 % or a factor 10.

SI prefixes: BIPM, The International System of Units (SI Brochure), 9th edition, table 7. Binary prefixes:
IEC 80000-13:2008, clause 4. The tables below are written out here, from those, and not taken from simkit.
"""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from simkit.foundation import units
from simkit.foundation.errors import UserError
from simkit.foundation.units import dimensions, example_of, format_quantity, parse_quantity, units_of

LARGE = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
SMALL = {"": 1, "m": Fraction(1, 10**3), "u": Fraction(1, 10**6), "\u00b5": Fraction(1, 10**6),
         "\u03bc": Fraction(1, 10**6), "n": Fraction(1, 10**9), "p": Fraction(1, 10**12)}
BINARY = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4, "Pi": 1024**5}


def prefixed(unit, *tables, times=1):
    return {prefix + unit: Fraction(factor) * times for table in tables for prefix, factor in table.items()}


FACTORS = {
    "bytes": prefixed("B", LARGE, BINARY),
    "bytes/s": prefixed("B/s", LARGE, BINARY),
    "flop/s": prefixed("FLOP/s", LARGE) | prefixed("OP/s", LARGE),
    "op/s": prefixed("op/s", LARGE),
    "seconds": prefixed("s", SMALL) | {"min": Fraction(60), "h": Fraction(3600)},
    "hertz": prefixed("Hz", LARGE),
    "watts": prefixed("W", LARGE) | {"mW": Fraction(1, 1000)},
    "joules/byte": prefixed("J/B", SMALL) | prefixed("J/bit", SMALL, times=8),
    "joules/flop": prefixed("J/FLOP", SMALL),
    "US dollars": {"USD": Fraction(1), "kUSD": Fraction(10**3), "MUSD": Fraction(10**6)},
    "US dollars/hour": {"USD/h": Fraction(1), "USD/year": Fraction(1, 365 * 24)},
    "a plain number": {"": Fraction(1)},
}
TABLE = [(dimension, unit, factor) for dimension, known in FACTORS.items() for unit, factor in known.items()]
ONE_ULP = 2.0**-52


def test_the_table_below_has_every_dimension_and_every_unit_that_is_read():
    assert {dimension: set(units_of(dimension)) for dimension in dimensions()} == {
        dimension: set(known) for dimension, known in FACTORS.items()}


@pytest.mark.parametrize(("dimension", "unit", "factor"), TABLE)
def test_every_unit_is_its_exact_power(dimension, unit, factor):
    for number in (1, 3, 8, 64, 989):
        assert parse_quantity(f"{number} {unit}", dimension) == float(number * factor)


@given(st.sampled_from(TABLE), st.decimals(min_value="0.001", max_value="99999", places=3))
def test_every_decimal_number_is_right_to_the_last_place(row, number):
    dimension, unit, factor = row
    assert parse_quantity(f"{number:f} {unit}", dimension) == pytest.approx(
        float(Fraction(number) * factor), rel=ONE_ULP, abs=0)


def test_the_space_before_a_unit_and_around_the_text_may_be_left_out_or_in():
    for dimension, unit, _ in TABLE:
        assert parse_quantity(f"  2{unit} ", dimension) == parse_quantity(f"2 {unit}", dimension)


@pytest.mark.parametrize(("text", "dimension", "value"), [
    # kerncraft reads "T" as 1e13 and "MiB" as 1e6 bytes; GenZ reads "GB" as 2**30.
    ("3.35 TB/s", "bytes/s", 3.35e12), ("3350 GB/s", "bytes/s", 3.35e12), ("80 GB", "bytes", 80_000_000_000),
    ("50 MiB", "bytes", 52_428_800), ("1.98 GHz", "hertz", 1.98e9), ("+1.5e2 W", "watts", 150.0),
    (".5 J/B", "joules/byte", 0.5), ("5. s", "seconds", 5.0), ("3.9 pJ/bit", "joules/byte", 31.2e-12),
    (8, "a plain number", 8.0), (0.5, "a plain number", 0.5), ("0.5", "a plain number", 0.5),
])
def test_known_figures_are_read_right(text, dimension, value):
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=ONE_ULP, abs=0)


@pytest.mark.parametrize("dimension", FACTORS)
def test_the_example_of_every_dimension_is_a_right_one(dimension):
    for example in example_of(dimension).split(" or "):
        assert parse_quantity(example, dimension) > 0


def refusal(text, dimension):
    with pytest.raises(UserError) as caught:
        parse_quantity(text, dimension)
    return str(caught.value)


NO_QUANTITIES = [
    "", " ", "B", "nan B", "inf B/s", "-inf", "NaN", "Infinity s", "1__0 B", "1_000 B", "0x10 B", "1,5 GB", "1 000 GB",
    "1  GB", "1\tGB", "1\u00a0GB", "\u0663 GB", "1e GB", "1e5.5 GB", "--1 B", "1 GB GB", "1 GB/", "1 /s", "GB 1", "1 \u00d7 GB",
    "1" * 65, "9" * 10_000, "1e" + "9" * 60, "1e999", True, False, None, [], {}, math.nan, math.inf, 10**400, b"1 B", 1j,
]


@pytest.mark.parametrize("dimension", FACTORS)
def test_what_is_not_a_finite_number_with_a_unit_of_the_dimension_is_refused(dimension):
    for text in NO_QUANTITIES:
        said = refusal(text, dimension)
        assert f"expected {dimension}, such as '{example_of(dimension)}'" in said
        assert len(said) < 200


@pytest.mark.parametrize("dimension", sorted(set(FACTORS) - {"a plain number"}))
def test_a_number_without_its_unit_is_refused(dimension):
    assert "has no unit" in refusal(8, dimension)
    assert "a unit is missing" in refusal("8", dimension)


@pytest.mark.parametrize("wanted", FACTORS)
def test_a_unit_is_never_taken_for_one_of_another_dimension(wanted):
    for dimension, unit, _ in TABLE:
        if unit not in FACTORS[wanted]:
            said = refusal(f"2 {unit}", wanted)
            assert f"expected {wanted}" in said
            assert not unit or f"'{unit}' is a unit of {dimension}" in said


@pytest.mark.parametrize(("text", "dimension", "hint"), [
    ("400 Gb/s", "bytes/s", "a small b is bits: divide by 8 and write 'GB/s'"),
    ("400 Gbit/s", "bytes/s", "a small b is bits: divide by 8 and write 'GB/s'"),
    ("400 Gbps", "bytes/s", "a small b is bits: divide by 8 and write 'GB/s'"),
    ("400 Gibit/s", "bytes/s", "a small b is bits: divide by 8 and write 'GiB/s'"),
    ("400 bit/s", "bytes/s", "a small b is bits: divide by 8 and write 'B/s'"),
    ("16 Gb", "bytes", "a small b is bits: divide by 8 and write 'GB'"),
    ("16 gb", "bytes", "case matters: did you mean 'GB'?"),
    ("3 tb/s", "bytes/s", "case matters: did you mean 'TB/s'?"),
    ("3 TBps", "bytes/s", "did you mean 'TB/s'?"),
    ("50 MIB", "bytes", "case matters: did you mean 'MiB'?"),
    ("50 KB", "bytes", "case matters: did you mean 'kB'?"),
    ("989 TFLOPS", "flop/s", "write 'TFLOP/s'"),
    ("989 tflops", "flop/s", "write 'TFLOP/s'"),
    ("989 kFLOPS", "flop/s", "write 'kFLOP/s'"),
    ("5 flops", "flop/s", "write 'FLOP/s'"),
    ("1979 TOPS", "flop/s", "write 'TFLOP/s'"),
    ("4 Tops", "op/s", "write 'Top/s'"),
    ("2 ghz", "hertz", "case matters: did you mean 'GHz'?"),
    ("2 us/B", "seconds", "did you mean 'us'?"),
])
def test_the_hint_names_the_right_unit_and_never_one_that_is_wrong_by_a_factor_of_eight(text, dimension, hint):
    assert hint in refusal(text, dimension)


@given(st.text(), st.sampled_from(sorted(FACTORS)))
def test_any_text_is_a_finite_number_or_a_users_error(text, dimension):
    try:
        value = parse_quantity(text, dimension)
    except UserError:
        return
    assert math.isfinite(value)


@given(st.from_regex(units._QUANTITY, fullmatch=True), st.sampled_from(sorted(FACTORS)))
def test_any_number_with_any_letters_is_a_finite_number_or_a_users_error(text, dimension):
    try:
        value = parse_quantity(text, dimension)
    except UserError:
        return
    assert math.isfinite(value)


PRINTED = st.floats(min_value=1e-16, max_value=1e22) | st.sampled_from(
    [10.0**power * nearly for power in range(-16, 22) for nearly in (0.9994, 0.9995, 0.9999, 1.0, 1.0001)])


@given(PRINTED, st.sampled_from(sorted(FACTORS)), st.integers(2, 12), st.sampled_from([1, -1]))
def test_a_printed_quantity_reads_back_within_the_digits_shown(size, dimension, digits, sign):
    value = sign * size
    text = format_quantity(value, dimension, digits=digits)
    # Rounding to n significant digits moves a number by at most half a unit in its n-th digit.
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=0.5 * 10.0**(1 - digits) * (1 + 1e-9), abs=0)


@given(st.floats(min_value=1e-12, max_value=9e20), st.sampled_from(sorted(FACTORS)))
def test_a_printed_quantity_is_short_and_below_a_thousand_where_a_prefix_exists(value, dimension):
    assume(dimension not in {"a plain number", "US dollars", "US dollars/hour", "seconds", "joules/byte", "joules/flop"})
    assume(value >= 1e-3 or dimension == "watts")
    text = format_quantity(value, dimension)
    assert len(text) <= 18
    assert float(text.split()[0]) < 1000


@pytest.mark.parametrize(("value", "dimension", "text"), [
    (3.35e12, "bytes/s", "3.35 TB/s"), (999.7e9, "bytes/s", "1 TB/s"), (0, "seconds", "0 s"), (4.2e-6, "seconds", "4.2 \u00b5s"),
    (0.5, "bytes", "0.5 B"), (0.5, "flop/s", "0.5 FLOP/s"), (999.7, "US dollars", "1000 USD"), (1234567, "US dollars", "1234567 USD"),
    (1e-16, "joules/byte", "0.0001 pJ/B"), (1e-20, "joules/byte", "1e-08 pJ/B"), (5000, "seconds", "5000 s"),
    (132, "a plain number", "132"), (-2e9, "hertz", "-2 GHz"), (math.inf, "bytes", "inf B"), (math.nan, "seconds", "nan s"),
])
def test_quantities_are_printed_as_people_write_them(value, dimension, text):
    assert format_quantity(value, dimension) == text
