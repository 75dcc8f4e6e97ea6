"""Loading model architectures by name or path."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from simkit.foundation.named_files import Fault, find_file, read_all, user_folders
from simkit.foundation.yaml_source import load_yaml
from simkit.model.architecture import ModelArchitecture
from simkit.model.schema import model_from_yaml

KIND: Final = "workloads/models"
VARIABLE: Final = "SIMKIT_MODELS"


def load_model(name_or_path: str | Path, *, models: Path | str | None = None) -> ModelArchitecture:
    """Load one architecture by catalogue name (``llama-2-70b``) or path.

    Parameters: models: a folder searched before the catalogue. Raises :class:`UserError` naming file, line, key.
    """
    folders = user_folders(models, VARIABLE)
    return model_from_yaml(load_yaml(find_file(str(name_or_path), kind=KIND, what="model", folders=folders)))


def list_models(models: Path | str | None = None, fault: Fault = None) -> list[ModelArchitecture]:
    """Every architecture of the catalogue and of the user's folders, by name.

    ``fault`` is given the error of a file that cannot be read, which is left out; None: it is raised.
    """
    return read_all(KIND, user_folders(models, VARIABLE), lambda path: model_from_yaml(load_yaml(path)), fault)
