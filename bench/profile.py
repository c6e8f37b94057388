"""Where a contender's CPU time goes: samples of `perf`, sorted by what each was spent on.

Owns perf and the sorting. Figures of a profiled run mean nothing, because sampling costs time.
"""

import contextlib
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["REST", "SPENT_ON", "profiling", "sampled", "sort", "spent_on"]

_HZ = 999
_STACK_BYTES = 16_384  # kept of each sample's stack: enough to reach the event loop

SPENT_ON: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("SQLite, and its system calls", re.compile(r"sqlite3_")),
    ("socket writes", re.compile(r"^_*(?:GI_+)?(?:libc_)?(?:writev?|send(?:msg)?)$")),
    ("socket reads", re.compile(r"^_*(?:GI_+)?(?:libc_)?(?:readv?|recv(?:msg|from)?)$")),
    ("waiting for events", re.compile(r"epoll_p?wait")),
    ("other system calls", re.compile(r"^entry_SYSCALL|^asm_exc_page_fault")),
    ("Python: tasks (handlers, pump, producer)", re.compile(r"^task_step")),
    ("Python: what was received (codec, pipe)", re.compile(r"^uv__read$|uv_stream_on_read")),
    ("Python: other threads", re.compile(r"^thread_run$|^pythread_wrapper$")),
)
"""What time is spent on, and the functions that show it: the first one on a sample's stack counts."""

REST = "the event loop itself, timers, the rest"

_samples: Path | None = None


@contextlib.contextmanager
def profiling() -> Iterator[Path]:
    """A block in which every measurement is sampled, into a file each in the directory. Raises OSError without perf."""
    global _samples  # noqa: PLW0603  # so that scenarios need not know whether they are profiled
    if shutil.which("perf") is None:
        raise OSError("a profile needs perf (Debian: linux-perf)")
    with tempfile.TemporaryDirectory() as directory:
        _samples = Path(directory)
        try:
            yield _samples
        finally:
            _samples = None


@contextlib.contextmanager
def sampled(pid: int) -> Iterator[None]:
    """The measured block of a run. It is sampled while a profile is taken."""
    if _samples is None:
        yield
        return
    path = _samples / f"{len(list(_samples.iterdir()))}.perf"
    record = ["perf", "record", "-q", "-F", str(_HZ), "--call-graph", f"dwarf,{_STACK_BYTES}", "-o", str(path)]
    perf = subprocess.Popen([*record, "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()


def sort(path: Path) -> Counter[str]:
    """The number of samples by what they were spent on. Raises OSError when perf cannot read its file."""
    script = ["perf", "script", "--no-inline", "-F", "ip,sym", "-i", str(path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as perf:
        assert perf.stdout is not None
        counted = Counter(spent_on(stack) for stack in _stacks(perf.stdout))
    if perf.returncode != 0:
        raise OSError("perf could not read what it had recorded")
    return counted


def _stacks(lines: Iterable[str]) -> Iterator[list[str]]:
    """The functions of each sample, innermost first. Empty lines separate samples."""
    stack: list[str] = []
    for line in lines:
        words = line.split(maxsplit=1)
        if words:
            stack.append(words[1].strip() if len(words) > 1 else "")
        elif stack:
            yield stack
            stack = []
    if stack:
        yield stack


def spent_on(stack: list[str]) -> str:
    """What a sample counts for: `stack` holds its functions, innermost first."""
    for what, pattern in SPENT_ON:
        if any(pattern.search(function) for function in stack):
            return what
    return REST
