"""`./scripts/soak simulation`: the simulated fleet of `tests/simulation`, a run for each seed, in several processes."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.run import simulate

__all__ = ["main"]

_BLOCK = 50  # seeds that a process is given at once


def _block(first: int, count: int) -> tuple[Counter[str], list[str]]:
    """The outcomes of `count` seeds from `first`, and what was wrong with those that failed."""
    outcomes: Counter[str] = Counter()
    failures = []
    for seed in range(first, first + count):
        try:
            outcomes.update(simulate(seed).outcomes)
        except BaseExceptionGroup as group:
            failures.append(f"seed {seed}: {_first(group)}")
        except Exception as error:  # whatever it is, the other seeds are run
            failures.append(f"seed {seed}: {error}")
    return outcomes, failures


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _blocks(first: int, count: int, workers: int) -> Iterator[tuple[Counter[str], list[str]]]:
    starts = range(first, first + count, _BLOCK)
    sizes = [min(_BLOCK, first + count - start) for start in starts]
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_block, starts, sizes)


def main(argv: list[str]) -> int:
    """0 when every seed keeps the invariants, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that run them")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    outcomes: Counter[str] = Counter()
    failed = done = 0
    for found, failures in _blocks(arguments.first, arguments.seeds, arguments.workers):
        outcomes += found
        failed += len(failures)
        done += _BLOCK
        for text in failures:
            print(text, flush=True)
        if done % 1000 == 0:
            print(f"{done} of {arguments.seeds} seeds, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
    for outcome, count in outcomes.most_common():
        print(f"{count:>9}  {outcome or 'deleted, or never read to its end'}")
    print(f"{'FAILS ' if failed else 'holds '} {failed} of {arguments.seeds} seeds failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
