"""A served stream as trace events that Perfetto and chrome://tracing open.

Iterations stand in one row, requests in rows of their own (waiting, prompt, output), and running sequences and used
blocks are counters. Trace Event Format, Google, "JSON Array Format"; times are microseconds.
"""

from __future__ import annotations

from typing import Any, Final

from simkit.serving.serve import Served

_US: Final = 1e6  # Perfetto counts microseconds
_ENGINE, _REQUESTS = 1, 2  # process numbers


def serving_timeline(served: Served) -> dict[str, Any]:
    """The trace of what ``serve`` kept, ready for ``json.dumps``."""
    record = served.record
    events: list[dict[str, Any]] = [
        _name(_ENGINE, f"{record['model']} {record['attention']} on {record['chips']:g} x {record['hardware']}"),
        _name(_REQUESTS, "requests")]
    for start_s, lasted_s, iterations, decoding, rows, used in served.events.tolist():
        name = f"{decoding:.0f} decoding" + (f" + {rows:.0f} prompt tokens" if rows else "")
        events += [
            {"name": name, "ph": "X", "pid": _ENGINE, "tid": 1, "ts": start_s * _US, "dur": lasted_s * _US,
             "args": {"iterations": int(iterations), "decoding": int(decoding), "prompt_tokens": int(rows)}},
            {"name": "KV blocks", "ph": "C", "pid": _ENGINE, "ts": start_s * _US, "args": {"used": int(used)}},
            {"name": "decoding", "ph": "C", "pid": _ENGINE, "ts": start_s * _US, "args": {"sequences": int(decoding)}}]
    free_at_s: list[float] = []
    for request, arrival_s, admitted_s, first_s, end_s in sorted(served.spans.tolist(), key=lambda span: span[1]):
        lane = next((index for index, free_s in enumerate(free_at_s) if free_s <= arrival_s), len(free_at_s))
        free_at_s[lane:lane + 1] = [end_s]
        for name, start, stop in (("waiting", arrival_s, admitted_s), ("prompt", admitted_s, first_s),
                                  ("output", first_s, end_s)):
            events.append({"name": name, "ph": "X", "pid": _REQUESTS, "tid": lane + 1, "ts": start * _US,
                           "dur": (stop - start) * _US, "args": {"request": int(request)}})
    return {"traceEvents": events, "displayTimeUnit": "ms",
            "otherData": {"iterations": record["iterations"], "iterations_kept": int(sum(served.events[:, 2])),
                          "requests": record["requests"], "requests_kept": len(served.spans)}}


def _name(process: int, text: str) -> dict[str, Any]:
    return {"name": "process_name", "ph": "M", "pid": process, "args": {"name": text}}
