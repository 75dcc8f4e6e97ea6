"""A checkpoint to convert."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.model.checkpoints import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """``checkpoint(n_kv, tensors=..., shards=...)`` writes a source folder."""
    return partial(write_checkpoint, tmp_path / "source")
