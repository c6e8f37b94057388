"""The command: clients of three instances while one fault follows the other. 1 when an oracle finds something."""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from bench.fleet.clients import Clients
from bench.fleet.fleet import Fleet, Storage
from bench.fleet.model import Model


async def _run(kind: str, seconds: float, seed: int) -> bool:
    dice = random.Random(seed)
    storage = Storage(kind, Path(tempfile.mkdtemp(prefix="soak-store-")))
    model = Model()
    await model.listen()
    fleet = await Fleet.start(storage, model.port, dice)
    print(f"three instances on {kind}, {seconds:.0f} s, seed {seed}", flush=True)
    try:
        clients = Clients(fleet, model, dice)
        disturbing = asyncio.ensure_future(fleet.disturb(seconds))
        await clients.run(seconds)
        await disturbing
    finally:
        await fleet.aclose()
        await model.aclose()
        storage.stop()
    lines, holds = clients.findings.report()
    print(f"faults {dict(sorted(fleet.faults.items()))}")
    print("\n".join(lines), flush=True)
    return holds


def main(argv: list[str]) -> int:
    """0 when everything holds, 1 when something does not."""
    parser = argparse.ArgumentParser(prog="./scripts/soak fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="length of the load [default 600]")
    parser.add_argument("--storage", choices=("store", "npm"), action="append", help="storage [default: both in turn]")
    parser.add_argument("--seed", type=int, default=1, help="of what goes wrong, and when [default 1]")
    arguments = parser.parse_args(argv)
    kinds = arguments.storage or ["store", "npm"]
    results = [asyncio.run(_run(kind, arguments.seconds, arguments.seed)) for kind in kinds]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
