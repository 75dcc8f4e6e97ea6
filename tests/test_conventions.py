"""House conventions that a reader relies on: names carry units, docstrings match signatures, start-up is light.

That everything public has a docstring at all is ruff's to say (rules D1 in pyproject.toml).
"""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import RUN_TIMEOUT_S
from tests.reference_data import REPOSITORY

PACKAGE = REPOSITORY / "simkit"

# A float's name ends in one of these, alone or as a rate: bandwidth_bytes_per_s, energy_j_per_token.
UNITS = frozenset({
    "bit", "bits", "byte", "bytes", "s", "us", "hour", "hz", "j", "w", "usd",
    "flop", "flops", "op", "ops", "cycle", "cycles", "element", "elements", "token", "tokens", "mtok",
    "access", "accesses", "block", "blocks", "chip", "chips", "line", "lines", "page", "pages", "point", "points",
    "request", "requests", "row", "rows", "sequence", "sequences", "slot", "slots", "step", "steps", "unit", "units",
    "user", "users", "mm2", "inches",
})
# A name that ends in one of these says itself that it has no unit.
RATIOS = frozenset({
    "fraction", "fractions", "ratio", "ratios", "factor", "share", "percent", "probability", "quantile",
    "efficiency", "speedup", "utilization", "error", "bias",
})
# Counts that may be fractional (a mean, an expectation), under the command line's own names or the thing counted.
COUNTS = frozenset({
    "batch", "chips", "cycles", "kv_len", "matrix_least_group", "matrix_most_group", "params_active_published", "params_published", "q_len", "splits", "times", "tokens",
    "vector_most_group",
})
# Public floats without a unit whose names need no such ending, each with what it is.
DIMENSIONLESS = {
    "zipf_exponent": "the power of a rank",
    "acceptance": "the probability that a drafted token is accepted",
    "n_kv_heads": "a count; the head layouts of an axis may make an array of it",
    "point_cost": "time of a point, in points of the closed form",
    "elements": "a count; of a state's convolution a part of one for each head",
    "residual_passes": "how often a hidden state passes the memory beside a norm",
    "mha_own_batch": "a count of sequences",
    "own_batch": "a count of sequences",
    "pp": "a count of stages, which may be an array",
    "rounding": "a relative half of the last printed digit",
    "routing_passes": "how often a mixture's rows pass the memory to be dealt out",
    "tp": "a count of chips, fractional on statically scheduled machines",
    "axis": "knots of a table that is read between them, in any unit",
    "below": "the ratio that an advantage is compared with",
    "bits": "the width of a number format is its name",
    "budget": "these layers' share of an eviction rule's kept tokens",
    "bytes_at": "when and how many bytes moved: columns of a timeline",
    "claimed": "a claim's figure, in the unit given beside it",
    "central": "the middle of a range, in the SI unit of its parameter",
    "correlation": "a coefficient from -1 to 1",
    "events": "rows of a timeline",
    "fast": "as central: one end of a range",
    "first": "one of two columns that are ranked against each other, in any unit",
    "found": "as claimed",
    "gap_cv": "a coefficient of variation",
    "initializer_range": "a checkpoint's own key: the standard deviation of its initial weights",
    "least": "a bound in the unit of the quantity that is checked against it",
    "minimum": "as least",
    "most": "as least",
    "native_8bit": "1 where a library has such kernels, 0 elsewhere",
    "norm_epsilon": "a checkpoint's own number, added to a mean square",
    "ours": "a figure of our own beside a published one, in its unit",
    "own_value": "as start",
    "parameter": "a request pattern's own number: a count, a size or a share, as the pattern says",
    "published": "a paper's figure, in the unit given beside it",
    "score": "a published quality score on its benchmark's own scale",
    "second": "as first",
    "series": "columns of a timeline",
    "slow": "as fast",
    "spans": "rows of a timeline",
    "sequences": "rows of the event loop's columns", "handed": "such rows", "sent": "rows of caches on the way",
    "tiers": "rows of figures, each named in serving/state.py",
    "stalls": "columns of a timeline, one a cause",
    "start": "one end of a quantity that varies, in the SI unit of its dimension",
    "stop": "as start",
    "table": "values at the knots of its axes, in any unit",
    "threshold": "as below",
    "tolerance": "a share of the figure that it is about",
    "value": "a number whose unit is given beside it",
    "write_high_mark": "a share of the write queue's entries",
    "write_low_mark": "as write_high_mark",
}
# Under simkit/report only: positions and sizes on the page, in the figure's points or data coordinates.
PAGE_GEOMETRY = frozenset({"gap", "high", "low", "offset", "size", "x", "y"})
# The number format that a figure is for may stand after its unit: vector_elements_per_cycle_8bit.
FORMAT_SUFFIX = re.compile(r"(_native)?_8bit$")
START_UP_HEAVY = frozenset({
    "numpy", "matplotlib", "scipy", "numba", "pydantic", "rich", "jinja2",
    "dask", "distributed", "pyarrow", "safetensors",
})


@dataclass(frozen=True, kw_only=True)
class PublicFloat:
    """A parameter or field that holds floating-point numbers, and where it stands."""

    name: str
    where: str


def is_public(name: str) -> bool:
    return not name.startswith("_")


@cache
def trees() -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in sorted(PACKAGE.rglob("*.py"))
    }


def public_definitions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions, classes, and the public methods inside them."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_public(node.name):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def holds_floats(annotation: ast.expr | None) -> bool:
    """True for float and float arrays; containers (dict, tuple, Callable) are judged by what they are named for."""
    text = ast.unparse(annotation).strip("'\"") if annotation else ""
    alternatives = [part.strip() for part in text.split("|")]
    return any(
        part in {"float", "FloatArray", "Floats"} or re.fullmatch(r"(np\.|npt\.)?NDArray\[np\.float\w+\]", part)
        for part in alternatives
    )


def public_floats() -> Iterator[PublicFloat]:
    for path, tree in trees().items():
        for node in public_definitions(tree.body):
            if isinstance(node, ast.ClassDef):
                named = [
                    (item.target.id, item.annotation, item.lineno)
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                ]
            else:
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                named = [(argument.arg, argument.annotation, argument.lineno) for argument in arguments]
            for name, annotation, line in named:
                on_the_page = name in PAGE_GEOMETRY and "report" in path.relative_to(PACKAGE).parts
                if is_public(name) and holds_floats(annotation) and not on_the_page:
                    yield PublicFloat(name=name, where=f"{path.relative_to(REPOSITORY)}:{line}")


def says_its_unit(name: str) -> bool:
    """
    >>> [says_its_unit(name) for name in ("bandwidth_bytes_per_s", "achieved_fraction", "flop_per_byte")]
    [True, True, True]
    >>> [says_its_unit(name) for name in ("bandwidth", "time", "bw", "s")]
    [False, False, False, False]
    """
    if name in DIMENSIONLESS or name in COUNTS:
        return True
    words = FORMAT_SUFFIX.sub("", name).split("_")
    if words[-1] in RATIOS or "_fraction_of_" in name:
        return True
    if len(words) > 2 and words[-2] == "per":
        return words[-3] in UNITS and words[-1] in UNITS
    return len(words) > 1 and words[-1] in UNITS


def test_every_public_float_ends_in_its_unit_or_is_known_to_have_none() -> None:
    nameless = [f"{item.where}: {item.name}" for item in public_floats() if not says_its_unit(item.name)]
    assert not nameless, "\n".join(["end in a unit, or list in DIMENSIONLESS with what it is:", *nameless])


@pytest.mark.parametrize("name", ["bandwidth_bytes_per_s", "latency_s", "energy_j_per_token", "achieved_fraction",
                                  "vector_elements_per_cycle_8bit", "setup_ratio_native_8bit"])
def test_names_with_units_are_recognised(name: str) -> None:
    assert says_its_unit(name)


@pytest.mark.parametrize("name", ["bandwidth", "time", "s", "bw_per_thing", "capacity_gb", "latency_ns", "rate_8bit"])
def test_names_without_si_units_are_refused(name: str) -> None:
    assert not says_its_unit(name)


def documented_parameters(docstring: str) -> list[str] | None:
    """The names in a docstring's underlined Parameters section, in order; None where it has no such section."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+$|\Z)", docstring, flags=re.MULTILINE | re.DOTALL)
    if section is None:
        return None
    names: list[str] = []
    for line in section[1].splitlines():
        if re.match(r"(Raises|Returns|Source|Valid for)\b", line):  # the house's one-line sections
            break
        entry = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*) ?(?::|$)", line)
        if entry:
            names += [name.strip().lstrip("*") for name in entry[1].split(",")]
    return names


def signature_of(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """The parameters that a caller writes: a function's, a class's __init__, or a dataclass's fields."""
    if isinstance(node, ast.ClassDef):
        constructors = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        if not constructors:
            fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
            return [field.id for field in fields if isinstance(field, ast.Name) and is_public(field.id)]
        node = constructors[0]
    arguments = [*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg]
    return [argument.arg for argument in arguments if argument and argument.arg not in {"self", "cls"}]


def test_a_docstring_s_parameters_are_the_signature_s_in_the_same_order() -> None:
    differing = []
    for path, tree in trees().items():
        for node in public_definitions(tree.body):
            documented = documented_parameters(ast.get_docstring(node) or "")
            if documented is not None and documented != signature_of(node):
                place = f"{path.relative_to(REPOSITORY)}:{node.lineno}: {node.name}"
                differing.append(f"{place}: documented {documented}, takes {signature_of(node)}")
    assert not differing, "\n".join(differing)


@pytest.mark.parametrize("ending", ["Returns\n        -------\n        bytes: [B, S].", "Returns: bytes, [B, S].", ""])
def test_the_docstring_reader_reads_the_house_form(ending: str) -> None:
    docstring = inspect.cleandoc(
        """Bytes of keys and values.

        Parameters
        ----------
        batch, context_tokens: counts, arrays that broadcast:
            for instance [B, 1] and [1, S].
        bytes_per_element: in bytes.

        {ending}
        """.replace("{ending}", ending)
    )
    assert documented_parameters(docstring) == ["batch", "context_tokens", "bytes_per_element"]
    assert documented_parameters("Bytes of keys and values.") is None


def modules_loaded_by(*arguments: str, folder: Path) -> list[str]:
    """Everything that a Python process imports, from its own import log."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=folder, capture_output=True, encoding="utf-8", check=True, timeout=RUN_TIMEOUT_S,
    )
    lines = [line for line in process.stderr.splitlines() if line.startswith("import time:")]
    return [line.rsplit("|", 1)[1].strip() for line in lines]


def packages(modules: list[str]) -> set[str]:
    """Their top-level names."""
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize(
    "arguments",
    [("-c", "import simkit"), ("-m", "simkit", "--help"), ("-m", "simkit", "--version")],
    ids=["import simkit", "simkit --help", "simkit --version"],
)
def test_start_up_loads_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    loaded = modules_loaded_by(*arguments, folder=tmp_path)
    assert "simkit" in packages(loaded)
    assert not packages(loaded) & START_UP_HEAVY
    assert len(loaded) < 200  # 114 with help on Python 3.11, the interpreter's own included; benchmarks/bench_start.py times it


def test_one_point_loads_what_it_needs_and_little_more(tmp_path: Path) -> None:
    """Imports are nearly all the time that a process of one point takes: benchmarks/bench_start.py."""
    libraries = modules_loaded_by("-c", "import numpy, pydantic, yaml, click, json", folder=tmp_path)
    loaded = modules_loaded_by("-m", "simkit", "simulate", "-A", "gqa-8", "--format", "json", folder=tmp_path)
    assert not packages(loaded) & (START_UP_HEAVY - {"numpy", "pydantic"})
    own = [module for module in loaded if module.startswith("simkit")]
    assert len(own) < 105  # of more than 200: one road to a point
    assert len(set(loaded) - set(libraries) - set(own)) < 200


def test_the_root_script_is_the_same_program(run_cli: Callable[..., object], tmp_path: Path) -> None:
    by_script = subprocess.run(
        [sys.executable, str(REPOSITORY / "cli.py"), "--version"],
        cwd=tmp_path, capture_output=True, encoding="utf-8", check=True, timeout=RUN_TIMEOUT_S,
    )
    by_module = run_cli("--version")
    assert by_script.stdout == by_module.stdout
