"""What a distribution must hold: `python -m tests.dist_contents SDIST WHEEL` prints what is wrong with the two."""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["faults"]

ROOT = Path(__file__).resolve().parent.parent
NOT_SHIPPED = {".gitignore"}
MADE = ("PKG-INFO", "setup.cfg", "durable_streams_proxy.egg-info/")  # by the build itself


def tracked() -> set[str]:
    """Every file of the repository, by its path."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).exists()} - NOT_SHIPPED


def faults(files: set[str], sdist: Iterable[str], wheel: Iterable[str]) -> list[str]:
    """What is wrong with the names in an sdist (below its folder) and in a wheel, given those in the repository."""
    in_wheel, in_sdist = set(wheel), set(sdist)
    package = {name for name in files if name.startswith("proxy/")}
    metadata = {name for name in in_wheel if ".dist-info/" in name}
    ends = [name.partition(".dist-info/")[2] for name in metadata]
    return [
        *(f"the sdist lacks {name}" for name in sorted(files - in_sdist)),
        *(f"the sdist has {name}" for name in sorted(in_sdist - files) if not name.startswith(MADE)),
        *(f"the wheel lacks {name}" for name in sorted(package - in_wheel)),
        *(f"the wheel has {name}" for name in sorted(in_wheel - package - metadata)),
        *(f"the wheel lacks its {name}" for name in ("METADATA", "licenses/LICENSE") if name not in ends),
    ]


def main(sdist: str, wheel: str) -> int:
    """Print the faults; the exit code says whether there are any."""
    with tarfile.open(sdist) as source, zipfile.ZipFile(wheel) as built:
        below = [member.name.partition("/")[2] for member in source if member.isfile()]
        found = faults(tracked(), below, built.namelist())
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
