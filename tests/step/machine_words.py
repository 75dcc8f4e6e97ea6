"""Words of a workload for tests: tp, pp and sharding named flat."""

from typing import Any

from simkit.step.machine import Machine


def machine_words(words: dict[str, Any]) -> dict[str, Any]:
    """The words with the machine that their ``tp``, ``pp`` and ``sharding`` name."""
    rest = {name: value for name, value in words.items() if name not in {"tp", "pp", "sharding"}}
    return rest | {"machine": Machine.split(tp=words.get("tp", 1), pp=words.get("pp", 1), mapping=words.get("sharding", "heads"))}
