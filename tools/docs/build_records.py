"""What ``--format json`` promises: the keys and types of every command's records, as JSON Schema.

``docs/records.schema.json`` holds them beside :data:`simkit.RECORDS_VERSION`. Programs that read simkit's records may
check them against it; a test runs :data:`RUNS` and compares. ``python -m tools.docs.build_records`` writes the file,
and refuses while the records differ from those of the version that the file states: what others read does not change
without a new number.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner

import simkit
from simkit.commands.main import main as program
from tools.docs.import_graph import REPOSITORY

SCHEMA: Final = REPOSITORY / "docs" / "records.schema.json"
RULE: Final = (
    "The records of these commands are not those of version {version}. Those who read them must be told: raise "
    "RECORDS_VERSION in simkit/__init__.py, run python -m tools.docs.build_records, and say under Changed in "
    "CHANGELOG.md which keys came, went or took another type (a name 'Records version N' stands in it): ")
TABLES: Final = {
    "attention.csv": ("system,kv_dtype,head_dim,n_q_heads,n_kv_heads,batch,kv_len,latency_us_trtllm\n"
                      "h100_sxm,bfloat16,128,64,8,32,2048,106.6\nh100_sxm,bfloat16,128,64,64,32,2048,696.7\n"
                      "unknown_chip,bfloat16,128,64,64,32,2048,696.7\n"),
    "serving.csv": ("system,model,precision,framework,isl,osl,concurrency,tp,pp,attention_dp,moe_ep,ttft_ms,tpot_ms\n"
                    "h100_sxm,meta-llama/Llama-3.1-8B-Instruct,bf16,vllm,128,16,1,1,1,1,1,20,10\n"
                    "unknown,meta-llama/Llama-3.1-8B-Instruct,bf16,vllm,128,16,1,1,1,1,1,20,10\n"),
    "accelerators.csv": ("series,chip,chips,tp,model,n_q_heads,n_kv_heads,head_dim,batch,kv_len,quantity,value\n"
                         "s,gaudi2,1,1,llama-2-7b,32,32,128,16,2048,step_s,0.012\n"
                         "s,gaudi2,1,1,llama-3-8b,32,8,128,16,2048,step_s,0.009\n"
                         "s,unknown,1,1,llama-3-8b,32,8,128,16,2048,step_s,0.009\n"),
}
# Points that fit and points that do not, chips with every figure and chips without prices, energies or kernels.
_POINTS: Final = "-A mha,gqa-8 --batch 1,64 --kv-len 4k,128k"
RUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "simulate": (f"simulate -H h100-sxm,groq-lpu,microsoft-maia100 -M llama-3-8b {_POINTS}",
                 f"simulate -H h100-sxm -M llama-3-8b {_POINTS} --chips 1",
                 "simulate -H h100-sxm -M llama-3-8b -A mha,gqa-8 --batch 1 --kv-len 4k --engine replay"),
    "attention": ("attention -H h100-sxm,groq-lpu --n-q-heads 64 --n-kv-heads 64,8 --head-dim 128 --kv-len 4k",
                  "attention -H h100-sxm --n-q-heads 64 --n-kv-heads 8 --head-dim 128 --kv-len 4k --engine replay"),
    "roofline": ("roofline -H h100-sxm,groq-lpu -M llama-3-8b -A mha,gqa-8 --batch 64 --kv-len 4k",),
    "crossover": ("crossover -H h100-sxm,groq-lpu -M llama-3-8b -A gqa-8 --below 1.2 --vary batch",
                  "crossover -H h100-sxm -M llama-3-8b -A gqa-8 --below 1.2 --vary memory.hbm.bandwidth"),
    "split": ("split -H h100-sxm:8 --ffn groq-3-lpu:256 -A gqa-8 --weight-dtype fp8 --kv-len 4k,64k,1M",
              "split -H h100-sxm:8 --ffn groq-3-lpu:256 -A gqa-8 --weight-dtype fp8 --kv-len 4k,1M --micro-batches 2 "
              "--speculation draft=llama-3.2-1b,gamma=3,acceptance=0.8"),
    "capacity": ("capacity -H h100-sxm,b200-sxm -M llama-3-8b -A mha,gqa-8 --chips 1 --kv-len 4k,1M",
                 "capacity -H h100-sxm -M llama-2-70b -A mha,gqa-8 --kv-len 4k"),
    "stack": ("stack mha gqa-8 kv=fp8 -H h100-sxm -M llama-3-8b --batch 8 --kv-len 4k",
              "stack mha gqa-8 -H groq-lpu -M llama-3-8b --batch 8 --kv-len 4k"),
    "serve": ("serve -H h100-sxm -M llama-3-8b -A mha,gqa-8 --rate 1,1000 --requests 50 --slo-tpot 0.05 --slo-ttft 1",
              "serve -H h100-sxm -M llama-3-8b --concurrency 4 --requests 20",
              "serve -H l40s -M llama-3-8b --rate 1 --requests 20 --chips 1 --ffn l40s:1 --between free --prefill "
              "h100-sxm:1 --kv-link free --prefix-cache",
              "serve -H l40s -M llama-3-8b --rate 1 --requests 1 --lengths 9/1 --chips 1 --ffn gaudi3:1 --between free "
              "--prefill l40s:1 --kv-link free --prefix-cache --kv-tier host=64GB,25GB/s,10us"),
    "plan": ("plan -H h100-sxm,gaudi2 -M llama-3-8b -A gqa-8 --against mha --rate 20 --lengths 512/50 --chips 1 "
             "--requests 100 --slo-tpot 0.02",
             "plan -H h100-sxm,sambanova-sn40l -M llama-3-8b --users 4 --lengths 512/50 --requests 100 --chips 1 "
             "--slo-tpot 0.011",
             "plan -H h100-sxm -M llama-3-8b --rate 4 --lengths 512/50 --chips 1 --requests 99 --slo-tpot 1 --front",
             "plan -H h100-sxm -M llama-3-8b --rate 4 --lengths 512/50 --chips 1 --requests 99 --slo-tpot 50ms "
             "--prefill l40s:1 --kv-link free --ffn l40s:1,groq-3-lpu:1 --between free"),
    "claims": ("claims --only mqa", "claims --only speed"),
    "profile list": ("profile list",),
    "profile show": ("profile show h100-sxm", "profile show huawei-ascend-910b"),
    "profile diff": ("profile diff h100-sxm h200-sxm", "profile diff groq-lpu h100-sxm"),
    "model list": ("model list",),
    "model show": ("model show llama-2-70b", "model show deepseek-v3"),
    "model uptrain": ("model uptrain llama-2-7b -A gqa-8 -H h100-sxm",),
    "evidence accelerators": ("evidence accelerators --data accelerators.csv",),
    "evidence forecasts": ("evidence forecasts",),
    "evidence published": ("evidence published",),
    "evidence serving": ("evidence serving --data serving.csv",),
    "evidence silicon": ("evidence silicon", "evidence silicon --data attention.csv"),
    "calibrate": ("calibrate kernels.csv --profile h100-sxm --keep matrix_efficiency",),
    "evidence dram": ("evidence dram --data dram.csv",),
}
# The first fits for a minute, the second times this machine: tests/evidence reads their records. Those of a design have
# a key for each figure that the user varies.
NOT_RUN: Final = ("evidence transfer", "evidence host", "design")


def records_schema(folder: Path) -> dict[str, Any]:
    """The schema of today's records, from :data:`RUNS` in an empty folder."""
    data = Path(simkit.__file__).parent / "evidence" / "data"
    dram = (data / "dram_reference.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    kernels = (data / "silicon_decode_attention.csv").read_text(encoding="utf-8")
    for name, text in {**TABLES, "dram.csv": "".join([dram[0], *dram[1::10]]), "kernels.csv": kernels}.items():
        (folder / name).write_text(text, encoding="utf-8")
    with contextlib.chdir(folder):
        found = {command: _schema(record for run in runs for record in _records(run)) for command, runs in RUNS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Records of simkit",
        "description": "What each command prints after --format json. A figure that cannot be known is null; numbers "
                       "are in SI units, named at the end of their keys; docs/glossary.md says what each key means.",
        "version": simkit.RECORDS_VERSION,
        "$defs": {command: {"type": "array", "items": schema} for command, schema in found.items()},
    }


def _records(run: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(program, [*shlex.split(run), "--format", "json"], catch_exceptions=False)
    if result.exit_code:
        raise RuntimeError(f"simkit {run}: {result.output}")
    records: list[dict[str, Any]] = json.loads(result.stdout)
    return records


def _schema(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Keys in their order with the types that they were seen to take; a key that is not in all records is optional."""
    types: dict[str, set[str]] = {}
    rows = list(records)
    for record in rows:
        for key, value in record.items():
            types.setdefault(key, set()).add(_type(value))
    return {
        "type": "object",
        "properties": {key: {"type": _listed(seen | {"number"} if _is_amount(key) and "integer" in seen else seen)}
                       for key, seen in types.items()},
        "required": [key for key in types if all(key in record for record in rows)],
        "additionalProperties": False,
    }


def _type(value: Any) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def _is_amount(key: str) -> bool:
    """True for bytes and flops: whole in most runs, and means over ragged lengths in others."""
    return key.endswith("_bytes") or key == "flops"


def _listed(seen: set[str]) -> str | list[str]:
    """One type, or several: a whole number is a number where fractions are too."""
    kinds = sorted(seen - {"integer"} if "number" in seen else seen)
    return kinds[0] if len(kinds) == 1 else kinds


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Commands whose records are not alike in two schemas, in the new one's order."""
    return [name for name in {**new["$defs"], **old["$defs"]} if old["$defs"].get(name) != new["$defs"].get(name)]


def renewed_text(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """The file's text. Raises :class:`RuntimeError` when records changed and their version did not."""
    changed = differing(old, new) if old else []
    if old and changed and new["version"] <= old["version"]:
        raise RuntimeError(RULE.format(version=old["version"]) + ", ".join(changed))
    spread = json.dumps(new, indent=1)
    return re.sub(r'\{\s+"type": ("\w+"|\[[^]]*\])\s+\}', lambda key: re.sub(r"\s+", " ", key[0]), spread) + "\n"


def main() -> None:
    """Write the file again."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        new = records_schema(Path(folder))
    old = json.loads(SCHEMA.read_text(encoding="utf-8")) if SCHEMA.exists() else None
    try:
        text = renewed_text(old, new)
    except RuntimeError as refusal:
        sys.exit(str(refusal))
    SCHEMA.write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
