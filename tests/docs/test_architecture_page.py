"""The picture of the architecture is that of today's imports, and has a box and an arrow for each."""

import re
import xml.etree.ElementTree as ET
from functools import cache

from tools.docs.build_architecture import LETTER, PICTURE, modules_of, picture, rows
from tools.docs.import_graph import internal_imports, room_of, rooms, steps

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_in_the_documentation_is_that_of_the_imports():
    assert PICTURE.read_text(encoding="utf-8") == picture(), "make docs"


def test_every_import_between_rooms_is_an_arrow_or_a_way_of_arrows():
    @cache
    def reached(room):
        return {room}.union(*(reached(below) for below in steps()[room]))

    for item in internal_imports():
        ends = room_of(item.importer), room_of(item.target)
        if not any(room.startswith("simkit") for room in ends):
            assert ends[1] in reached(ends[0]), str(item)


def test_no_arrow_could_be_left_out_and_none_is_made_up():
    for room, below in steps().items():
        assert below <= rooms()[room]
        assert not [one for one in below for other in below - {one} if one in rooms()[other]]


def test_every_room_has_a_box_that_its_words_fit_in_and_arrows_point_down():
    drawing = ET.fromstring(picture())
    boxes = [box for box in drawing.iter(f"{SVG}rect") if box.get("rx")]
    arrows = list(drawing.iter(f"{SVG}line"))
    assert len(boxes) == len(rooms()) == sum(map(len, rows()))
    assert len(arrows) == sum(map(len, steps().values()))
    assert all(float(arrow.get("y2")) > float(arrow.get("y1")) for arrow in arrows)
    for text in drawing.iter(f"{SVG}text"):
        x, y = float(text.get("x")), float(text.get("y"))
        inside = [box for box in boxes if float(box.get("x")) <= x <= float(box.get("x")) + float(box.get("width"))
                  and float(box.get("y")) < y < float(box.get("y")) + float(box.get("height"))]
        assert len(inside) == 1, text.text
        if text.get("text-anchor") is None and text.get("font-weight") is None:
            assert x + LETTER * len(text.text) <= float(inside[0].get("x")) + float(inside[0].get("width")), text.text


def test_modules_are_counted_by_their_files():
    counted = dict(re.findall(r">(\w+)/</text><text[^>]*>(\d+) modules<", picture()))
    assert {room: int(count) for room, count in counted.items()} == {
        room: len(modules_of(room)) for room in rooms() if room != "foundation"}
