"""Inputs that broke a reader once, or were written to break one: by target, each under a name that says what it tries.

Long ones are written as what they repeat. What a fuzzer finds stands beside them as files, in ``corpus/TARGET/``.
"""

import gzip
import json
import re
from typing import Any

from tests.fuzz.first_inputs import CONFIGS, REPOSITORY, safetensors_of, tiny_checkpoint
from tests.fuzz.targets import SWEEP_MANIFEST

Inputs = dict[str, bytes]


def _texts(**named: str) -> Inputs:
    return {name: text.encode() for name, text in named.items()}


def _rows(header: str, row: str, **changes: tuple[str, str]) -> Inputs:
    """A table of one row with a cell changed, for each name."""
    for old, _ in changes.values():
        assert old in row, old
    return {name: (header + "\n" + row.replace(old, new, 1) + "\n").encode() for name, (old, new) in changes.items()}


def _lines(path: str, **changes: tuple[str, str]) -> Inputs:
    """A shipped file with the line of a top-level key replaced, for each name."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    made = {}
    for name, (key, line) in changes.items():
        assert re.search(rf"(?m)^{key}:", text), key
        made[name] = re.sub(rf"(?m)^{key}:.*$", lambda _, line=line: line, text).encode()
    return made


def _first_byte(*kinds: int, **texts: str | bytes) -> Inputs:
    """Each text after a byte that chooses which of a target's readers gets it."""
    return {f"{name}_{kind}": bytes([kind]) + (text.encode() if isinstance(text, str) else text)
            for name, text in texts.items() for kind in kinds}


_BOMB = ",".join(["1..999999+1"] * 9)
_DIGITS = "9" * 5000  # more than int() takes from a text
_DEEP = "[" * 100_000
_ESCAPE = "\x1b[31m"

_KERNELS = "system,kv_dtype,head_dim,n_q_heads,n_kv_heads,batch,kv_len,latency_us_best"
_KERNEL = "a100_sxm,bfloat16,128,64,8,32,4096,98.0"
_KERNEL_CSV = _rows(
    _KERNELS, _KERNEL, lone_carriage_return=("a100", "a\r100"), latency_that_is_zero_in_seconds=("98.0", "1e-320"),
    latency_nan=("98.0", "nan"), latency_infinite=("98.0", "inf"), latency_1e308=("98.0", "1e308"), latency_negative=("98.0", "-1"),
    cell_that_numpy_would_give_every_row_room_for=("a100", "x" * 3000), cell_beyond_the_csv_module_s_limit=("a100", '"' + "x" * 140_000),
    nul=("a100", "a\0"), escape_codes=("a100", _ESCAPE), heads_zero=(",8,", ",0,"), heads_huge=(",8,", ",1e300,"),
    superscript=("98.0", "\u00b2"), quote_never_closed=("a100", '"a')) | _texts(header_with_escape_codes=_ESCAPE + "," + _KERNELS)

_DRAM = "simulator,dram_type,pattern,parameter,achieved_fraction_of_peak,requests,mapping,scheduler,refresh,queue,pcs,mlp_limit,seed"
_DRAM_RUN = "ramulator2,HBM3_6400,chunk_aligned,256,0.9,64,bg128,rowhit,ab,32,1,,1"
_DRAM_CSV = _rows(
    _DRAM, _DRAM_RUN, requests_1e18=(",64,", ",1e18,"), parameter_zero=(",256,", ",0,"), parameter_a_half=(",256,", ",0.5,"),
    seed_1e300=(",,1", ",,1e300"), queue_infinite=(",32,", ",inf,"), no_streams=("chunk_aligned,256", "streams_random_g256,0"),
    nothing_kept=("chunk_aligned,256", "evict_gather_row64,0"), all_kept_twice=("chunk_aligned,256", "evict_gather_row64,2"),
    no_reads=("chunk_aligned,256", "mixed_seq,0"), escape_codes=("chunk", _ESCAPE), lone_carriage_return=("2,", "\r,"),
    chunk_beyond_the_memory=(",256,", ",9999999,"), channels_by_the_thousand=(",1,,", ",9000,,"))

_SERVING = "system,model,precision,framework,isl,osl,concurrency,tp,pp,attention_dp,moe_ep,ttft_ms,tpot_ms"
_SERVED = "h100_sxm,Qwen/Qwen3-32B,fp8,vllm,1024,128,8,2,1,1,1,100.5,20.1"
_SERVING_CSV = _rows(
    _SERVING, _SERVED, tokens_nan=("1024", "nan"), tokens_infinite=("1024", "inf"), time_zero=("20.1", "0"), nul=("vllm", "v\0"),
    clients_1e18=(",8,", ",1e18,"), row_too_short=(",2,1,1,1,100.5,20.1", ""), row_too_long=("20.1", "20.1,1,2"), half_a_chip=(",2,", ",2.5,"))

_TRACE_HEAD = "arrival_s,prompt_tokens,output_tokens\n"
_AZURE_HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
_MOONCAKE = '{"timestamp": 0, "input_length": 1, "output_length": 1'
_TRACES = _texts(
    tokens_of_5000_digits=f"{_TRACE_HEAD}0,{_DIGITS}.0,1\n", time_nan=_TRACE_HEAD + "nan,1,1\n", time_1e308=_TRACE_HEAD + "1e308,1,1\n",
    backwards=_TRACE_HEAD + "2,1,1\n1,1,1\n", only_empty_lines=_TRACE_HEAD + "\n" * 100_100, field_never_closed=_TRACE_HEAD + '"0,1,1\n' * 20_000,
    json_number_of_5000_digits=f'{{"timestamp": {_DIGITS}, "input_length": 1, "output_length": 1}}\n', json_deep=f'{_MOONCAKE}, "x": {_DEEP}}}\n',
    json_nan='{"timestamp": NaN, "input_length": 1, "output_length": 1}\n', json_list="{}\n[]\n", year_zero=_AZURE_HEAD + "0000-00-00 00:00:00,1,1\n",
    zone_of_99_hours=_AZURE_HEAD + "2023-11-16 18:15:46.1+99:99,1,1\n", before_the_first_year=_AZURE_HEAD + "0001-01-01 00:00:00+23:59,1,1\n",
    tokens_true='{"timestamp": true, "input_length": true, "output_length": 1}\n', line_of_2_mb="x" * 2_000_000) | {
    "bomb_of_one_line": gzip.compress(b"x" * 5_000_000), "bomb_of_line_ends": gzip.compress(_TRACE_HEAD.encode() + b"\n" * 5_000_000),
    "cut_short": gzip.compress(_TRACE_HEAD.encode() * 50)[:40], "gzip_mark_alone": b"\x1f\x8b"}

_AXES = _first_byte(
    0, 1, 2, range_of_1e18="0..1e18+1", range_of_18_digits="0..999999999999999999+1", factor_hardly_above_one="1..1e300*1.0000001",
    factor_1_000001="1..999999999999*1.000001", arabic_digits="\u0663..\u0669+1", one_range_again_and_again=_BOMB,
    factor_that_overflows="1..999999999999999999M*999999999999999999M", steps_of_nothing="1..2+0.000000000000000001",
    start_that_swallows_the_step="999999999999999999M..999999999999999999M+1", escape=_ESCAPE, undecodable=b"\xff")

_UNITS = _first_byte(
    0, 1, 4, 7, value_1e99999="1e99999 TB/s", value_1e_minus_99999="1e-99999 ps", superscript="3\u00b2 TB/s", underscore="1_000 B",
    undecodable=b"\xff\xfe TB/s", nul="3\0 TB/s", escape=f"3 {_ESCAPE}TB/s", long=_DIGITS, greek_micro="4 \u03bcs", denormal="5e-324 pJ/bit")

_WORDS = _first_byte(
    1, cv_zero="lognormal:0", lengths_whose_mean_overflows="1e308,1e308", lengths_1e_minus_320="1e-320,1", lengths_nan="nan,1",
    lengths_by_the_100000="1," * 120_000 + "1") | _first_byte(
    2, gamma_of_5000_digits=f"draft=llama-2-7b,gamma={_DIGITS},acceptance=0.8", acceptance_nan="medusa=4,acceptance=nan",
    draft_a_path="draft=../../../etc/passwd,gamma=4,acceptance=0.8", draft_a_device="draft=/dev/zero,gamma=4,acceptance=0.8") | _first_byte(
    0, nothing_kept="streaming:0+0") | _first_byte(3, heads_of_5000_digits="gqa-" + _DIGITS) | _first_byte(4, group_of_none="int4-g0") | _first_byte(
    10, no_rate="0B/s,1us", latency_nan="1GB/s,nan s") | _first_byte(12, chips_of_5000_digits=f"x:{_DIGITS}") | _first_byte(
    13, years_nan="years=nan") | _first_byte(15, zipf_nan="zipf:nan", load_a_device="/dev/zero", load_a_path_up="../../../etc/passwd") | _first_byte(
    16, lengths_a_device="/dev/zero.yaml", lengths_of_5000_digits=f"{_DIGITS}/1") | _first_byte(18, prefixes_1e18="1k:1000000000000000000") | _first_byte(
    19, tier_of_nothing="host=0B,0B/s,0s", tier_twice="ssd=1TB,1GB/s,1us;ssd=1TB,1GB/s,1us") | _first_byte(
    *range(20), escape=_ESCAPE, undecodable=b"\xff", empty="")

_CELLS = _texts(tab="\t=1+1", full_width="\uff1d1+1", carriage_return="\r=1", escape="\x1b]0;title\x07", line_separator="\u2028@x",
                dde="=cmd|' /C calc'!A0", next_line="\x85-1", nul="\0=1", minus="-1+1", hyperlink='=HYPERLINK("http://x","y")')

_YAML = _texts(
    alias_bomb="a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n", merge_key="a: &x {b: 1}\nc: {<<: *x}\n",
    python_call="a: !!python/object/apply:os.system [touch pwned]\n", python_name="!!python/name:os.system a: 1\n", deep_lists=f"a: {_DEEP}",
    deep_keys="a: " + "{a: " * 20_000, deep_blocks="\n".join(" " * depth + "a:" for depth in range(400)), escape='a: "\\e[31m"\n',
    nul_in_quotes='a: "\\0"\n', reordering_in_quotes='a: "\\u202e"\n', reordering="a: \u202eb\n", escape_in_a_key='"\\e]0;x\\a": 1\n',
    values_by_the_thousand="a: [" + "1," * 60_000 + "]", keys_by_the_thousand="\n".join(f"k{i}: 1" for i in range(25_000)),
    half_a_character='a: "\\ud800"\n', nul="a: \0\n", tag_directive="%TAG ! tag:x,2000:\n---\na: !y 1\n", yaml_directive="%YAML 9.9\n---\na: 1\n",
    integer_of_5000_digits=f"a: {_DIGITS}\n", question_marks="? " * 5000 + "a") | {
    "utf16": "a: 1\n".encode("utf-16"), "invalid_utf8": b"a: \xc3\x28\n", "byte_order_mark_alone": b"\xef\xbb\xbf"}

_SMALL_PROFILE = (REPOSITORY / "tests/bad_profiles/units_zero.yaml").read_text(encoding="utf-8")
_EXTENDS = "schema_version: 1\nname: x\nextends: "
_PROFILES = _texts(
    unknown_keys_by_the_thousand=_SMALL_PROFILE + "".join(f"zz{i}: 1\n" for i in range(5000)),
    unknown_keys_of_figures=_SMALL_PROFILE + "x:\n" + "".join(f" a{i}: {{value: 1, b{i}: 2}}\n" for i in range(1500)),
    extends_itself=_EXTENDS + "x.yaml\n", extends_a_device=_EXTENDS + "/dev/zero\n", extends_a_path_up=_EXTENDS + "../../../etc/passwd\n",
    extends_a_nul=_EXTENDS + '"a\\0b"\n', extends_a_long_name=_EXTENDS + "x" * 5000 + "\n", extends_home=_EXTENDS + "~/x.yaml\n")

_SETTINGS = _texts(
    escape=f"memory.hbm.bandwidth={_ESCAPE}", list_deep=f"memory.hbm.holds=[{_DEEP}]", alias="notes=[&a x, *a]", call="notes=[!!python/object:os.system x]",
    dots="." * 500 + "=1", long_key="a" * 5000 + "=1", deep_key="a." * 3000 + "b=1", memory_alone="memory=1", key_of_two_dots="memory..bandwidth=1",
    nan="compute.matrix.achievable_fraction=nan", value_1e308="memory.hbm.bandwidth=1e308 TB/s", equals="====", name="name=../../x",
    extends="extends=/etc/passwd", units_1e18="compute.units=999999999999999999") | {"undecodable": b"memory.hbm.bandwidth=\xff"}

_WORKLOAD = "schema_version: 1\nname: w\n"
_WORKLOADS = _texts(
    batch_a_bomb=f"{_WORKLOAD}batch: {_BOMB}\n", model_a_path=_WORKLOAD + "model: ../../../etc/passwd\n", model_a_device=_WORKLOAD + "model: /dev/zero\n",
    page_1e308=_WORKLOAD + "page: 1e308\n", lists_of_lists=_WORKLOAD + "batch: [[1]]\n", name_a_path="schema_version: 1\nname: ../../x\n",
    long_list=_WORKLOAD + "kv_len: [" + "1," * 10_000 + "1]\n")

_STUDY = "workloads/studies/gqa_on_asics.yaml"
_STUDIES = _lines(_STUDY, name_leads_up=("name", "name: ../../x"), name_absolute=("name", "name: /etc/x"), axis_a_bomb=("batch", f"batch: {_BOMB}"),
                  chip_a_device=("hardware", "hardware: [/dev/zero]"), chip_a_path_up=("hardware", "hardware: [../../../../etc/passwd]"))
_MODELS = _lines("workloads/models/llama-2-7b.yaml", layers_1e308=("layers", "layers: 1e308"), layers_of_18_digits=("layers", "layers: 999999999999999999"),
                 name_leads_up=("name", "name: ../x"), vocabulary_infinite=("vocab_size", "vocab_size: .inf"), title_hides_words=("title", 'title: "\\u202e"'))
_RUNTIME = "layer_s: {}\nhost_sequence_s: 0.0\nprefill_fraction: 1.0\nsource: {}\n"
_RUNTIMES = _texts(nan=_RUNTIME.format(".nan", "x"), huge=_RUNTIME.format("1e308", "x"), escape=_RUNTIME.format("0.0", '"\\e[31m"'), source_a_list=_RUNTIME.format("0.0", "[x]"))
_CLAIMS = _texts(nothing_by_the_thousand="claims: [" + "{}," * 900 + "]", unknown_tests_by_the_hundred="claims:\n" + "".join(f"- {{test: memry{i}}}\n" for i in range(900)),
                 too_many="claims: [" + "{}," * 2000 + "]", test_with_escape_codes='claims: [{test: "\\e[31m"}]')

_JSON = _texts(text_never_closed='{"' + "x" * 100_000, text_with_a_nul='{"' + "x" * 100_000 + '\0"', text_with_a_wrong_escape='{"' + "x" * 100_000 + '\\q"',
               deep='{"a": ' + _DEEP + "}", values_by_the_thousand='{"a": [' + "1," * 60_000 + "1]}", half_a_character='{"a": "\\ud800"}', integer_of_5000_digits=f'{{"a": {_DIGITS}}}',
               nan='{"a": NaN}', twice='{"a": 1, "a": 2}', escape='{"\\u001b[31m": "\\u001b[0m"}', number_1e400='{"a": 1e400}', nul='{"a\\u0000b": "\\u0000"}')


def _configs(**changes: dict[str, Any]) -> Inputs:
    return {name: json.dumps(CONFIGS[0] | change).encode() for name, change in changes.items()}


_CONFIGS = _configs(
    layers_1e308={"num_hidden_layers": 1e308}, heads_zero={"num_attention_heads": 0}, heads_negative={"num_attention_heads": -8},
    half_a_head={"num_attention_heads": 0.5}, type_with_escape_codes={"model_type": _ESCAPE + "llama"}, key_with_escape_codes={_ESCAPE: 1},
    class_with_escape_codes={"architectures": [_ESCAPE]}, nested_a_list={"text_config": [1]}, size_1e60={"hidden_size": 10**60},
    all_null=dict.fromkeys(CONFIGS[0]), heads_a_list={"num_attention_heads": [1]}, name_of_a_pattern={"architectures": ["(" * 500]})


def _tensors(dtype: str, shape: list[int], begin: int, end: int, held: int, name: str = "a") -> bytes:
    return safetensors_of({name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}, bytes(held))


_SAFETENSORS = {
    "header_of_an_exabyte": (2**60).to_bytes(8, "little") + b"{}", "empty": b"", "one_byte": b"\x01", "not_json": (2).to_bytes(8, "little") + b"xx",
    "backwards": _tensors("F32", [2], 8, 0, 8), "beyond_the_end": _tensors("F32", [2**40], 0, 2**42, 8), "shape_that_overflows": _tensors("F32", [2**40, 2**40], 0, 8, 8),
    "negative_shape": _tensors("F32", [-1], 0, 4, 4), "unknown_dtype": _tensors("X", [1], 0, 4, 4), "hole": _tensors("F32", [1], 4, 8, 8),
    "scalar": _tensors("F32", [], 0, 4, 4), "escape_codes": _tensors("F32", [1], 0, 4, 4, _ESCAPE), "metadata_a_number": safetensors_of({"__metadata__": {"a": 1}}, b""),
    "overlap": safetensors_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
    "deep": len(_DEEP).to_bytes(8, "little") + _DEEP.encode()}


def _checkpoints(**changes: tuple[bytes, bytes]) -> Inputs:
    whole = tiny_checkpoint(sharded=True)
    assert all(old in whole for old, _ in changes.values())
    return {name: whole.replace(old, new) for name, (old, new) in changes.items()}


_CHECKPOINTS = _checkpoints(
    index_leads_up=(b'"model.safetensors"', b'"../x.safetensors"'), index_absolute=(b'"model.safetensors"', b'"/etc/x.safetensors"'),
    index_a_list=(b'"model.safetensors"', b"[1]"), index_a_backslash=(b'"model.safetensors"', b'"..\\\\x.safetensors"'), heads_zero=(b'_attention_heads": 4', b'_attention_heads": 0'),
    epsilon_nan=(b"1e-05", b"NaN"), epsilon_huge=(b"1e-05", b"9" * 60), shape_wrong=(b"[4, 8]", b"[8, 4]"), kv_heads_huge=(b'value_heads": 2', b'value_heads": 1000000000'))

_MANIFESTS = _texts(
    list="[]", pairs="[[1,2]]", deep=_DEEP, null="null", parts_of_other_kinds='{"manifest_version": 1, "hardware": 1, "models": [1]}', pairs_of_three='{"manifest_version": 1, "hardware": [[1,2,3]]}',
    version_with_escape_codes=json.dumps(SWEEP_MANIFEST | {"made_with": {"simkit": _ESCAPE}}), name_a_list=json.dumps(SWEEP_MANIFEST | {"hardware": [[["x"], "y"]]}),
    sections_that_are_lists=json.dumps(SWEEP_MANIFEST | {"study": [], "made_with": []}), integer_of_5000_digits=f'{{"a": {_DIGITS}}}') | {"invalid_utf8": b"\xff"}
_REPORTS = _texts(
    names_that_lead_elsewhere='{"files": {"../": "a", "..": "b", "figures/..": "c", "figures/../../x": "d", "/x": "e", "": "f", ".": "g", "other/x": "h", "figures/x/y": "i", "a\\u0000b": "j"}}',
    files_a_list='{"files": []}', deep='{"files": ' + _DEEP, list="[]", digest_a_list='{"files": {"index.html": [1]}}')
_ENTRIES = _texts(nan="[NaN, {}, {}]", text='["1", {}, {}]', lists_for_tables="[1.0, [], null]", negative="[-1.0, {}, {}]", infinite='[1.0, {"a": Infinity}, {}]', deep=_DEEP[:90_000],
                  four="[1.0, {}, {}, {}]", true="[true, {}, {}]", list_for_a_figure='[1.0, {"a": [1]}, {}]')

_TILES = _texts(
    grid_of_a_billion="cerebras-wse2\nfabric.tiles=1000000000, 1000000000", grid_of_none="groq-lpu\nfabric.tiles=0, 0", grid_of_one_side="groq-lpu\nfabric.tiles=7",
    clock_1e308="cerebras-wse2\ncompute.clock=1e308 Hz", link_nan="groq-lpu\nfabric.link.bytes_per_cycle=nan", no_memory="groq-lpu\nmemory.sram.bandwidth=1e-300 B/s")
_RANGES = _texts(
    designs_1e18="memory.hbm.bandwidth=1TB/s..1e18TB/s+1", from_nothing="memory.hbm.bandwidth=0TB/s..1TB/s", no_end="memory.hbm.bandwidth=1TB/s..", escape=f"{_ESCAPE}=1",
    units_mixed="memory.hbm.bandwidth=1TB/s..2GHz", bomb=f"compute.units={_BOMB}")
_ACCELERATORS = _rows(
    "id,chip,quantity,value,n_q_heads,n_kv_heads,batch", "a,gaudi2,tpot_s,0.01,32,8,4", value_nan=("0.01", "nan"), value_negative=("0.01", "-1"), heads_1e300=(",8,", ",1e300,"),
    nul=("gaudi2", "g\0"), chip_with_escape_codes=("gaudi2", _ESCAPE), half_a_batch=(",4", ",4.5"))
_FORECASTS = _texts(nothing="", head_alone="made,chip\n", escape=f"made,{_ESCAPE}\n1,2\n")
_PUBLISHED = _texts(papers_none="schema_version: 1\npapers: []\n", papers_by_the_thousand="schema_version: 1\npapers: [" + "{}," * 900 + "]\n")

HOSTILE: dict[str, Inputs] = {
    "step": _MODELS, "tiles": _TILES, "range": _RANGES, "accelerators_csv": _ACCELERATORS, "forecasts_csv": _FORECASTS, "published": _PUBLISHED,
    "kernel_csv": _KERNEL_CSV, "dram_csv": _DRAM_CSV, "serving_csv": _SERVING_CSV, "trace": _TRACES, "axis": _AXES, "units": _UNITS, "words": _WORDS, "csv_cells": _CELLS,
    "yaml": _YAML, "profile": _PROFILES, "settings": _SETTINGS, "workload": _WORKLOADS, "study": _STUDIES, "model": _MODELS, "runtime": _RUNTIMES, "claims": _CLAIMS,
    "json": _JSON, "config": _CONFIGS, "safetensors": _SAFETENSORS, "checkpoint": _CHECKPOINTS, "sweep_manifest": _MANIFESTS, "report_manifest": _REPORTS, "cache_entry": _ENTRIES}
