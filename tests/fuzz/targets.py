"""One target a reader: bytes in, and only a result or a :class:`UserError` may come out.

The same functions serve the coverage-guided runs (``run.py``), the generators of ``test_generated.py`` and the corpus
that runs in every test run (``test_corpus.py``). A target hands the bytes to the reader as its file, its text or its
words on the command line, and follows what was read as far as the program would before it computes.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from simkit.claims.tested_claims import claims_from_yaml
from simkit.evidence import dram, served_models
from simkit.evidence.accelerators import forecasts
from simkit.evidence.accelerators import table as accelerators
from simkit.evidence.published_table import read_published
from simkit.evidence.silicon.tables import parse_table
from simkit.foundation.axis_syntax import parse_axis, split_names
from simkit.foundation.errors import UserError
from simkit.foundation.output import csv_text, json_text
from simkit.foundation.units import dimensions, format_quantity, parse_quantity
from simkit.foundation.yaml_source import YamlSource, load_yaml
from simkit.hardware.catalog import load_hardware, parse_overrides
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.inherit import ProfileSource, resolve
from simkit.hardware.lint import lint
from simkit.model.attention import parse_layout_name
from simkit.model.checkpoint import open_checkpoint
from simkit.model.import_config import import_config
from simkit.model.json_source import parse_json
from simkit.model.kv_cache import parse_cache_formats, parse_eviction, parse_format, parse_lengths
from simkit.model.schema import model_from_yaml
from simkit.model.tensor_files import read_entries
from simkit.report.build import _read_manifest as read_report_manifest
from simkit.serving import generate
from simkit.serving.runtime import _runtime as runtime_from_yaml
from simkit.serving.serve import parse_tiers
from simkit.serving.traces import read_trace
from simkit.step.expert_load import parse_expert_load
from simkit.step.sharding import parse_attention_sharding
from simkit.step.workload import parse_cache_order, parse_kernel
from simkit.study.designs import read_axis
from simkit.study.point import decode_step
from simkit.study.pool_words import parse_between, parse_kept, split_count
from simkit.study.replay_cache import _read as read_cache_entry
from simkit.study.replay_cache import _seal as seal
from simkit.study.scenario import parse_ownership
from simkit.study.speculation import parse_speculation
from simkit.study.stacking import parse_stack
from simkit.study.study_file import study_from_yaml
from simkit.study.workload_file import load_workload
from simkit.sweep import sweep_run
from simkit.sweep.part_plan import changes
from tests.fuzz.first_inputs import (
    CONFIGS,
    FABRICS,
    LISTS,
    PARTS,
    PHRASES,
    QUANTITIES,
    RANGES,
    SETTINGS,
    TILES,
    dram_seeds,
    files,
    heads,
    listed,
    papers,
    prefixed,
    tensor_seeds,
    tiny_checkpoint,
)

TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parent
CORPUS = Path(__file__).resolve().parent / "corpus"
Read = Callable[[bytes, Path], Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader under test: ``read`` takes bytes and an empty folder of its own; ``seeds`` are right and wrong inputs."""

    name: str
    read: Read
    seeds: Callable[[], Iterable[bytes]]
    longest: int = 4096
    words: tuple[str, ...] = ()


def outcome(target: Target, data: bytes, folder: Path) -> str:
    """``read`` or ``refused``; whatever else the reader does is raised, an unfit message included."""
    try:
        target.read(data, folder)
    except UserError as error:
        assert_fit_for_a_terminal(str(error))
        return "refused"
    return "read"


def assert_fit_for_a_terminal(message: str) -> None:
    """A message is of few lines of bounded length, and has no character that could steer a terminal."""
    lines = message.split("\n")
    assert len(lines) <= 21, f"{len(lines)} lines"
    for line in lines:
        assert line.isprintable(), ascii(line)
        assert len(line) <= 2500, len(line)


def words_of(data: bytes) -> str:
    """Text as it comes from a command line: bytes that are not UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def text_of(data: bytes) -> str:
    """Text as it comes out of a decoded file."""
    return data.decode("utf-8", "replace")


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# --- quantities, lists, words -------------------------------------------------------------------------------------

def _units(data: bytes, folder: Path) -> None:
    names = dimensions()
    dimension = names[data[0] % len(names)] if data else names[0]
    value = parse_quantity(words_of(data[1:]), dimension)
    shown = format_quantity(value, dimension)
    assert shown.isprintable()
    parse_quantity(shown, dimension)  # what is printed can be read back


def _axis(data: bytes, folder: Path) -> None:
    kind, text = (data[0] if data else 0), words_of(data[1:])
    split_names(text)
    values = parse_axis(text, minimum=(1, 0, None)[kind % 3], whole=kind % 2 == 0)
    assert 0 < len(values) <= 1_000_000
    assert all(abs(value) <= 2.0**53 for value in values)


_WORDS: tuple[Callable[[str], Any], ...] = (
    parse_eviction, parse_lengths, parse_speculation, parse_layout_name, parse_format, parse_cache_formats,
    parse_kernel, parse_attention_sharding, lambda text: parse_stack(split_names(text)),
    lambda text: parse_eviction("streaming:4+60", tuple(parse_axis(text, minimum=None, whole=False))),
    parse_between, parse_kept, split_count, parse_ownership, parse_cache_order, parse_expert_load, generate.parse_lengths,
    generate.parse_arrivals, generate.parse_shared_prefix, lambda text: parse_tiers(text.split(";")),
)


def _mini(data: bytes, folder: Path) -> None:
    _WORDS[(data[0] if data else 0) % len(_WORDS)](words_of(data[1:]))


def _csv_cells(data: bytes, folder: Path) -> None:
    text = text_of(data)
    written = csv_text([{"name": text, "time_s": -1.5}, {"name": None, "time_s": None}])
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert [len(row) for row in rows] == [2, 2, 2], rows
    assert rows[1][1] == "-1.5"
    assert not re.match(r"[\s\x00-\x20]*[=+\-@\uff1d\uff0b\uff0d\uff20]", rows[1][0]), ascii(rows[1][0])
    assert not any((char < " " and char != "\t") or char == "\x7f" for char in rows[1][0]), ascii(rows[1][0])
    assert json.loads(json_text([{"name": text}])) == [{"name": text}]


# --- YAML files ---------------------------------------------------------------------------------------------------

def _yaml(data: bytes, folder: Path) -> None:
    load_yaml(_file(folder, "x.yaml", data))


def _profile(data: bytes, folder: Path) -> None:
    check_profile(resolve(load_yaml(_file(folder, "x.yaml", data))))


def check_profile(source: ProfileSource) -> None:
    """What ``profile check`` does to a document."""
    chip = profile_from_yaml(source.whole)
    for finding in lint(chip, source.whole):
        assert_fit_for_a_terminal(str(finding))


@cache
def _shipped_profile() -> YamlSource:
    return load_yaml(REPOSITORY / "hardware_profiles" / "h100-sxm.yaml")


def _settings(data: bytes, folder: Path) -> None:
    profile_from_yaml(_shipped_profile(), parse_overrides(words_of(data).split("\n")))


def _model(data: bytes, folder: Path) -> None:
    model_from_yaml(load_yaml(_file(folder, "x.yaml", data)))


def _step(data: bytes, folder: Path) -> None:
    """A model that could be read decodes, or says why not, and nothing is lost on the way."""
    assert_physical(decode_step(load_hardware("h100-sxm"), model_from_yaml(load_yaml(_file(folder, "x.yaml", data))),
                                batch=[1, 64], kv_len=[100, 100_000]))


def _tiles(data: bytes, folder: Path) -> None:
    """A chip of tiles as the command line changes it: simulated, or refused."""
    name, _, settings = words_of(data).partition("\n")
    if name in FABRICS:
        chip = load_hardware(name, overrides=parse_overrides(settings.split("\n")))
        assert_physical(decode_step(chip, "llama-3-8b", batch=[1, 8], kv_len=4096, engine="spatial"))


def assert_physical(found: Any) -> None:
    times = found["step_time_s"]
    assert not (times <= 0).any(), times
    assert not (found["kv_cache_bytes"] < 0).any(), found["kv_cache_bytes"]


def _range(data: bytes, folder: Path) -> None:
    key, _, text = words_of(data).partition("=")
    axis = read_axis(key, text, load_hardware("h100-sxm"))
    assert axis.start <= axis.stop


def _published(data: bytes, folder: Path) -> None:
    read_published(_file(folder, "x.yaml", data))


def _study(data: bytes, folder: Path) -> None:
    study_from_yaml(load_yaml(_file(folder, "x.yaml", data)))


def _claims(data: bytes, folder: Path) -> None:
    claims_from_yaml(load_yaml(_file(folder, "x.yaml", data)))


def _workload(data: bytes, folder: Path) -> None:
    load_workload(_file(folder, "x.yaml", data))


def _runtime(data: bytes, folder: Path) -> None:
    runtime_from_yaml(load_yaml(_file(folder, "x.yaml", data)))


# --- JSON, checkpoints --------------------------------------------------------------------------------------------

def _json(data: bytes, folder: Path) -> None:
    found = parse_json(text_of(data), file="x.json")
    assert json.loads(text_of(data).lstrip("\ufeff")) == found.data  # what is read is what any other parser reads


def _config(data: bytes, folder: Path) -> None:
    import_config(_file(folder, "x.json", data))


def _safetensors(data: bytes, folder: Path) -> None:
    for entry in read_entries(_file(folder, "model.safetensors", data))[0]:
        if entry.shape and entry.dtype in ("F64", "F32", "F16", "BF16"):
            entry.rows(0, min(entry.shape[0], 2))
        list(entry.raw())


def _checkpoint(data: bytes, folder: Path) -> None:
    """A configuration, an index and a file of tensors, cut apart at lines of dashes."""
    names = ("config.json", "model.safetensors.index.json", "model.safetensors")
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for name, part in zip(names, data.split(b"\n---\n"), strict=False):
        if part:
            _file(folder, name, part)
    open_checkpoint(folder)


# --- tables and traces --------------------------------------------------------------------------------------------

def _kernel_csv(data: bytes, folder: Path) -> None:
    table = parse_table(text_of(data), "x.csv")
    assert len(table) > 0
    assert (table.time_s > 0).all()


def _trace(data: bytes, folder: Path) -> None:
    found = 0
    for requests in read_trace(_file(folder, "x.csv", data)).chunks():
        assert (requests.prompt_tokens >= 1).all()
        assert (requests.arrival_s >= 0).all()
        found += len(requests.arrival_s)
    assert found


def _dram_csv(data: bytes, folder: Path) -> None:
    for run in dram.read_runs(_file(folder, "x.csv", data))[:2]:
        if run.requests <= 64 and run.parameter <= 4096:  # the others take their time by right
            dram.replay_run(run)


def _serving_csv(data: bytes, folder: Path) -> None:
    served_models.read_rows(_file(folder, "x.csv", data))


def _accelerators_csv(data: bytes, folder: Path) -> None:
    rows = accelerators.read_rows(_file(folder, "x.csv", data))
    accelerators.head_pairs(rows)


def _forecasts_csv(data: bytes, folder: Path) -> None:
    for row in forecasts.read_forecasts(_file(folder, "x.csv", data)):
        forecasts.question_of(row)
        assert "\n" not in forecasts.command_of(row)


# --- files that simkit wrote itself, which anybody may have changed since ----------------------------------------------

SWEEP_MANIFEST = {"manifest_version": 1, "format": "csv", "points": 4, "part_points": 2, "parts": 2,
         "hardware": [["h100-sxm", "ab"]], "models": [["llama-2-70b", "cd"]],
         "study": {"batch": [1, 2], "engine": "roofline"}, "made_with": {"simkit": "0", "sources": "ef"}}


def _sweep_manifest(data: bytes, folder: Path) -> None:
    found = sweep_run._read_json(_file(folder, "manifest.json", data))
    told = changes(found, SWEEP_MANIFEST)
    assert told is None or isinstance(told, str)


def _report_manifest(data: bytes, folder: Path) -> None:
    for name in read_report_manifest(_file(folder, "manifest.json", data)):
        place = (folder / name).resolve()
        assert place.is_relative_to(folder.resolve()), name


def _cache_entry(data: bytes, folder: Path) -> None:
    text = data.decode("ascii", "replace").replace("\ufffd", "?").replace("\r", "?")
    path = folder / "x.json"
    path.write_text(f"{seal('name', text)}\n{text}\n", encoding="ascii")
    known = read_cache_entry(path, "name")
    if known is not None:
        assert known.total_s >= 0
        assert all(value >= 0 for table in (known.cause_s, known.level_bytes) for value in table.values())


TARGETS = {target.name: target for target in (
    Target(name="units", read=_units, seeds=prefixed(QUANTITIES, len(dimensions())), longest=72),
    Target(name="axis", read=_axis, seeds=prefixed(LISTS, 6), longest=96),
    Target(name="words", read=_mini, seeds=prefixed(PHRASES, len(_WORDS)), longest=128, words=PHRASES),
    Target(name="csv_cells", read=_csv_cells, seeds=listed("=1+1", "@sum", "-1", "\t=x", "a\r\nb", '"', "h100", "\uff1d1"),
           longest=64),
    Target(name="settings", read=_settings, seeds=listed(*SETTINGS), longest=200, words=PARTS),
    Target(name="yaml", read=_yaml, seeds=files("tests/bad_profiles/yaml_*.yaml", "workloads/*.yaml", most_bytes=800),
           longest=1024, words=PARTS),
    Target(name="profile", read=_profile, seeds=files("tests/bad_profiles/*.yaml", "hardware_profiles/*.yaml", most_bytes=4000),
           words=PARTS),
    Target(name="model", read=_model, seeds=files("tests/bad_models/*.yaml", "workloads/models/*.yaml", most_bytes=1000),
           longest=1500, words=PARTS),
    Target(name="step", read=_step, seeds=files("workloads/models/*.yaml", most_bytes=1500), longest=1500, words=PARTS),
    Target(name="tiles", read=_tiles, seeds=listed(*(f"{chip}\n{line}" for chip in FABRICS for line in TILES)),
           longest=300, words=TILES),
    Target(name="range", read=_range, seeds=listed(*RANGES), longest=200, words=LISTS),
    Target(name="published", read=_published, seeds=papers, words=PARTS, longest=6000),
    Target(name="study", read=_study, seeds=files("workloads/studies/*.yaml", most_bytes=3500), words=PARTS),
    Target(name="claims", read=_claims, seeds=files("workloads/studies/claims.yaml", "tests/fuzz/seeds/claims*.yaml",
                                                     most_bytes=12_000), longest=12_000),
    Target(name="workload", read=_workload, seeds=files("workloads/*.yaml"), longest=1024, words=PHRASES),
    Target(name="runtime", read=_runtime, seeds=files("workloads/runtimes/*.yaml"), longest=2048),
    Target(name="json", read=_json, seeds=lambda: [json.dumps(config).encode() for config in CONFIGS], longest=1024),
    Target(name="config", read=_config, seeds=lambda: [json.dumps(config).encode() for config in CONFIGS], longest=2048),
    Target(name="safetensors", read=_safetensors, seeds=tensor_seeds, longest=1024),
    Target(name="checkpoint", read=_checkpoint, longest=3000,
           seeds=lambda: [tiny_checkpoint(sharded=True), tiny_checkpoint(sharded=False)]),
    Target(name="kernel_csv", read=_kernel_csv, seeds=heads("simkit/evidence/data/silicon_*.csv"), longest=2048),
    Target(name="trace", read=_trace, seeds=listed(
        "arrival_s,prompt_tokens,output_tokens\n0,10,20\n0.5,300,4\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47.0,3,1\n",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.1,5,6.0\n", '{"timestamp": 0, "input_length": 6955, '
        '"output_length": 52, "hash_ids": [1]}\n{"timestamp": 3052, "input_length": 7, "output_length": 1}\n'),
        longest=1024),
    Target(name="dram_csv", read=_dram_csv, seeds=dram_seeds, longest=2048),
    Target(name="serving_csv", read=_serving_csv, longest=1024, seeds=listed(
        "system,model,precision,framework,isl,osl,concurrency,tp,pp,attention_dp,moe_ep,ttft_ms,tpot_ms\n"
        "h100_sxm,LLAMA3.1_70B,fp8,vllm,1024,128,8,2,1,1,1,100.5,20.1\n")),
    Target(name="accelerators_csv", read=_accelerators_csv, longest=2048, seeds=heads("simkit/evidence/data/accelerators.csv*", 3)),
    Target(name="forecasts_csv", read=_forecasts_csv, longest=2048, seeds=heads("simkit/evidence/data/forecasts.csv", 3)),
    Target(name="sweep_manifest", read=_sweep_manifest, seeds=lambda: [json.dumps(SWEEP_MANIFEST).encode()], longest=1024),
    Target(name="report_manifest", read=_report_manifest, longest=512, seeds=listed(
        '{"written_by": "simkit 0", "files": {"index.html": "ab", "figures/a.svg": "cd", "../x": "e", "/etc/x": "f"}}')),
    Target(name="cache_entry", read=_cache_entry, longest=256, seeds=listed(
        '[1e-5, {"hbm": 1e-5, "compute": 0.0}, {"hbm": 4096.0}]', "[NaN, {}, {}]", "[1, [], null]")),
)}
