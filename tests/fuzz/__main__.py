"""The command; __init__.py describes it."""

import argparse
import os
import sys
import tempfile
import time

# To be set before any import: no network, and a temporary cache of data sets.
os.environ["HF_HUB_OFFLINE"] = "1"
scratch = tempfile.TemporaryDirectory(prefix="fuzz-cache-")
os.environ["HF_DATASETS_CACHE"] = scratch.name

from tests.fuzz.readers import READERS  # noqa: E402

from . import fuzz  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the readers.")
    parser.add_argument("readers", nargs="*", choices=[*READERS, []], metavar="READER", help=", ".join(READERS))
    parser.add_argument("--count", type=int, help="inputs per reader; by default 10,000, but 2,000 layouts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--messages", type=int, default=0, help="number of the most frequent refusals to print")
    wanted = parser.parse_args()
    harmed = False
    for name in wanted.readers or READERS:
        start = time.perf_counter()
        count = wanted.count or READERS[name].count
        report = fuzz(name, READERS[name], count, wanted.seed, wanted.start)
        print(
            f"{name}: {count} inputs of seed {wanted.seed}: {report.read} read, {report.refused} refused, "
            f"{len(report.defects)} defects; at most {report.seconds:.1f} s and {report.memory:.0f} MB for one; "
            f"{time.perf_counter() - start:.0f} s in all",
            flush=True,
        )
        for message, times in report.messages.most_common(wanted.messages):
            print(f"  {times} x {message[:200]}")
        for defect in report.defects[:20]:
            print(f"  {defect}")
        harmed = harmed or bool(report.defects)
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
