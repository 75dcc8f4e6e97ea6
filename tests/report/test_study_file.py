"""A study file says what it wants in the command line's words, and mistakes are answered at their line."""

from pathlib import Path

import pytest

from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import load_yaml, parse_yaml
from simkit.study.study_file import DEFAULT_STUDY, list_studies, load_study, study_from_yaml
from tests.report.conftest import STUDY


def changed(old: str, new: str) -> str:
    assert old in STUDY
    return STUDY.replace(old, new)


def fault_of(text: str) -> str:
    with pytest.raises(UserError) as caught:
        study_from_yaml(parse_yaml(text, file="s.yaml"))
    return str(caught.value)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


def test_every_shipped_study_loads() -> None:
    assert DEFAULT_STUDY in list_studies()
    drawn = [name for name, path in list_studies().items() if "figures" in load_yaml(path).data]
    assert len(drawn) >= 8
    for name in drawn:
        assert load_study(name).name == name


def test_a_list_of_claims_is_sent_to_its_own_command() -> None:
    assert "simkit claims" in fault_of("schema_version: 1\nname: said\nclaims: []\n")


def test_axes_are_written_as_on_the_command_line(study) -> None:
    assert study.batch == (1, 32)
    assert study.kv_len == (1024, 4096, 16384)
    assert study.focus_kv_len == 4096


def test_a_figure_takes_the_study_s_values_unless_it_names_its_own(study) -> None:
    roofline, heatmap = study.figures[0], study.figures[4]
    assert [chip.name for chip in roofline.hardware] == ["h100-sxm", "groq-lpu", "sambanova-sn40l", "l40s"]
    assert [chip.name for chip in heatmap.hardware] == ["h100-sxm", "groq-lpu"]
    assert roofline.batch == (1, 32)
    assert heatmap.batch == (1, 4, 16)
    assert study.figures[5].name == "capacity"


def test_a_label_calls_a_chip_as_the_study_does_or_as_its_profile_does(tmp_path: Path) -> None:
    mine = tmp_path / "my chip.yaml"
    mine.write_text("schema_version: 1\nname: h100-at-8\nextends: h100-sxm\n", encoding="utf-8")
    for called in (f'"{mine}"', "h100-at-8"):
        text = changed("hardware: [h100-sxm, groq-lpu, sambanova-sn40l, l40s]", f'hardware: ["{mine}", groq-lpu]')
        text = text.replace("labels: {h100-sxm: H100,", f"labels: {{{called}: Mine, h100-sxm: H100,")
        study = study_from_yaml(parse_yaml(text, file="s.yaml"))  # h100-sxm stands under a figure only
        assert [study.label(chip) for chip in study.hardware] == ["Mine", "Groq <i>LPU</i>"]
        assert study.label(study.figures[3].hardware[0]) == "H100"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("groq-lpu, sambanova", "grok-lpu, sambanova", "did you mean 'groq-lpu'?"),
        ("models: [llama-2-70b]", "models: [llama-2-71b]", "did you mean 'llama-2-7b'"),
        ("layouts: [mha, gqa-8, mqa]", "layouts: [mha, gqa-7, mqa]", "7 KV heads do not divide the 64 query heads"),
        ("assumptions: [", "asumptions: [", "did you mean 'assumptions'?"),
        ("batch: [1, 32]", "batch: [0, 32]", "0 is below 1"),
        ("kv_len: 1k..16k*4", "kv_len: 16k..1k*4", "stop >= start"),
        ("focus: {batch: 32, kv_len: 4k}", "focus: {batch: '1,2', kv_len: 4k}", "expected one value"),
        ("kind: grouping_law", "kind: grouping_lore", "did you mean 'grouping_law'?"),
        ("{kind: grouping_law, beside: replay}", "kind: roofline", "a second figure called 'roofline'"),
        ("labels: {h100-sxm: H100,", "labels: {h200-sxm: H100,", "did you mean 'h100-sxm'?"),
        ("name: capacity", "name: ../capacity", "is not a name"),
        ("reducers: [mha, gqa-8, kv=fp8]", "reducers: [mha, kvv=fp8]", "unknown reducer 'kvv=fp8'"),
        ("{kind: grouping_law, beside: replay}", "{kind: grouping_law, reducers: [mha]}",
         "only a stacking figure has reducers"),
        ("layouts: [mha, gqa-8, mqa]", "layouts: [gqa-8, mqa]", "expected mha and another layout"),
        ("{kind: serving_goodput, hardware: [h100-sxm]}",
         "{kind: serving_goodput, layouts: [mha, gqa-32, gqa-16, gqa-8, gqa-4, mqa]}",
         "6 layouts in the figure serving_goodput: it tells 5 apart"),
        ("name: small", "name: small\nkv_dtype: bf61", "unknown KV dtype 'bf61'"),
        ("name: small", "name: small\nengine: rooflien", "did you mean 'roofline'?"),
    ],
)
def test_a_mistake_is_named_at_its_line_with_what_to_write(old: str, new: str, said: str) -> None:
    text = changed(old, new)
    fault = fault_of(text)
    assert said in fault
    assert fault.startswith("s.yaml:")
    assert "\n" not in fault


def test_the_line_in_the_message_is_the_line_in_the_file() -> None:
    text = changed("models: [llama-2-70b]", "models: [llama-2-71b]")
    assert fault_of(text).startswith(f"s.yaml:{line_of(text, 'llama-2-71b')}:")


def test_a_grid_too_large_for_a_report_is_refused() -> None:
    text = changed("batch: [1, 32]", "batch: 1..100000+1")
    assert "too many for a report" in fault_of(text)


def test_wrong_names_are_told_together() -> None:
    text = STUDY.replace("models: [llama-2-70b]", "models: [llama-2-70bb]").replace("hardware: [h100-sxm, groq-lpu,",
                                                                                  "hardware: [h100, groq,", 1)
    text = text.replace("layouts: [mha, gqa-8, mqa]", "layouts: [MHA, gqa-8, mqa]", 1)
    with pytest.raises(UserError) as told:
        study_from_yaml(parse_yaml(text, file="s.yaml"))
    said = str(told.value)
    for part in ("hardware.0", "hardware.1", "models.0", "layouts.0", "small letters", "did you mean 'llama-2-70b'"):
        assert part in said
    assert all(line.startswith("s.yaml:") for line in said.splitlines())
