"""YAML with its traps closed: what is read, where it stood, and that no bytes bring anything but a user's error."""

import os
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import MAX_FILE_BYTES, dotted, load_yaml, parse_yaml, read_scalar
from tests.work import work_below


def refusal(text):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, file="f.yaml")
    return str(caught.value)


def test_plain_yaml_reads_as_people_mean_it():
    # PyYAML reads these as the text "1e12", False, True, 750 (base 60), 8 (octal) and a date.
    text = "a: 1e12\nb: no\nc: on\nd: 12:30\ne: 010\nf: 2024-01-01\n"
    assert parse_yaml(text, file="f").data == {
        "a": 1e12, "b": "no", "c": "on", "d": "12:30", "e": 10, "f": "2024-01-01"}


@pytest.mark.parametrize(("text", "value"), [
    ("8", 8), ("-8", -8), ("+8", 8), ("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("1e12", 1e12), ("1.5E-3", 1.5e-3), ("true", True),
    ("false", False), ("null", None), ("~", None), ("", None), ("True", "True"), ("yes", "yes"), ("nan", "nan"), (".nan", ".nan"),
    (".inf", ".inf"), ("0x10", "0x10"), ("0o7", "0o7"), ("1_000", "1_000"), ("1e", "1e"), ("e5", "e5"), ("1.2.3", "1.2.3"),
    ("\u0663", "\u0663"), ("9" * 18, 10**18 - 1), ("9" * 19, "9" * 19), ("8 TB/s", "8 TB/s"), ("-", "-"), ("1e9999", "1e9999"),
])
def test_a_scalar_is_a_number_a_word_or_its_text(text, value):
    read = read_scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_quotes_make_any_scalar_a_text():
    assert parse_yaml("a: '8'\nb: \"true\"\nc: |\n  5\nd: ''\n", file="f").data == {
        "a": "8", "b": "true", "c": "5\n", "d": ""}


def test_every_key_and_item_keeps_its_line_and_column():
    source = parse_yaml("a: 1\nb:\n  c: [x, y]\n", file="f.yaml")
    assert str(source.locate(["a"])) == "f.yaml:1:1: a"
    assert str(source.locate(["b", "c"])) == "f.yaml:3:3: b.c"
    assert str(source.locate(["b", "c", 1])) == "f.yaml:3:10: b.c.1"


def test_the_place_of_a_missing_key_is_that_of_its_section():
    assert str(parse_yaml("a: 1\nb:\n  c: 2\n", file="f").locate(["b", "d", "e"])) == "f:2:1: b.d.e"


def test_a_key_path_is_written_as_after_set():
    assert dotted(("memory", "hbm", 0)) == "memory.hbm.0"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_are_counted_the_same_on_every_system(line_end):
    source = parse_yaml(line_end.join(["a: 1", "# x", "b: 2", ""]), file="f")
    assert source.data == {"a": 1, "b": 2}
    assert source.locate(["b"]).line == 3


def test_a_second_key_of_one_name_is_refused_with_the_place_of_both():
    assert refusal("a: 1\nb:\n  c: 1\n  c: 2\n") == "f.yaml:4:3: b.c: 'c' stands here a second time (first on line 3)"
    assert "a second time" in refusal("1: a\n'1': b\n")


@pytest.mark.parametrize("text", ["a: &x 1", "&x a: 1", "a: *x", "a: &x [1]\nb: *x", "<<: *x", "&a {b: 1}"])
def test_anchors_and_aliases_are_refused(text):
    assert "anchors and aliases (&, *) are not read here" in refusal(text)


@pytest.mark.parametrize("text", [
    "a: !!python/object/apply:os.system ['echo']", "a: !!int '5'", "a: !x 5", "a: ! 5", "!!map {a: 1}", "a: !!binary aGk=",
    "%TAG ! tag:example.com,2000:\n---\na: !x 5", "!!str a: 1", "a: !<tag:yaml.org,2002:python/name:os.system> x",
])
def test_tags_are_refused(text):
    assert "are not read here" in refusal(text)


def test_an_alias_bomb_costs_nothing():
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 50))
    assert "f.yaml:1:5" in refusal(bomb)


@pytest.mark.parametrize("text", ["[" * 50_000, "{" * 50_000, "- " * 50_000, "? " * 50_000, "a: " + "[" * 99 + "]" * 99,
                                  "{a: " * 50_000, "\n".join(" " * i + "a:" for i in range(500))],
                         ids=["brackets", "braces", "items", "questions", "closed", "maps", "indents"])
def test_deep_nesting_is_refused_and_does_not_exhaust_the_stack(text):
    assert "nested deeper than 30 levels" in refusal(text)


BIG = {
    "keys": "".join(f"k{i}: 1\n" for i in range(6_000)), "items": "a:\n" + "- 1\n" * 20_000, "flow": "a: [" + "1," * 30_000 + "]",
    "words": "a: " + "x " * 100_000, "folded": "a: " + "x\n " * 60_000, "quoted": 'a: "' + "\\n" * 100_000 + '"',
    "comments": "#\n" * 100_000, "colons": ":" * 200_000, "questions in braces": "{" + "?," * 20_000, "line ends": "\n" * 200_000,
    "spaces": " " * 200_000 + "a: 1", "tag": "a: !" + "x" * 200_000, "key": "x" * 200_000 + ": 1", "anchor": "a: &" + "x" * 200_000,
    "documents": "---\n" * 50_000, "one key again and again": "a: 1\n" * 10_000, "block": "a: |\n" + " x\n" * 60_000,
    "quotes": '"' * 200_000, "percents": "%" * 200_000, "tabs": "\t" * 200_000, "dashes": "-" * 200_000,
}


@pytest.mark.parametrize("text", BIG.values(), ids=BIG)
def test_a_big_file_takes_work_in_proportion_to_its_size(text):
    try:
        with work_below(10 * len(text)):  # calls of functions: at most 2.9 a character today
            parse_yaml(text, file="f.yaml")
    except UserError as error:
        assert len(str(error)) < 400  # noqa: PT017 - either outcome is right; what is said must be short


def test_a_file_too_big_is_refused_without_reading_it_all(tmp_path):
    file = tmp_path / "big.yaml"
    with file.open("wb") as stream:
        stream.truncate(10**12)  # sparse: a terabyte that takes no room
    with pytest.raises(UserError, match=rf"big\.yaml: larger than {MAX_FILE_BYTES:,} bytes"):
        load_yaml(file)


def test_a_missing_file_a_folder_and_an_unreadable_file_are_said_to_be_that(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot read: Is a directory"):
        load_yaml(tmp_path)
    with pytest.raises(UserError, match="cannot read: File name too long"):
        load_yaml(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match="cannot read"):
        load_yaml("a\0b")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    with pytest.raises(UserError, match="cannot read: Too many levels of symbolic links"):
        load_yaml(tmp_path / "loop.yaml")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="the superuser reads every file")
def test_a_file_without_permission_is_said_to_be_that(tmp_path):
    file = tmp_path / "secret.yaml"
    file.write_text("a: 1\n", encoding="utf-8")
    file.chmod(0)
    with pytest.raises(UserError, match="cannot read: Permission denied"):
        load_yaml(file)


def test_a_symbolic_link_is_read_as_its_file(tmp_path):
    (tmp_path / "real.yaml").write_text("a: 1\n", encoding="utf-8")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "real.yaml")
    assert load_yaml(tmp_path / "link.yaml").data == {"a": 1}


@pytest.mark.parametrize(("raw", "message"), [
    (b"a: 1\nb: \xff\n", r"bytes\.yaml:2: not UTF-8 text"),
    ("a: 1\n".encode("utf-16"), r"bytes\.yaml:1: not UTF-8 text"),
    (b"a: 1\nb: \x00\n", r"bytes\.yaml:2: a character that text files do not hold \(code 0\)"),
    (b"a: 1\r\nb: \x1b[31m\r\n", r"bytes\.yaml:2: a character that text files do not hold \(code 27\)"),
    (b"", r"bytes\.yaml: the file is empty"), (b"# only a comment\n", r"bytes\.yaml: the file is empty"),
    (b"\xef\xbb\xbf", r"bytes\.yaml: the file is empty"),
])
def test_bytes_that_are_no_text_are_refused_at_their_line(tmp_path, raw, message):
    (tmp_path / "bytes.yaml").write_bytes(raw)
    with pytest.raises(UserError, match=message):
        load_yaml(tmp_path / "bytes.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_yaml(tmp_path / "bom.yaml").data == {"a": 1}


WORDS = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=8)
DOCUMENTS = st.dictionaries(WORDS, st.recursive(
    WORDS | st.integers(-10**17, 10**17) | st.booleans() | st.none()
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12), min_size=1)


@given(DOCUMENTS, st.sampled_from([True, False, None]))
def test_what_yaml_writes_is_read_back(document, flow):
    text = yaml.safe_dump(document, default_flow_style=flow)
    assert parse_yaml(text, file="f").data == document


@given(DOCUMENTS)
def test_every_key_is_found_at_the_line_and_column_where_it_stands(document):
    text = yaml.safe_dump(document)
    lines = text.split("\n")
    source = parse_yaml(text, file="f")
    for path, (line, column) in source.places.items():
        if path and isinstance(path[-1], str):
            assert lines[line - 1][column - 1:].lstrip("'\"? ").startswith(path[-1])


@given(DOCUMENTS, st.booleans())
def test_both_parsers_of_pyyaml_give_the_same_values_at_the_same_places(document, flow):
    text = yaml.safe_dump(document, default_flow_style=flow)
    fast = parse_yaml(text, file="f")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "__with_libyaml__", False)
        plain = parse_yaml(text, file="f")
    assert (fast.data, fast.places) == (plain.data, plain.places)


PIECES = st.sampled_from([
    "a", "b: 1", ": ", "- ", "? ", "\n", "  ", "\t", "{", "}", "[", "]", ",", "'", '"', "|", ">", "|-", "&a ", "*a", "!x ", "!!", "!<",
    "%YAML 1.1\n", "%YAML 9\n", "%TAG ! x\n", "---\n", "...\n", "#", "<<: ", "\r", "\0", "\ufeff", "\u2028", "\x85", "\\", "\\x", "\\u12",
    "\ud800", "@", "`", "1e999", ".nan", "\x1b[31m", "\U0001f600", "~", "=", "<<", "1:2", "0b1"])


@given(st.text() | st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_a_mapping_or_a_users_error(text):
    try:
        source = parse_yaml(text, file="f.yaml")
    except UserError as error:
        assert str(error).startswith("f.yaml")  # noqa: PT017 - either outcome is right
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        return
    assert isinstance(source.data, dict)


@given(st.binary() | st.lists(PIECES, max_size=20).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_mapping_or_a_users_error(tmp_path_factory, raw):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(raw)
    try:
        assert isinstance(load_yaml(file).data, dict)
    except UserError as error:
        assert str(error).startswith(str(file))  # noqa: PT017 - either outcome is right; what is said must name the file
