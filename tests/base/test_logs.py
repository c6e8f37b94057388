"""What a fault repeats is logged once in a while, with a count."""

import logging

from proxy.base.logs import LogLimits, Repeats


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept(logging.Handler):
    """Keeps the lines that pass its filter."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.addFilter(Repeats(LogLimits(log_window_seconds=60.0, log_lines=3), clock))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def _logger(kept: Kept, name: str) -> logging.Logger:
    logger = logging.Logger(name)
    logger.addHandler(kept)
    return logger


def test_equal_lines_are_logged_once_a_minute_with_a_count() -> None:
    clock = Clock()
    kept = Kept(clock)
    logger = _logger(kept, "storage")
    for second in range(121):
        clock.now = second
        logger.warning("storage failed: %s", "refused")
    assert kept.lines == [
        "storage failed: refused",
        "storage failed: refused (59 lines like this were left out before it)",
        "storage failed: refused (59 lines like this were left out before it)",
    ]


def test_of_different_lines_from_one_call_some_pass_in_a_minute() -> None:
    clock = Clock()
    kept = Kept(clock)
    logger = _logger(kept, "streams")
    for number in range(1000):
        logger.warning("stream %d: closed", number)
    assert kept.lines == ["stream 0: closed", "stream 1: closed", "stream 2: closed"]
    clock.now = 60.0
    logger.warning("stream %d: closed", 7)
    assert kept.lines[3:] == ["stream 7: closed (997 lines like this were left out before it)"]


def test_one_kind_of_line_hides_no_other() -> None:
    kept = Kept(Clock())
    for name in ("a", "b"):
        logger = _logger(kept, name)
        for _ in range(5):
            logger.warning("one")
            logger.error("two")
    assert kept.lines == ["one", "two", "one", "two"]


def test_a_traceback_is_logged_with_the_line_that_passes() -> None:
    kept = Kept(Clock())
    logger = _logger(kept, "handlers")
    for _ in range(100):
        try:
            raise RuntimeError("a fault of ours")
        except RuntimeError:
            logger.exception("it failed")
    (line,) = kept.lines
    assert line.startswith("it failed\nTraceback")
