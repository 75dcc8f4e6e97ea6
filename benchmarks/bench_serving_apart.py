"""100 000 requests of the Azure trace's lengths with cached prompts, prefill and decode on two pools, on one core.

The promise is 60 seconds of processor time, and memory that does not grow with the stream.
"""

import resource
import sys
import time
from dataclasses import replace

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.serving.apart import Apart, serve_apart
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.replica import build_replicas, paged
from simkit.serving.requests import Stream
from simkit.serving.serve import Policy, build_server, parse_tiers
from simkit.study.scenario import parse_scenario

LIMIT_S, MOST_MIB = 60.0, 64.0
LINK = "400GB/s,5us"


def played(requests: int) -> tuple[dict, float]:
    """The record, and the processor seconds that serving took."""
    scenario, model = paged(parse_scenario(weight_dtype="fp8"), 16), load_model("llama-3.1-70b")
    policy = Policy(prefix_cache=True, tiers=parse_tiers(["host=256GiB,50GB/s,10us"]))
    decode, prompts = (build_replicas(load_hardware(chip), model, ["as-trained"], scenario=scenario, chips=4)[0]
                       for chip in ("h100-sxm", "b200-sxm"))
    server = build_server(decode, replace(policy, prefix_cache=False, tiers=()))
    prefill = Apart(server=build_server(prompts, policy), replicas=1, link=LINK)

    def stream(count: int) -> Stream:
        return generate(parse_lengths("azure-conv-2023"), requests_per_s=12.0, gap_cv=1.0, requests=count, seed=0,
                        shared_prefix=(4096, 200))

    serve_apart(prefill, server, stream(20_000))  # compiled, and every array touched
    before_kib, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    record = serve_apart(prefill, server, stream(requests)).record
    took_s = time.process_time() - started
    grew_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    return record | {"grew_mib": grew_kib / 1024}, took_s


def main() -> None:
    """Play it; exit with 1 when the promise is broken."""
    record, took_s = played(100_000)
    print(f"{record['requests']:,} requests, {record['output_tokens']:,} tokens in {took_s:.1f} s; "
          f"{record['prefix_hit_rate']:.1%} of prompt tokens met in cache, {record['prefix_loaded_share']:.1%} loaded; "
          f"prefill busy {record['prefill_busy_share']:.0%}, decode {record['decode_busy_share']:.0%}; "
          f"memory grew by {record['grew_mib']:.1f} MiB")
    sys.exit(1 if took_s > LIMIT_S or record["grew_mib"] > MOST_MIB else 0)


if __name__ == "__main__":
    main()
