"""``simkit profile new NAME`` without ``--like``: questions on a terminal, wrong answers put again, a profile at the end."""

import pytest
import yaml

from simkit.hardware.catalog import load_hardware

TWO_LEVELS = [
    "Chip of mine", "us", "asic",  # title, vendor, kind
    "64", "tile", "1.5 GHz",
    "400 TFLOP/s", "", "800 TFLOP/s", "",  # bf16, fp16, fp8, int8
    "16", "",  # tile rows, vector peak
    "sram", "sram", "chip", "256 MiB", "40 TB/s", "20 ns", "",
    "hbm", "dram", "chip", "48 GB", "2 TB/s", "300 ns", "0.9", "5 pJ/bit", "HBM3e",
    "",  # no third level
    "8 x 10", "noc", "", "256", "", "", "4", "",  # tiles, topology, start; port, step; link, hop, addition
    "200 GB/s", "ring of ours", "ring", "1 us", "8",
    "tensor", "8",
    "300 W", "40 W", "0.5 pJ/FLOP", "", "whiteboard: Tuesday, 4 o'clock", "estimate",
]


@pytest.fixture
def answer(cli, monkeypatch):
    monkeypatch.setattr("simkit.commands.profile._on_a_terminal", lambda: True)
    return lambda answers, *words: cli("profile", "new", "mine", *words, stdin="\n".join(answers) + "\n")


def test_answers_become_a_profile_that_loads_with_every_figure_sourced(answer, cli, tmp_path):
    result = answer(TWO_LEVELS)
    assert result.exit_code == 0, result.stderr
    chip = load_hardware(tmp_path / "mine.yaml")
    assert (chip.name, chip.title, chip.vendor, chip.kind) == ("mine", "Chip of mine", "us", "asic")
    assert chip.compute.matrix_peak_flop_per_s == {"bf16": 400e12, "fp8": 800e12}
    assert (chip.compute.units, chip.compute.clock_hz, chip.compute.matrix_tile_rows) == (64, 1.5e9, 16)
    sram, hbm = chip.memory
    assert (sram.capacity_bytes, sram.bandwidth_bytes_per_s, sram.latency_s) == (256 * 2**20, 40e12, pytest.approx(20e-9))
    assert (hbm.capacity_bytes, hbm.achievable_fraction, hbm.dram.type) == (48e9, 0.9, "HBM3e")
    assert hbm.energy_j_per_byte == pytest.approx(40e-12)
    assert (chip.fabric.sides, chip.fabric.topology, chip.fabric.start_cycles) == ((8, 10), "noc", None)
    assert (chip.fabric.tile.port_bytes_per_cycle, chip.fabric.link.hop_cycles) == (256, 4)
    assert (chip.scale_up.topology, chip.scale_up.max_chips, chip.max_chips) == ("ring", 8, 8)
    assert (chip.power.tdp_w, chip.power.idle_w, chip.price.usd_per_hour) == (300, 40, None)
    assert chip.provenance["memory.hbm.bandwidth"].source == "whiteboard: Tuesday, 4 o'clock"
    checked = cli("profile", "check", "mine.yaml")
    assert checked.exit_code == 0, checked.stdout
    assert "no source" not in checked.stdout
    assert cli("simulate", "-H", "mine.yaml", "-M", "llama-2-7b").exit_code == 0


def test_the_file_says_what_each_key_means_and_what_is_not_known(answer, tmp_path):
    answer(TWO_LEVELS)
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert "# Vendor peak for reads.\n    bandwidth: {value: 2 TB/s, source: answers, confidence: estimate}" in text
    assert "# per_hour" not in text  # a section of which nothing is known is left out
    assert "# vector_peak: not known" in text
    assert yaml.safe_load(text)["memory"]["hbm"]["capacity"]["value"] == "48 GB"


def test_a_wrong_answer_is_told_as_a_file_s_would_be_and_asked_again(answer, tmp_path):
    answers = list(TWO_LEVELS)
    answers[answers.index("2 TB/s")] = "2 Tb/s\n2000\n2 TBps\n2 TB/s"
    answers[answers.index("asic")] = "gpx\nasic"
    answers[answers.index("64")] = "many\n0\n64"
    result = answer(answers)
    assert result.exit_code == 0, result.stderr
    for words in ("divide by 8 and write 'TB/s'", "2000 has no unit", "did you mean 'TB/s'", "did you mean 'gpu'",
                  "is not a whole number", "0 is out of range"):
        assert words in result.stderr
    assert load_hardware(tmp_path / "mine.yaml").memory[1].bandwidth_bytes_per_s == 2e12


def test_levels_are_asked_for_until_weights_have_a_home_and_have_names_of_their_own(answer, tmp_path):
    answers = list(TWO_LEVELS)
    first = answers.index("sram")
    answers[first:first + 7] = ["sram", "sram", "unit", "256 KiB", "100 GB/s", "", "", "", "sram"]
    result = answer(answers)
    assert result.exit_code == 0, result.stderr
    assert "no level yet in which weights and cache could live" in result.stderr
    assert "there is a level 'sram' already" in result.stderr
    assert [level.scope for level in load_hardware(tmp_path / "mine.yaml").memory] == ["unit", "chip"]


def test_the_least_that_may_be_known_is_enough(answer, tmp_path):
    result = answer(["", "us", "", "1", "", "", "", "", "", "", "1 PFLOP/s", "", "", "", "", "",
                     "", "sram", "", "", "1 GB", "", "", "", "", "", "", "", "", "", "", "", ""])
    assert result.exit_code == 0, result.stderr
    assert "At least one matrix rate is needed." in result.stderr
    chip = load_hardware(tmp_path / "mine.yaml")
    assert chip.missing == ("memory.sram.bandwidth",)
    assert (chip.title, chip.kind, chip.scale_up, chip.power.tdp_w) == ("mine", "asic", None, None)


def test_a_title_may_hold_what_yaml_would_take_for_its_own(answer, tmp_path):
    for title in ("no", "12", "a: b # c", 'say "x"', "{curly}", "µ & co"):
        assert answer([title, *TWO_LEVELS[1:]], "--force").exit_code == 0
        assert load_hardware(tmp_path / "mine.yaml").title == title


def test_a_question_with_few_answers_names_them(answer):
    asked = answer(TWO_LEVELS).stderr
    for question, words in (("kind (", ("gpu", "asic", "tpu", "cpu")), ("type (", ("HBM3e", "GDDR7", "LPDDR5X")),
                            ("link topology (", ("switch", "ring", "torus", "mesh", "all-to-all"))):
        text = asked[asked.index(question):]
        assert all(word in text[: text.index(")")] for word in words), text[:200]


def test_without_a_terminal_a_profile_to_start_from_must_be_named(cli, tmp_path):
    result = cli("profile", "new", "mine", stdin="\n")
    assert result.exit_code == 2
    assert "questions need a terminal" in result.stderr
    assert "--like h100-sxm" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_asked_for_a_file_that_exists_or_a_name_that_none_may_have(answer, cli, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("", encoding="utf-8")
    assert "Title" not in answer([]).stderr
    assert answer([]).exit_code == 2
    refused = cli("profile", "new", "a b", stdin="\n")
    assert refused.exit_code == 2
    assert "title" not in refused.stderr


def test_leaving_off_in_the_middle_writes_nothing(answer, tmp_path):
    assert answer(TWO_LEVELS[:10]).exit_code != 0
    assert list(tmp_path.iterdir()) == []
