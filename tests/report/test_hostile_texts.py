"""A study and a profile whose every text is markup, a formula or a formula of mathematics: the report shows them as texts."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from simkit.hardware.catalog import load_hardware
from simkit.report.build import build_report
from simkit.study.study_file import load_study

MARKUP = """</title></style></script></svg>--><script>alert(1)</script><img src=x onerror=alert(2)>"' onload=x {{ 7*7191 }} $\\\\frac{$ ]]>"""
FORMULA = "=HYPERLINK(1)"
STUDY = """
schema_version: 1
name: hostile
title: '{markup}'
question: '{markup}'
text: ['{markup}']
assumptions: ['{markup}']
hardware: [chip, h100-sxm]
labels: {{chip: '<b onclick=x>$x^{{-->'}}
models: [./model.yaml]
layouts: [mha, mqa]
batch: 1
kv_len: 1k
focus: {{batch: 1, kv_len: 1k}}
figures:
  - {{kind: roofline, title: '{markup}', note: '{markup}'}}
  - {{kind: step_breakdown, title: '{markup}'}}
"""


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    quoted = MARKUP.replace("'", "''")
    chip = Path(load_hardware("tpu-v5e").file).read_text(encoding="utf-8")
    for key, text in (("name", "chip"), ("title", f"'{quoted}'"), ("vendor", f"'{FORMULA}'")):
        chip = re.sub(rf"(?m)^{key}:.*$", lambda _, key=key, text=text: f"{key}: {text}", chip)
    chip = re.sub(r"(?m)^aliases:.*\n", "", chip)
    chip += f"notes: ['{quoted}']\n" if "\nnotes:" not in chip else ""
    chip = re.sub(r"source: [a-z0-9_-]+", lambda _: f'source: "javascript:alert(3)//{FORMULA}"', chip, count=3)
    (folder / "chip.yaml").write_text(chip, encoding="utf-8")
    (folder / "model.yaml").write_text(
        f"schema_version: 1\nname: model\ntitle: '{quoted}'\nlayers: 2\nhidden_size: 1024\nvocab_size: 1000\nsource: '{quoted}'\n"
        "attention: {n_q_heads: 8, n_kv_heads: 8, head_dim: 128}\nmlp: {size: 4096, gated: true}\n", encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY.format(markup=quoted), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build_report(load_study("study.yaml", profiles=folder), folder / "out", command=f"simkit report {MARKUP}")
    return folder / "out"


class _Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_no_text_becomes_an_element_an_attribute_or_a_script(page_folder):
    page = _Elements()
    page.feed((page_folder / "index.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.found].count("script") == 3  # the page's own: tables, the explorer and its data
    assert not {"img", "iframe", "object", "embed", "base", "meta refresh"} & {tag for tag, _ in page.found}
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on") or "action" in name], (tag, attributes)
        assert not str(attributes.get("href", "")).lower().startswith("javascript"), attributes
    assert page.found[-1][0] in ("script", "p", "pre")  # nothing ended the page before its end
    assert "{{ 7*7191 }}" in (page_folder / "index.html").read_text(encoding="utf-8")
    assert "50337" not in (page_folder / "index.html").read_text(encoding="utf-8")


def test_figures_are_whole_xml_without_scripts(page_folder):
    figures = sorted((page_folder / "figures").glob("*.svg"))
    assert len(figures) == 2
    for path in figures:
        for element in ET.fromstring(path.read_text(encoding="utf-8")).iter():
            assert not element.tag.lower().endswith(("script", "foreignobject", "image")), element.tag
            assert not [name for name in element.attrib if name.rpartition("}")[2].startswith("on")]


def test_no_cell_of_the_data_is_run_by_a_spreadsheet(page_folder):
    tables = sorted(page_folder.rglob("*.csv"))
    assert len(tables) == 3
    for path in tables:
        for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")):
            for cell in row:
                number = re.fullmatch(r"-?[0-9.]+(e[+-]?\d+)?", cell)
                assert number or not cell.lstrip().startswith(("=", "+", "-", "@")), cell


def test_nothing_is_written_beside_the_report(page_folder):
    assert sorted(path.name for path in page_folder.parent.iterdir()) == ["chip.yaml", "model.yaml", "out", "study.yaml"]
