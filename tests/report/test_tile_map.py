"""The map of tiles: what is drawn is the mapping that was timed, and lies on the chip."""

import pytest

from simkit.foundation.errors import UserError
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.style import chip_styles
from simkit.report.figures import tile_map
from simkit.study.study_file import load_study


@pytest.fixture(scope="module")
def figure():
    study = load_study("heads_on_tiles")
    return tile_map.draw(FigureContext(request=study.figures[0], styles=chip_styles(study.hardware, {})))


def test_heads_lie_in_their_region_and_do_not_overlap(figure):
    for row in figure.rows:
        groups = tile_map._groups(row)
        assert groups
        assert all(x + w <= row["along"] and y + h <= row["across"] for x, y, w, h in groups)
        assert len({(x, y) for x, y, *_ in groups}) == len(groups)
        assert all(w * h >= row["token_ways"] * row["dim_ways"] for *_, w, h in groups)
        assert row["along"] <= 750
        assert row["across"] <= 994


def test_a_head_that_more_query_heads_share_lies_on_more_tiles_and_says_so(figure):
    tiles = {row["attention"]: row["token_ways"] * row["dim_ways"] for row in figure.rows}
    assert tiles["mha"] <= tiles["gqa-8"] <= tiles["mqa"]
    slowest = max(figure.rows, key=lambda row: row["attention_s_a_layer"])
    assert slowest["attention"] == "mqa"
    assert "with MQA" in figure.finding
    assert "128×128" in "".join(text.get_text() for axes in figure.figure.axes for text in [axes.xaxis.label])


def test_a_chip_without_tiles_is_refused_with_what_to_do():
    study = load_study("gqa_on_asics")
    request = study.figures[0]
    with pytest.raises(UserError, match="states a fabric"):
        tile_map.draw(FigureContext(request=request, styles=chip_styles(study.hardware, {})))
