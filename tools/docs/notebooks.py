"""Notebooks of docs/notebooks: their code cells run in one namespace, and their outputs written: ``make docs``.

No notebook server is needed: a cell's output is what it prints and what its last expression shows.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from simkit.report.drawing.export import figure_bytes
from tools.docs.import_graph import REPOSITORY

NOTEBOOKS: Final = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


def _read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def _code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(path: Path) -> list[str]:
    """The text that each code cell of the file shows."""
    return ["".join("".join(one.get("text") or one["data"]["text/plain"]) for one in cell["outputs"])
            for cell in _code(_read(path))]


def fresh(path: Path, folder: Path) -> list[str]:
    """The text that each code cell shows when it runs today, in that folder."""
    return [text for text, _ in _run(path, folder)]


def _run(path: Path, folder: Path) -> list[tuple[str, Figure | None]]:
    names: dict[str, Any] = {"__name__": "notebook"}
    with contextlib.chdir(folder):
        return [_run_cell("".join(cell["source"]), names, path.name) for cell in _code(_read(path))]


def _run_cell(code: str, names: dict[str, Any], name: str) -> tuple[str, Figure | None]:
    """What a cell prints, then what its last expression is."""
    tree, value = ast.parse(code), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        exec(compile(tree, name, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    if isinstance(value, Figure):
        return stream.getvalue() + "<Figure>", value
    return stream.getvalue() + ("" if value is None else repr(value)), None


def renew(path: Path) -> None:
    """Write the notebook with the outputs of today."""
    notebook = _read(path)
    cells = _code(notebook)
    with tempfile.TemporaryDirectory() as folder:
        for number, (cell, (text, figure)) in enumerate(zip(cells, _run(path, Path(folder)), strict=True), start=1):
            data: dict[str, Any] = {"text/plain": text.splitlines(keepends=True)}
            if figure is not None:
                figure.set_dpi(90)
                data["image/png"] = base64.b64encode(figure_bytes(figure, "png")).decode()
            cell["execution_count"] = number
            shown = {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data}
            cell["outputs"] = [shown] if text else []
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for one in NOTEBOOKS:
        renew(one)
