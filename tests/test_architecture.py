"""The tree is the architecture: what may import what, read from the source without running it."""

import sys
import tomllib
from itertools import chain

import pytest

from tests.reference_data import REPOSITORY
from tools.docs.import_graph import PACKAGE, imports, internal_imports, modules, room_of, rooms

# Imports point down this list and never up; rooms side by side do not know each other.
LAYERS = (
    {"foundation"},
    {"model.kinds"},
    {"model", "hardware"},
    {"hardware.lint", "step"},
    {"timing"},
    {"roofline", "replay.dram", "spatial"},
    {"replay"},
    {"study"},
    {"sweep", "serving", "claims"},
    {"evidence", "evidence.silicon"},
    {"evidence.host", "evidence.accelerators"},
    {"report.drawing"},
    {"report.figures"},
    {"report"},
    {"commands"},
    {"simkit"},
)
MOST_ROOMS = 24  # folders with code, the public face among them
# Installed only with an extra: a top-level import would break the plain installation.
EXTRAS = {"dask", "distributed", "pyarrow", "safetensors"}
# Too slow for `import simkit` and `simkit --help`; physics modules may have NumPy at their top.
SLOW = {"matplotlib", "numba", "pydantic", "rich", "scipy", *EXTRAS}
# What import names are called where they are declared.
DISTRIBUTIONS = {"pydantic_core": "pydantic", "yaml": "pyyaml"}
LONGEST_MODULE_LINES = 400


def layer_of(module: str) -> int:
    return next(height for height, rooms in enumerate(LAYERS) if room_of(module) in rooms)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Every circle that a depth-first walk closes, as the path that closes it."""
    closed: list[list[str]] = []
    finished: set[str] = set()

    def walk(node: str, path: list[str]) -> None:
        if node in path:
            closed.append([*path[path.index(node) :], node])
            return
        if node in finished:
            return
        for following in sorted(edges.get(node, ())):
            walk(following, [*path, node])
        finished.add(node)

    for start in sorted(edges):
        walk(start, [])
    return closed


def test_the_reader_sees_the_package() -> None:
    assert len(modules()) > 20
    assert any(item.target == "simkit.foundation.errors" for item in imports())


def test_every_folder_has_its_place_in_the_layers() -> None:
    placed = set().union(*LAYERS)
    assert set(rooms()) <= placed, f"say in LAYERS which layer these belong to: {sorted(set(rooms()) - placed)}"


def test_there_are_no_more_rooms_than_one_can_know() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert len(folders) <= MOST_ROOMS, sorted(map(str, folders))


def test_the_root_holds_the_public_face_alone() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


def test_imports_point_down_and_never_up() -> None:
    upward = [
        str(item)
        for item in internal_imports()
        if item.target != "simkit" and layer_of(item.importer) < layer_of(item.target)
    ]
    assert not upward, "\n".join(upward)


def test_rooms_side_by_side_do_not_know_each_other() -> None:
    crossing = [
        str(item)
        for item in internal_imports()
        if room_of(item.importer) != room_of(item.target) and layer_of(item.importer) == layer_of(item.target)
    ]
    assert not crossing, "\n".join(crossing)


def test_only_the_version_is_read_from_the_package_root() -> None:
    # `from simkit import load_hardware` inside simkit would be a circle through the public face.
    through_root = [
        str(item)
        for item in internal_imports()
        if item.target == "simkit" and item.name != "__version__" and not item.importer.startswith("simkit.commands")
    ]
    assert not through_root, "\n".join(through_root)


def test_the_two_engines_do_not_know_each_other() -> None:
    engines = {"roofline", "replay"}
    crossing = [
        str(item)
        for item in internal_imports()
        if {room_of(item.importer), room_of(item.target)} == engines
    ]
    assert not crossing, "\n".join(crossing)


def test_no_module_imports_itself_through_others() -> None:
    edges: dict[str, set[str]] = {}
    for item in internal_imports():
        if item.target != "simkit" and item.importer != "simkit":
            edges.setdefault(item.importer, set()).add(item.target)
    found = [" -> ".join(circle) for circle in circles(edges)]
    assert not found, "\n".join(found)


def test_no_folder_imports_itself_through_others() -> None:
    found = [" -> ".join(circle) for circle in circles({room: set(below) for room, below in rooms().items()})]
    assert not found, "\n".join(found)


def test_the_circle_finder_finds_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []


def test_extras_are_imported_only_where_they_are_used() -> None:
    eager = [str(item) for item in imports() if item.at_import_time and item.target.split(".")[0] in EXTRAS]
    assert not eager, "\n".join(eager)


def test_the_program_s_entry_reaches_nothing_slow_at_import_time() -> None:
    """Follow what runs on `import simkit.commands.main` by the source alone; the process is tested as well."""
    eager: dict[str, set[str]] = {}
    for item in imports():
        if item.at_import_time:
            # Importing a.b.c runs a and a.b first.
            parts = item.target.split(".")
            eager.setdefault(item.importer, set()).update(".".join(parts[: n + 1]) for n in range(len(parts)))
    for name in ("simkit", "simkit.commands.main"):
        reached, waiting = set(), [name, "simkit"]
        while waiting:
            module = waiting.pop()
            if module not in reached:
                reached.add(module)
                waiting += eager.get(module, ())
        assert not reached & (SLOW | {"numpy"}), f"{name} reaches {sorted(reached & (SLOW | {'numpy'}))}"


def test_every_imported_distribution_is_declared() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {requirement.split(">")[0].split("=")[0].split("[")[0].strip().lower() for requirement in requirements}
    imported = {item.target.split(".")[0] for item in imports()} - set(sys.stdlib_module_names) - {"simkit"}
    undeclared = {DISTRIBUTIONS.get(name, name) for name in imported} - declared
    assert not undeclared, f"add to pyproject.toml: {sorted(undeclared)}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_no_module_does_two_jobs_by_its_length(module: str) -> None:
    lines = len(modules()[module].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE_LINES, f"{module} has {lines} lines: what second job does it do?"
