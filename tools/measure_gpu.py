"""Times decode attention and matrix products on this machine's GPU, with the libraries that are installed.

One file that needs PyTorch and nothing of simkit: copy it to the machine with the GPU and run

    python measure_gpu.py --system my_gpu

It writes ``my_gpu.attention.csv`` and ``my_gpu.products.csv`` for ``simkit evidence silicon --data`` and ``simkit
calibrate``. Every sample goes to ``my_gpu.log.jsonl`` as it is measured: a run that was cut off goes on where it stood,
and the tables are made from a log alone where there is no GPU. Kernels are looped alone in a CUDA graph, operands as
they lie, as in the tables that simkit ships; a time is the median of the samples.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

# Which column of simkit's tables holds which library's kernels: SGLang decodes with FlashInfer.
LIBRARIES: Final = {"flashinfer": "latency_us_sglang", "vllm": "latency_us_vllm", "flash_attn": "latency_us_flash_attn",
                    "torch": "latency_us_torch"}
ATTENTION: Final = ("system", "kv_dtype", "head_dim", "n_q_heads", "n_kv_heads", "batch", "kv_len")
PRODUCT: Final = ("system", "dtype", "m", "n", "k")
SAMPLES: Final = 7
LOOPED: Final = 20  # launches a graph: its own start is a twentieth of a kernel's
PAGE: Final = 64  # tokens of a page of the paged cache
MEMORY_SHARE: Final = 0.6  # of the memory that is free, for operands

Shape = dict[str, Any]
Timer = Callable[[Shape, str], list[float]]


def shapes(system: str) -> Iterator[Shape]:
    """MHA to MQA over batch and context, and the products of common layers: some 140 kernels."""
    for n_q_heads, head_dim in ((32, 128), (64, 128), (16, 64)):
        for n_kv_heads in sorted({1, 2, 8, n_q_heads}):
            for batch, kv_len in ((1, 512), (1, 8192), (1, 65536), (8, 128), (8, 2048), (8, 16384), (32, 4096),
                                  (128, 1024), (128, 4096)):
                yield {"system": system, "kv_dtype": "bfloat16", "head_dim": head_dim, "n_q_heads": n_q_heads,
                       "n_kv_heads": n_kv_heads, "batch": batch, "kv_len": kv_len}
    for n, k in ((4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (1024, 8192), (8192, 8192)):
        for m in (1, 8, 32, 64, 128, 256):
            yield {"system": system, "dtype": "bfloat16", "m": m, "n": n, "k": k}


def libraries_of(shape: Shape, installed: Iterable[str]) -> list[str]:
    """Which of the installed libraries time a kernel of that shape: products are PyTorch's."""
    return [name for name in LIBRARIES if name in installed] if "kv_len" in shape else ["torch"]


def operand_bytes(shape: Shape) -> int:
    """Bytes of the operands in 16 bits."""
    if "kv_len" in shape:
        return 4 * math.prod(int(shape[key]) for key in ("head_dim", "n_kv_heads", "batch", "kv_len"))
    return 2 * (shape["m"] * shape["k"] + shape["n"] * shape["k"] + shape["m"] * shape["n"])


def read_log(path: Path) -> dict[str, list[float]]:
    """Microseconds by shape and library; a last line that was cut off is measured again."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[_key(entry["shape"], entry["library"])] = entry["samples_us"]
    return found


def _key(shape: Shape, library: str) -> str:
    return json.dumps([shape, library], sort_keys=True)


def measure(wanted: Iterable[Shape], log: Path, timer: Timer, installed: Iterable[str], free_bytes: float) -> None:
    """Time what the log lacks; a kernel that fails is logged without samples, with the reason on standard error."""
    known = read_log(log)
    whole = not log.exists() or log.read_bytes()[-1:] in (b"", b"\n")
    with log.open("a", encoding="utf-8") as file:
        file.write("" if whole else "\n")
        for shape in wanted:
            for library in libraries_of(shape, installed):
                if _key(shape, library) in known or operand_bytes(shape) > MEMORY_SHARE * free_bytes:
                    continue
                try:
                    samples = timer(shape, library)
                except Exception as error:  # noqa: BLE001 - libraries raise what they like; the next shape may run
                    print(f"{library} {shape}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
                    samples = []
                file.write(json.dumps({"shape": shape, "library": library, "samples_us": samples}) + "\n")
                file.flush()


def write_tables(log: Path, stem: str) -> list[Path]:
    """The tables of a log, beside it."""
    times: dict[str, dict[str, float]] = {}
    for key, samples in read_log(log).items():
        shape, library = json.loads(key)
        if samples:
            times.setdefault(json.dumps(shape), {})[library] = statistics.median(samples)
    written = []
    for name, columns in (("attention", ATTENTION), ("products", PRODUCT)):
        rows = [(shape, by) for text, by in times.items() if set(shape := json.loads(text)) == set(columns)]
        if not rows:
            continue
        latencies = list(LIBRARIES.values()) if name == "attention" else ["latency_us"]
        path = log.with_name(f"{stem}.{name}.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([*columns, *latencies])
            for shape, by in rows:
                cells = [by.get(library) for library in LIBRARIES] if name == "attention" else [by["torch"]]
                table.writerow([*(shape[column] for column in columns),
                                *("" if cell is None else f"{cell:.4g}" for cell in cells)])
        written.append(path)
    return written


def kernel(shape: Shape, library: str) -> Callable[[], Any]:
    """A call that launches the kernel on operands that are made here."""
    import torch

    options = {"dtype": torch.bfloat16, "device": "cuda"}
    if "m" in shape:
        left, right = torch.randn(shape["m"], shape["k"], **options), torch.randn(shape["n"], shape["k"], **options)
        return lambda: torch.nn.functional.linear(left, right)
    heads, groups, width = (shape[key] for key in ("n_q_heads", "n_kv_heads", "head_dim"))
    batch, length = shape["batch"], shape["kv_len"]
    if library == "torch":
        query = torch.randn(batch, heads, 1, width, **options)
        keys, values = (torch.randn(batch, groups, length, width, **options) for _ in range(2))
        return lambda: torch.nn.functional.scaled_dot_product_attention(query, keys, values, enable_gqa=groups < heads)
    lengths = torch.full((batch,), length, dtype=torch.int32, device="cuda")
    if library == "flash_attn":
        from flash_attn import flash_attn_with_kvcache

        query = torch.randn(batch, 1, heads, width, **options)
        keys, values = (torch.randn(batch, length, groups, width, **options) for _ in range(2))
        return lambda: flash_attn_with_kvcache(query, keys, values, cache_seqlens=lengths, causal=True)
    pages = math.ceil(length / PAGE)
    cache = torch.randn(batch * pages, 2, PAGE, groups, width, **options)
    query = torch.randn(batch, heads, width, **options)
    order = torch.arange(batch * pages, dtype=torch.int32, device="cuda")
    if library == "vllm":
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        keys, values = (cache[:, half].contiguous() for half in range(2))
        rows = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
        return lambda: flash_attn_varlen_func(
            query, keys, values, max_seqlen_q=1, cu_seqlens_q=rows, max_seqlen_k=length, seqused_k=lengths, causal=True,
            block_table=order.view(batch, pages))
    import flashinfer

    starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda") * pages
    last = torch.full_like(lengths, length - (pages - 1) * PAGE)
    space = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    # As SGLang chooses: groups of fewer than four on the vector unit.
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(space, "NHD", use_tensor_cores=heads // groups >= 4)
    wrapper.plan(starts, order, last, heads, groups, width, PAGE, q_data_type=torch.bfloat16,
                 kv_data_type=torch.bfloat16)
    return lambda: wrapper.run(query, cache)


def time_on_gpu(shape: Shape, library: str) -> list[float]:
    """Microseconds of one launch, sampled."""
    import torch

    launch = kernel(shape, library)
    for _ in range(3):
        launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LOOPED):
            launch()
    graph.replay()
    samples = []
    for _ in range(SAMPLES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        samples.append(start.elapsed_time(end) * 1e3 / LOOPED)
    del graph, launch
    torch.cuda.empty_cache()
    return samples


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--system", required=True, help="name of the chip in the tables, such as h100_sxm or my_gpu")
    parser.add_argument("--log", type=Path, help="the log of samples  [default: SYSTEM.log.jsonl]")
    given = parser.parse_args(arguments)
    log = given.log or Path(f"{given.system}.log.jsonl")
    if importlib.util.find_spec("torch") is None:
        if not log.exists():
            print(f"PyTorch is not installed, and there is no log {log} to make tables from", file=sys.stderr)
            return 2
    else:
        import torch

        if torch.cuda.is_available():
            installed = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
            measure(shapes(given.system), log, time_on_gpu, installed, torch.cuda.mem_get_info()[0])
        elif not log.exists():
            print(f"PyTorch sees no GPU, and there is no log {log} to make tables from", file=sys.stderr)
            return 2
    written = write_tables(log, given.system)
    for path in written:
        print(path)
    return 0 if written else 2


if __name__ == "__main__":
    sys.exit(main())
