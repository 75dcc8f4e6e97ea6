"""What a newcomer installs: pinned, complete, of one version, and free of any one machine's addresses."""

import re
import tomllib
from itertools import chain

import pytest

import simkit
from tests.reference_data import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=~!; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_locked_requirement_is_exact_and_hashed() -> None:
    entries = [entry for entry in re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n", "", LOCK)) if entry.strip()]
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_every_declared_requirement_is_locked() -> None:
    locked = {distribution(line) for line in LOCK.splitlines() if re.match(r"[\w.-]+==", line)}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {
        distribution(requirement)
        for requirement in [*PROJECT["project"]["dependencies"], *chain(*extras.values())]
    } - {"simkit"}
    assert wanted <= locked, f"run make lock: {sorted(wanted - locked)}"


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml", "Makefile", ".ci/run"])
def test_set_up_names_no_package_host(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert not re.search(r"https?://|index-url|find-links", text)


def test_the_build_backend_is_pinned_and_locked_alike() -> None:
    (backend,) = PROJECT["build-system"]["requires"]
    assert re.fullmatch(r"hatchling==[\d.]+", backend)
    assert f"\n{backend} " in LOCK, "make lock: the offline editable install builds with the locked backend"


def test_one_version_everywhere() -> None:
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "simkit/__init__.py"
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {simkit.__version__}\n" in citation


def test_the_licence_is_apache_2() -> None:
    licence = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


@pytest.mark.parametrize("folder", ["hardware_profiles", "workloads"])
def test_the_wheel_carries_the_catalogue_where_resources_looks_for_it(folder: str) -> None:
    from simkit.foundation.resources import shipped_folder

    packed = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert packed[folder] == f"simkit/_data/{folder}"
    assert shipped_folder(folder).is_dir()
