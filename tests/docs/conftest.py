"""Commands of the pages and of the records' schema that put all published figures beside the engines do so once."""

from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from simkit.evidence import published
from tests.evidence import compared


@pytest.fixture(scope="package", autouse=True)
def published_once() -> Iterator[None]:
    whole = published.compare

    @wraps(whole)
    def compare(data: Path | None = None, *, only: str | None = None) -> list[dict[str, Any]]:
        if data is not None:
            return whole(data, only=only)
        return [dict(record) for name, record in compared.published().items() if name.startswith(only or "")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "compare", compare)
        yield
