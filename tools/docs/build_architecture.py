"""The architecture's picture and table, drawn from the imports: ``make docs``.

A room is a folder under ``simkit/``; it stands as high as the longest way down from it. An arrow is an import that no
way round through other rooms implies.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Final

from tools.docs.import_graph import PACKAGE, height, modules, room_of, rooms, steps
from tools.docs.reference_tables import markdown_table

PICTURE: Final = PACKAGE.parent / "docs" / "figures" / "architecture.svg"
PAPER, INK, SOFT_INK, EDGE, FILL = "#ffffff", "#1a1a1a", "#555555", "#0b62a4", "#eaf1f8"
WIDTH, MARGIN, GAP, BETWEEN_ROWS, LINE = 720, 14, 18, 26, 14
LETTER: Final = 6.15  # of the small text: what a line of a box may hold before it would leave it


def purpose(room: str) -> str:
    """The first sentence of a room's own docstring."""
    return _first_line(f"simkit.{room}")


def _first_line(module: str) -> str:
    text = ast.get_docstring(ast.parse(modules()[module].read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "")


def modules_of(room: str) -> list[str]:
    """Modules of a room, those that only mark a folder left out."""
    return [name for name, path in modules().items()
            if name.startswith("simkit.") and room_of(name) == room and path.name != "__init__.py"]


def rows() -> list[list[str]]:
    """Rooms of equal height side by side, from the top down."""
    heights = {room: height(room) for room in rooms()}
    levels = range(max(heights.values()), -1, -1)
    return [sorted(room for room in heights if heights[room] == level) for level in levels]


def picture() -> str:
    """The SVG: a box a room, with its purpose and how many modules it has, and arrows to what it imports."""
    boxes: dict[str, _Box] = {}
    y = MARGIN
    for row in rows():
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) // len(row)
        texts = [list(_wrapped(purpose(room).rstrip("."), width - 20)) for room in row]
        height_of_row = 14 + LINE * (1 + max(map(len, texts)))
        for place, (room, lines) in enumerate(zip(row, texts, strict=True)):
            boxes[room] = _Box(x=MARGIN + place * (width + GAP), y=y, width=width, height=height_of_row, lines=lines)
        y += height_of_row + BETWEEN_ROWS
    total = y - BETWEEN_ROWS + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
        f'font-family="Helvetica, Arial, sans-serif" role="img" aria-label="{escape(_in_words())}">',
        f'<rect width="{WIDTH}" height="{total}" fill="{PAPER}"/>',
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{EDGE}"/></marker></defs>']
    lines += [_arrow(boxes[room], boxes[below]) for room in boxes for below in sorted(steps()[room])]
    lines += [_drawn(room, box) for room, box in boxes.items()]
    return "\n".join([*lines, "</svg>"]) + "\n"


@dataclass(frozen=True, kw_only=True)
class _Box:
    """Where a room stands in the picture, in pixels, and the lines of its purpose."""

    x: int
    y: int
    width: int
    height: int
    lines: list[str]


def _drawn(room: str, box: _Box) -> str:
    def text(x: int, y: int, words: str, style: str) -> str:
        return f'<text x="{x}" y="{y}" {style}>{escape(words)}</text>'

    heading = f"{room.replace(chr(46), chr(47))}/"
    left, right, first = box.x + 10, box.x + box.width - 10, box.y + 18
    texts = [text(left, first, heading, f'font-size="13" font-weight="bold" fill="{INK}"'),
             text(right, first, f"{len(modules_of(room))} module{'s' * (len(modules_of(room)) > 1)}",
                  f'font-size="11" text-anchor="end" fill="{SOFT_INK}"')]
    texts += [text(left, first + LINE * number, line, f'font-size="11" fill="{INK}"')
              for number, line in enumerate(box.lines, start=1)]
    return (f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="4" fill="{FILL}" '
            f'stroke="{EDGE}"/>' + "".join(texts))


def _wrapped(text: str, width: float) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and LETTER * len(f"{line} {word}") > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def _arrow(upper: _Box, lower: _Box) -> str:
    """From the foot of one box to the head of another, at the middle of the narrower."""
    narrower = min(upper, lower, key=lambda box: box.width)
    x = narrower.x + narrower.width // 2
    return (f'<line x1="{x}" y1="{upper.y + upper.height}" x2="{x}" y2="{lower.y - 1}" stroke="{EDGE}" '
            f'stroke-width="1.5" marker-end="url(#head)"/>')


def _in_words() -> str:
    return "; ".join(f"{room} imports {', '.join(sorted(below))}" for room, below in sorted(steps().items()) if below)


def rooms_table() -> str:
    """Every room from the top down: what it is for, and all that it imports from."""
    names = [room for row in rows() for room in row]
    return markdown_table(
        ["folder", "what it does", "imports from"],
        ([f"`simkit/{room.replace(chr(46), chr(47))}/`", purpose(room),
          ", ".join(f"`{below}`" for below in names if below in rooms()[room]) or "nothing of simkit's"]
         for room in names))


def modules_table() -> str:
    """Every module in the order of the rooms, with the first sentence of its docstring."""
    return markdown_table(["module", "what it does"], (
        [f"`{module.removeprefix('simkit.').replace('.', '/')}.py`", _first_line(module).replace("|", "\\|")]
        for row in rows() for room in row for module in modules_of(room)))


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(picture(), encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
