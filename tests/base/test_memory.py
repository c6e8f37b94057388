"""The process's memory: the C library's settings, taken where there is glibc, and Python's cycle collector."""

import ctypes
import gc
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest

from proxy.base.memory import MemorySettings, keep_freed_memory, seek_cycles_seldom

_FREE_AND_COUNT = """
import os, resource, sys
from proxy.base.memory import MemorySettings, keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory(MemorySettings(8 << 20, 1 << 20, 0))
def take_and_free():
    blocks = [bytearray(b"x") * 256_000 for _ in range(8)]
for _ in range(5):
    take_and_free()  # let the library's own thresholds settle
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    take_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _FREE_AND_COUNT, how], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_blocks_that_are_freed_and_taken_again_cost_no_new_pages() -> None:
    assert _page_faults("kept") < 100  # of the 10,000 pages of 160 blocks
    assert _page_faults("given back") > 1000  # or the setting were needless


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(*_: object) -> Callable[[int, int], int]:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    keep_freed_memory(MemorySettings(1, 1, 0))


def test_cycles_are_sought_among_new_objects_only_and_seldom() -> None:
    thresholds = gc.get_threshold()
    try:
        seek_cycles_seldom(MemorySettings(0, 0, 5000))
        assert gc.get_threshold() == (5000, *thresholds[1:])
        assert gc.get_freeze_count() > 1000
        assert len(gc.get_objects()) < 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
