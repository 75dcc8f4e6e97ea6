"""One report for all tests of this folder: a small study over chips of every kind, built once a session."""

from functools import partial
from pathlib import Path

import pytest

from simkit.foundation.yaml_source import parse_yaml
from simkit.report import build
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.figures import prefix_worth, serving_goodput
from simkit.report.figures.registry import FIGURES
from simkit.study.study_file import Study, study_from_yaml
from tests.conftest import RUN_TIMEOUT_S
from tests.report.browser import CHROMIUM

collect_ignore = [] if CHROMIUM else ["test_page_browser.py", "test_explore_browser.py"]

STUDY = """
schema_version: 1
name: small
title: "A <b>small</b> study & its title"
question: Does the page say what the records say?
text: ["Text with <script>alert(1)</script> in it."]
assumptions: ["An assumption with \\"quotes\\"."]
hardware: [h100-sxm, groq-lpu, sambanova-sn40l, l40s]
labels: {h100-sxm: H100, groq-lpu: "Groq <i>LPU</i>"}
models: [llama-2-70b]
layouts: [mha, gqa-8, mqa]
batch: [1, 32]
kv_len: 1k..16k*4
focus: {batch: 32, kv_len: 4k}
figures:
  - kind: roofline
  - {kind: grouping_law, beside: replay}
  - kind: separate_causes
  - {kind: step_breakdown, hardware: [h100-sxm, groq-lpu], note: "A note of <u>one's</u> own."}
  - {kind: advantage_heatmap, hardware: [h100-sxm, groq-lpu], batch: "1..16*4"}
  - {kind: kv_capacity, name: capacity, kv_len: "1k..256k*4"}
  - kind: bandwidth_scaling
  - kind: concurrent_users
  - kind: both_metrics
  - kind: energy_cost
  - kind: tp_replication
  - {kind: quality_speed, hardware: [h100-sxm]}
  - {kind: stall_breakdown, hardware: [h100-sxm, groq-lpu]}
  - {kind: replay_against_roofline, hardware: [h100-sxm, groq-lpu]}
  - {kind: serving_goodput, hardware: [h100-sxm]}
  - {kind: stacking, hardware: [h100-sxm, groq-lpu], reducers: [mha, gqa-8, kv=fp8]}
  - kind: advantage_against_measured
  - kind: predicted_against_measured
  - kind: error_by_regime
  - kind: published_figures
  - {kind: attention_atlas, hardware: [groq-lpu]}
  - {kind: scattered_rows, hardware: [l40s, groq-lpu], kv_len: "2k..128k*8"}
  - {kind: tile_map, hardware: [groq-lpu, sambanova-sn40l], engine: spatial}
  - {kind: head_copies, hardware: [groq-lpu], engine: spatial}
  - {kind: kv_head_cost, beside: replay}
  - {kind: prefix_worth, hardware: [h100-sxm]}
  - {kind: access_pattern, hardware: [h100-sxm, groq-lpu]}
  - {kind: split_machines, hardware: [h100-sxm], ffn: ["groq-3-lpu:256"], between: "400GB/s,2us", chips: 8,
     batch: [1, 16], kv_len: "1k..64k*8", weight_dtype: fp8}
"""


TINY = """
schema_version: 1
name: tiny
title: One figure
question: Are its files handled with care?
hardware: [h100-sxm]
models: [llama-3-8b]
layouts: [mha, gqa-8]
batch: 1
kv_len: 1k
focus: {batch: 1, kv_len: 1k}
figures: [{kind: kv_capacity, kv_len: "1k,4k"}]
"""


@pytest.fixture(scope="session")
def tiny() -> Study:
    return study_from_yaml(parse_yaml(TINY, file="tiny.yaml"))


@pytest.fixture(scope="session")
def study() -> Study:
    return study_from_yaml(parse_yaml(STUDY, file="small.yaml"))


@pytest.fixture(scope="session")
def built(study, tmp_path_factory) -> tuple[Path, dict[str, DrawnFigure]]:
    """The folder of the finished report, and its figures as they were drawn, by name."""
    folder, drawn = tmp_path_factory.mktemp("reports") / "small", {}

    def kept(kind: str, context: FigureContext) -> DrawnFigure:
        drawn[context.request.name] = FIGURES[kind](context)
        return drawn[context.request.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "FIGURES", {kind: partial(kept, kind) for kind in FIGURES})
        patch.setattr(serving_goodput, "REQUESTS", 200)  # thousands make smooth curves, and half a minute
        patch.setattr(serving_goodput, "FILLS", 0)
        patch.setattr(prefix_worth, "REQUESTS", 200)
        patch.setattr(prefix_worth, "BEGINNINGS", (1, 4, 16))
        build.build_report(study, folder, command="simkit report small.yaml")
    return folder, drawn


@pytest.fixture(scope="session")
def report(built) -> Path:
    """The folder of the finished report."""
    return built[0]


@pytest.fixture(scope="session")
def drawn(built) -> dict[str, DrawnFigure]:
    """The figures of the report by name."""
    return built[1]


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox needs rights that containers rarely give; the page is our own file.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"],
                                              timeout=1000 * RUN_TIMEOUT_S)
        yield running
        running.close()


@pytest.fixture
def opened(browser, report):
    """``opened(width, scheme)``: the page, offline, with everything that the console said."""
    contexts = []

    def open_page(width: int = 1280, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        context.set_default_timeout(1000 * RUN_TIMEOUT_S)
        contexts.append(context)
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
        page.goto((report / "index.html").as_uri())
        page.said = said
        return page

    yield open_page
    for context in contexts:
        context.close()
