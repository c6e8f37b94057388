"""The process's memory: the C library's settings, taken where there is glibc, and Python's cycle collector."""

import ctypes
import gc
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest

from proxy.base.memory import FreedMemory, MemorySettings, keep_freed_memory, seek_cycles_seldom

_FREE_AND_COUNT = """
import os, resource, sys
from proxy.base.memory import MemorySettings, keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory(MemorySettings(8 << 20, 1 << 20, 0, 1.0))
def take_and_free():
    blocks = [bytearray(b"x") * 256_000 for _ in range(8)]
for _ in range(5):
    take_and_free()  # let the library's own thresholds settle
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    take_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

_FREE_BELOW_A_PIN = """
import os, sys
from proxy.base.memory import FreedMemory, MemorySettings, keep_freed_memory
settings = MemorySettings(8 << 20, 1 << 20, 0, 1.0)
keep_freed_memory(settings)
freed = FreedMemory(settings)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
blocks, pins = [], []
for _ in range(500):
    blocks.append(bytearray(b"x") * 128_000)
    pins.append(bytearray(b"x") * 2_000)  # above it in the heap
before = resident()
del blocks
looks = [freed.look() for _ in range(4)]
print(before - resident() >> 20, looks)
blocks = [bytearray(b"x") * 128_000 for _ in range(500)]
looks = [freed.look() for _ in range(2)]
del blocks
looks += [freed.look() for _ in range(3)]
print(looks)
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_what_was_freed_and_is_not_needed_again_is_given_back_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FREE_BELOW_A_PIN], capture_output=True, text=True, check=True, timeout=60
    )
    first, second = done.stdout.splitlines()
    returned, _, looks = first.partition(" ")
    assert looks == "[False, True, False, False]"
    assert int(returned) > 40  # MiB of 61
    assert second == "[False, False, False, True, False]"  # and again after it was needed


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(*_: object) -> Callable[[int, int], int]:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    settings = MemorySettings(1, 1, 0, 1.0)
    keep_freed_memory(settings)
    assert not FreedMemory(settings).look()


def test_cycles_are_sought_among_new_objects_only_and_seldom() -> None:
    thresholds = gc.get_threshold()
    try:
        seek_cycles_seldom(MemorySettings(0, 0, 5000, 1.0))
        assert gc.get_threshold() == (5000, *thresholds[1:])
        assert gc.get_freeze_count() > 1000
        assert len(gc.get_objects()) < 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
