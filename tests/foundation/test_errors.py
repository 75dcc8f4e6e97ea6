"""The one error of a user's mistake: where it points, what it says, and that nothing in a file can bend it."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simkit.foundation import errors
from simkit.foundation.errors import (
    MAX_SHOWN_ERRORS,
    Location,
    UserError,
    UserErrorGroup,
    did_you_mean,
    raise_collected,
    shorten,
    shown,
)

PLACE = Location(file="chip.yaml", line=8, column=5, key="memory.hbm.bandwith")


def test_an_error_is_place_message_and_hint_in_the_form_that_editors_and_ci_parse():
    error = UserError("unknown key", where=PLACE, hint="did you mean 'bandwidth'?")
    assert str(error) == "chip.yaml:8:5: memory.hbm.bandwith: unknown key; did you mean 'bandwidth'?"


@pytest.mark.parametrize(("where", "text"), [
    (Location(file="a.yaml"), "a.yaml"),
    (Location(file="a.yaml", line=3), "a.yaml:3"),
    (Location(file="a.yaml", line=3, column=7), "a.yaml:3:7"),
    (Location(file="--set", key="power.tdp"), "--set: power.tdp"),
])
def test_a_location_shows_what_it_knows(where, text):
    assert str(where) == text


def test_an_error_without_a_place_is_its_message():
    assert str(UserError("no such file")) == "no such file"


@given(st.text(), st.text(), st.text())
def test_an_error_is_one_printable_line_whatever_stood_in_the_file(message, key, file):
    said = str(UserError(message, where=Location(file=file, line=1, key=key), hint=message))
    assert said.isprintable()
    said.encode("utf-8")  # a lone surrogate would raise here and at the terminal


def test_a_key_of_any_length_is_cut():
    assert len(str(UserError("unknown key", where=Location(file="a.yaml", key="x" * 10_000)))) < 200


def test_several_errors_are_one_line_each_and_are_one_user_error():
    with pytest.raises(UserError) as caught:
        raise_collected([UserError("first", where=PLACE), UserError("second")])
    assert str(caught.value).splitlines() == ["chip.yaml:8:5: memory.hbm.bandwith: first", "second"]
    assert caught.value.where == PLACE


def test_one_collected_error_is_itself_and_none_is_nothing():
    raise_collected([])
    with pytest.raises(UserError) as caught:
        raise_collected([UserError("only")])
    assert not isinstance(caught.value, UserErrorGroup)


def test_many_errors_are_cut_and_counted():
    lines = str(UserErrorGroup([UserError("wrong")] * (MAX_SHOWN_ERRORS + 1234))).splitlines()
    assert len(lines) == MAX_SHOWN_ERRORS + 1
    assert lines[-1] == "... and 1,234 more"


@pytest.mark.parametrize("error", [
    UserError("unknown key", where=PLACE, hint="did you mean 'bandwidth'?"),
    UserErrorGroup([UserError("first", where=PLACE), UserError("second", hint="write it")]),
], ids=["one", "group"])
def test_an_error_comes_whole_out_of_a_worker_process(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.message, copy.where, copy.hint) == (str(error), error.message, error.where, error.hint)


CHIPS = ["a100-sxm-80gb", "h100-sxm", "b200-sxm", "l40s", "mi300x", "tpu-v5e", "groq-lpu", "cerebras-wse-3",
         "sambanova-sn40l", "d-matrix-corsair", "h200-sxm", "gh200", "gaudi-3"]


@pytest.mark.parametrize(("typed", "meant"), [
    ("h100", "h100-sxm"), ("H100-SXM", "h100-sxm"), ("h100_sxm", "h100-sxm"), ("h100sxm", "h100-sxm"),
    ("h10-sxm", "h100-sxm"), ("a100", "a100-sxm-80gb"), ("mi300", "mi300x"), ("lpu", "groq-lpu"),
    ("wse3", "cerebras-wse-3"), ("WSE", "cerebras-wse-3"), ("cerebras", "cerebras-wse-3"), ("corsair", "d-matrix-corsair"),
    ("sn40", "sambanova-sn40l"), ("tpuv5e", "tpu-v5e"), ("grok-lpu", "groq-lpu"),
])
def test_the_nearest_known_name_is_offered(typed, meant):
    hint = did_you_mean(typed, CHIPS)
    assert hint is not None
    assert hint.startswith("did you mean ")
    assert f"'{meant}'" in hint


@pytest.mark.parametrize("typed", ["qqqq", "x", "", "-", "42 is the answer"])
def test_no_name_is_offered_when_none_is_near(typed):
    assert did_you_mean(typed, CHIPS) is None


def test_a_short_list_is_shown_when_no_name_is_near():
    assert did_you_mean("qqqq", ["smem", "l2", "hbm"]) == "known: hbm, l2, smem"
    assert did_you_mean("qqqq", []) is None


def test_of_an_absurdly_long_name_only_the_beginning_is_compared(monkeypatch):
    compared = []
    nearest = errors.difflib.get_close_matches
    monkeypatch.setattr(errors.difflib, "get_close_matches",
                        lambda name, *given, **options: compared.append(name) or nearest(name, *given, **options))
    did_you_mean("h100" * 1_000_000, CHIPS * 10)
    assert [len(name) <= 200 for name in compared] == [True]


@pytest.mark.parametrize(("value", "text"), [
    (None, "an empty value"), ("", "an empty value"), (True, "true"), (False, "false"), (8, "8"), (0.5, "0.5"),
    ("8 GBs", "'8 GBs'"), ([1], "a list"), ({"a": 1}, "a section of keys"), (10**5000, "the number given"),
    (-10**5000, "the number given"), ("x" * 41, "'" + "x" * 37 + "...'"), ("\x1b[31m\n", r"'\x1b[31m\n'"),
], ids=lambda value: None if isinstance(value, str) else type(value).__name__)
def test_a_value_is_shown_as_its_author_knows_it(value, text):
    assert shown(value) == text


@given(st.text(), st.integers(3, 100))
def test_a_shortened_text_is_never_longer_and_short_ones_stay(text, most):
    assert len(shorten(text, most)) <= most
    assert len(text) > most or shorten(text, most) == text
