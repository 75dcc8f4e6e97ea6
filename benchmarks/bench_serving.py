"""100 000 requests of about 1 000 output tokens through one replica on one core: the promise is 60 seconds.

Also measures that memory does not grow with the stream.
"""

import resource
import sys
import time

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.replica import build_replicas, paged
from simkit.serving.serve import Policy, build_server, serve
from simkit.study.scenario import parse_scenario

LIMIT_S = 60.0


def main() -> None:
    """Time the compilation, the tables and three loads; exit with 1 when the promise is broken."""
    started = time.perf_counter()
    scenario = paged(parse_scenario(weight_dtype="fp8"), 16)
    (replica,) = build_replicas(load_hardware("h100-sxm"), load_model("llama-3.1-70b"), ["as-trained"],
                                scenario=scenario, chips=4)
    server = build_server(replica, Policy())
    print(f"tables: {time.perf_counter() - started:.2f} s, error at most {server.grid_error.max_relative_error:.2%}")
    law = parse_lengths("lognormal:500:0.8/lognormal:1000:0.5")
    started = time.perf_counter()
    serve(server, generate(law, requests_per_s=1.0, gap_cv=1.0, requests=10, seed=0))
    print(f"compilation, or its cache: {time.perf_counter() - started:.2f} s")
    broken = False
    for rate, what in ((4.0, "light"), (12.0, "heavy"), (100.0, "overloaded")):
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        record = serve(server, generate(law, requests_per_s=rate, gap_cv=1.0, requests=100_000, seed=0)).record
        took_s = time.process_time() - started
        grew_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        broken |= took_s > LIMIT_S
        print(f"{what}: {record['requests']:,} requests, {record['output_tokens']:,} tokens, "
              f"{record['iterations']:,} iterations in {took_s:.2f} s "
              f"({record['output_tokens'] / took_s / 1e6:.0f} M tokens/s); memory grew by {grew_kib / 1024:.1f} MiB")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
