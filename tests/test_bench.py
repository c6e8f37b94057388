"""The harness itself: its statistics, its verdicts, its files, and that its checks notice a wrong byte.

Nothing here measures a time: what a figure is decides no test.
"""

import asyncio
import itertools
import re
import uuid
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare import compare
from bench.figures import Key, Metric, Series, judge, percentile, ratio, show
from bench.goals import Goal, Reached, evaluate
from bench.page import figures, profile, write_page
from bench.peers import Missing
from bench.profile import REST, SPENT_ON, spent_on
from bench.report import html
from bench.results import Outcome, Results, load, save
from bench.rig.content import EVENT, FlatCheck, TimedCheck, flat, timed_event
from bench.rig.http import BrokenRun, Chunks
from bench.rig.load import Link
from bench.rig.sink import Sink
from bench.rig.upstream import Upstream
from bench.runner import Options, run_scenario
from bench.scenarios import SCENARIOS, Scenario
from bench.scenarios.plan import Figures, Trial

_CPU = Metric("cpu", "CPU a stream", "ms")
_RATE = Metric("rate", "streams a second", "/s", "higher")
_OURS = Key("small", "proxy", "cpu")
_THEIRS = Key("small", "nginx", "cpu")


def _results(cpu: tuple[float, ...], rate: tuple[float, ...] = (10, 11, 12), **conditions: str) -> Results:
    table = {_OURS: Series(cpu), _THEIRS: Series((1, 1, 1)), Key("small", "proxy", "rate"): Series(rate)}
    goal = Goal("CPU <to nginx's>", _OURS, at_most=2, against=_THEIRS)
    outcome = Outcome(
        "create", "small streams & few", [_CPU, _RATE], 3, 4.5, table, [evaluate(goal, table)], ["A <note>."]
    )
    return Results("2026-01-02T03:04:05+00:00", {"machine": "one <fast> core", **conditions}, [outcome])


def test_a_median_stands_with_its_range() -> None:
    series = Series((5.0, 1.0, 3.0))
    assert (series.median, series.low, series.high) == (3.0, 1.0, 5.0)


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(0.1, 100))
def test_a_percentile_is_a_value_that_occurred_with_enough_values_below_it(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6


def test_the_percentiles_of_a_hundred_values_are_those_values() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50.0, 99.0, 100.0)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_ratio_is_taken_repeat_by_repeat() -> None:
    assert ratio(Series((2, 6, 4)), Series((1, 3, 2))) == Series((2, 2, 2))
    assert ratio(Series((2, 6, 4)), Series((2,))) == Series((2,))
    assert ratio(Series((1,)), Series((0,))).median == float("inf")


@pytest.mark.parametrize(
    ("before", "after", "better", "word"),
    [
        ((10, 11, 12), (11.5, 13, 14), "lower", "within noise"),
        ((10, 11, 12), (12.5, 13, 14), "lower", "worse"),
        ((10, 11, 12), (7, 8, 9), "lower", "better"),
        ((10, 11, 12), (12.5, 13, 14), "higher", "better"),
        ((10, 11, 12), (7, 8, 9), "higher", "worse"),
        ((10, 11, 12), (7, 8, 9), "", "changed"),
        ((100, 100.1, 100.2), (100.5, 100.6, 100.7), "lower", "within noise"),
        ((10, 11), (20, 21, 22), "lower", "too few repeats to tell"),
        ((0, 0, 0), (0, 0, 0), "lower", "within noise"),
        ((0, 0, 0), (1, 2, 3), "lower", "worse"),
    ],
)
def test_a_change_differs_from_noise(
    before: tuple[float, ...], after: tuple[float, ...], better: str, word: str
) -> None:
    assert judge(Series(before), Series(after), better).word == word


@given(st.lists(st.floats(0.1, 1e6), min_size=3, max_size=9))
def test_a_run_compared_with_itself_is_noise(values: list[float]) -> None:
    verdict = judge(Series(tuple(values)), Series(tuple(values)), "lower")
    assert (verdict.word, verdict.ratio) == ("within noise", 1.0)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (0.0985, "0.0985"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346"),
     (float("inf"), "∞")],
)  # fmt: skip
def test_numbers_are_shown_with_the_digits_that_mean_something(number: float, text: str) -> None:
    assert show(number) == text


@pytest.mark.parametrize(
    ("goal", "reached", "over_bound"),
    [
        (Goal("at most", _OURS, at_most=3), True, 1.0),
        (Goal("at most", _OURS, at_most=2), False, 1.5),
        (Goal("at least", _OURS, at_least=2), True, 1.5),
        (Goal("at least", _OURS, at_least=4), False, 0.75),
        (Goal("to a peer", _OURS, at_most=2, against=_THEIRS), True, 0.75),
        (Goal("to a peer", _OURS, at_most=1, against=_THEIRS), False, 1.5),
        (Goal("not there", Key("small", "obvious", "cpu"), at_most=1), None, None),
        (Goal("not there", _OURS, at_most=1, against=Key("small", "obvious", "cpu")), None, None),
    ],
)
def test_a_goal_is_held_against_the_median(goal: Goal, reached: bool | None, over_bound: float | None) -> None:
    result = evaluate(goal, {_OURS: Series((2, 3, 4)), _THEIRS: Series((2, 2, 2))})
    assert (result.reached, result.ratio) == (reached, over_bound)
    assert result.word == {True: "reached", False: "NOT reached", None: "not measured"}[reached]


def test_a_result_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    results = _results((3.0, 1.0, 2.0))
    results.outcomes[0].goals.append(Reached("missing", "≤ 1", "", None, None, None))
    save(results, tmp_path / "a.json")
    assert load(tmp_path / "a.json") == results


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "begun": "x"}', "null"])
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json is no result"):
        load(tmp_path / "broken.json")


def test_a_comparison_names_ratio_verdict_and_changed_conditions() -> None:
    lines = "\n".join(compare(_results((10, 11, 12), python="3.11"), _results((20, 22, 24), python="3.12")))
    assert re.search(r"small · proxy · CPU a stream +11 → 22 ms +× 2\.00  worse", lines)
    assert re.search(r"streams a second .* × 1\.00  within noise", lines)
    assert "python: 3.11 → 3.12" in lines
    assert lines.endswith("2 within noise, 1 worse")


def test_a_comparison_says_what_only_one_of_the_two_has() -> None:
    other = _results((1, 1, 1))
    other.outcomes[0].scenario = "bulk"
    lines = "\n".join(compare(_results((1, 1, 1)), other))
    assert "bulk: only in B" in lines
    assert "create: only in A" in lines
    assert lines.endswith("nothing in common")


class _Page(HTMLParser):
    """What a page would fetch, which tags it leaves open, and the text that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.seen: list[str] = []
        self.charts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.charts += tag == "svg"
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        if tag in {"script", "link", "iframe", "object", "img"}:
            self.fetched.append(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def test_a_report_is_one_well_formed_page_that_fetches_nothing() -> None:
    text = html(_results((3.0, 1.0, 2.0)))
    page = _Page()
    page.feed(text)
    page.close()
    assert page.fetched == []
    assert page.open == []
    assert page.charts == 2
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    seen = "".join(page.seen)
    for said in ("one <fast> core", "CPU <to nginx's>", "A <note>.", "2 (1 – 3)", "≤ 2 ×", "reached"):
        assert said in seen


def test_a_goal_that_was_missed_is_stated_as_missed() -> None:
    assert "NOT reached" in html(_results((3.0, 3.0, 3.0)))
    assert "NOT reached" not in html(_results((2.0, 2.0, 2.0)))


def test_the_page_of_figures_is_rewritten_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nAfter\n")
    write_page(page, "figures", figures(_results((3.0, 3.0, 3.0))))
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("\nAfter\n")
    assert "old" not in text
    assert "| CPU <to nginx's> | ≤ 2 × | 3 (3 – 3) × | 1.50 | NOT reached |" in text
    write_page(page, "figures", figures(_results((3.0, 3.0, 3.0))))
    assert page.read_text() == text


def test_a_page_without_a_place_for_figures_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Nothing to fill\n")
    with pytest.raises(ValueError, match="no place"):
        write_page(page, "figures", "1")
    assert page.read_text() == "# Nothing to fill\n"


def test_a_sample_counts_for_the_first_thing_that_its_stack_tells() -> None:
    loop = ["uv__io_poll", "uv_run", "__pyx_f_6uvloop_4loop_4Loop__run"]
    assert spent_on(["tcp_sendmsg", "entry_SYSCALL_64_after_hwframe", "__GI___writev", "uv__writev", *loop]) == (
        "socket writes"
    )
    for function in ("writev", "__libc_write", "__GI___libc_write", "__GI___writev", "__libc_sendmsg"):
        assert spent_on(["entry_SYSCALL_64_after_hwframe", function, "task_step", *loop]) == "socket writes"
    for function in ("read", "__GI___libc_read", "recv", "__libc_recvmsg"):
        assert spent_on(["entry_SYSCALL_64_after_hwframe", function, "uv__read", *loop]) == "socket reads"
    assert spent_on(["PyObject_Repr_write", *loop]) == REST
    assert spent_on(["_PyEval_EvalFrameDefault", "task_step_impl", "task_step", *loop]).startswith("Python: tasks")
    assert spent_on(["_sre_match", "__pyx_f_6uvloop_4loop___uv_stream_on_read", "uv__read", *loop]).startswith(
        "Python: what was received"
    )
    assert spent_on(["sqlite3VdbeExec", "sqlite3_step", "thread_run"]).startswith("SQLite")
    assert spent_on(loop) == REST
    assert len({what for what, _ in SPENT_ON} | {REST}) == len(SPENT_ON) + 1


def test_a_profile_is_a_table_of_shares_that_sum_to_all() -> None:
    text = profile({"commit": "abc"}, {"tokens": {"socket writes": 1, REST: 3}, "create": {REST: 2}})
    assert "tokens: 4, create: 2" in text
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")][2:]
    assert [(name.strip(), *map(float, shares)) for name, *shares in rows] == [
        ("socket writes", 25.0, 0.0),
        (REST, 75.0, 100.0),
    ]


def test_every_goal_of_every_scenario_is_about_trials_that_it_has() -> None:
    for scenario in SCENARIOS.values():
        for quick in (True, False):
            trials = {(trial.case, trial.peer) for trial in scenario.plan(quick)}
            metrics = {metric.name for metric in scenario.metrics}
            for goal in scenario.goals:
                for key in filter(None, (goal.of, goal.against)):
                    assert (key.case, key.peer) in trials
                    assert key.metric in metrics


def _scenario(*trials: Trial) -> Scenario:
    goals = [Goal("CPU to nginx's", _OURS, at_most=2, against=_THEIRS)]
    return Scenario("create", "small streams", [_CPU], goals, lambda _: list(trials), repeats=3)


async def test_trials_take_turns_and_every_other_repeat_goes_backwards() -> None:
    order: list[str] = []

    def trial(peer: str, cpu: float) -> Trial:
        async def measure() -> Figures:
            order.append(peer)
            return {"cpu": cpu}

        return Trial("small", peer, measure)

    said: list[str] = []
    outcome = await run_scenario(_scenario(trial("proxy", 3), trial("nginx", 2)), Options(), said.append)
    assert order == ["proxy", "nginx", "nginx", "proxy", "proxy", "nginx"]
    assert outcome.table == {_OURS: Series((3, 3, 3)), _THEIRS: Series((2, 2, 2))}
    assert [goal.reached for goal in outcome.goals] == [True]
    assert len(said) == 6


async def test_a_peer_that_is_missing_is_left_out_and_said_to_be() -> None:
    async def missing() -> Figures:
        raise Missing("no such thing")

    async def there() -> Figures:
        return {"cpu": 1.0}

    said: list[str] = []
    outcome = await run_scenario(
        _scenario(Trial("small", "proxy", there), Trial("small", "nginx", missing)), Options(repeats=2), said.append
    )
    assert outcome.notes == ["Without nginx: no such thing."]
    assert [goal.word for goal in outcome.goals] == ["not measured"]
    assert sum("left out" in line for line in said) == 1


async def test_a_fault_seen_only_by_the_event_loop_voids_the_run() -> None:
    async def measure() -> Figures:
        asyncio.get_running_loop().call_soon(_fail)
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    with pytest.raises(BrokenRun, match=r"small, proxy: a byte was wrong"):
        await run_scenario(_scenario(Trial("small", "proxy", measure)), Options(), lambda _: None)


def _fail() -> None:
    raise BrokenRun("a byte was wrong")


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    return [data[start:end] for start, end in itertools.pairwise(at)]


_CUTS = st.lists(st.integers(0, 1 << 20), max_size=20)


@given(st.integers(0, 10**9), st.integers(16, 5000), _CUTS)
def test_a_flat_body_is_known_again_however_it_is_cut(index: int, size: int, cuts: list[int]) -> None:
    check = FlatCheck()
    for piece in _pieces(b"".join(flat(index, size)), cuts):
        check.feed(memoryview(piece), 0)
    assert (check.index, check.received, check.intact) == (index, size, True)


@given(st.integers(0, 10**9), st.integers(100, 3000), st.data())
def test_a_flat_body_with_bytes_wrong_missing_or_doubled_is_noticed(index: int, size: int, data: st.DataObject) -> None:
    whole = b"".join(flat(index, size))
    at = data.draw(st.integers(16, size - 17))
    wrong = data.draw(
        st.sampled_from(
            [
                whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
                whole[:at] + whole[at + 16 :],
                whole[:at] + whole[at - 16 : at] + whole[at:],
            ]
        )
    )
    check = FlatCheck()
    check.feed(memoryview(wrong), 0)
    assert not check.intact or check.received != size


def test_a_body_longer_than_the_pool_goes_on_where_a_later_slice_begins() -> None:
    size, cut = 3_000_000, 1_234_567
    whole = b"".join(flat(7, size))
    assert len(whole) == size
    assert b"".join(flat(7, size, cut)) == whole[cut:]


@given(st.integers(1, 20), _CUTS)
def test_timed_events_are_counted_and_aged_however_they_are_cut(count: int, cuts: list[int]) -> None:
    latencies: list[int] = []
    check = TimedCheck(latencies)
    for piece in _pieces(b"".join(timed_event(3, number, 1000 + number) for number in range(count)), cuts):
        check.feed(memoryview(piece), 2000)
    assert (check.index, check.events, check.received, check.intact) == (3, count, count * EVENT, True)
    assert latencies == [1000 - number for number in range(count)]


@pytest.mark.parametrize(
    "events",
    [
        [timed_event(3, 1, 5)],
        [timed_event(3, 0, 5), timed_event(3, 2, 5)],
        [timed_event(3, 0, 5), timed_event(3, 0, 5)],
        [timed_event(3, 0, 5), timed_event(4, 1, 5)],
        [b"x" * EVENT],
        [timed_event(3, 0, 5).replace(b".", b"x", 1)],
    ],
)
def test_a_timed_event_lost_doubled_strayed_or_changed_is_noticed(events: list[bytes]) -> None:
    check = TimedCheck([])
    for event in events:
        check.feed(memoryview(event), 10)
    assert not check.intact


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), _CUTS)
def test_a_chunked_answer_gives_its_bytes_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    received: list[bytes] = []
    chunks = Chunks(lambda view: received.append(bytes(view)))
    wire = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    for piece in _pieces(wire, cuts):
        assert not chunks.done
        chunks.feed(piece)
    assert chunks.done
    assert b"".join(received) == b"".join(parts)


async def test_the_null_storage_checks_what_it_throws_away_and_keeps_what_is_read_back() -> None:
    sink = Sink()
    await sink.start()
    link = await Link.open(int(sink.url.rpartition(":")[2]))
    stream_id = str(uuid.UUID(int=5))
    path = f"/v1/streams/{stream_id}"
    body = b"".join(flat(9, 40))

    async def ask(request: str, payload: bytes = b"") -> int:
        head = f"{request}Content-Length: {len(payload)}\r\n\r\n"
        return (await link.ask(head.encode() + payload)).status

    producer = "Producer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: "
    assert await ask(f"PUT {path} HTTP/1.1\r\nContent-Type: application/octet-stream\r\n") == 201
    assert await ask(f"PUT {path}.record HTTP/1.1\r\nContent-Type: application/json\r\n", b'{"a":1}') == 201
    assert await ask(f"POST {path} HTTP/1.1\r\n{producer}0\r\n", body[:25]) == 200
    assert await ask(f"POST {path} HTTP/1.1\r\n{producer}1\r\nStream-Closed: true\r\n", body[25:]) == 200
    stored = await sink.closed(stream_id.encode())
    assert stored.check is not None
    assert (stored.check.index, stored.check.received, stored.check.intact, stored.closed) == (9, 40, True, True)
    read: list[bytes] = []
    record = await link.ask(f"GET {path}.record HTTP/1.1\r\n\r\n".encode(), lambda view, _: read.append(bytes(view)))
    assert (record.status, b"".join(read)) == (200, b'[{"a": 1}]')
    head = await link.ask(f"HEAD {path} HTTP/1.1\r\n\r\n".encode())
    assert (head.field(b"stream-closed"), head.field(b"stream-next-offset")) == (b"true", b"%016d_%016d" % (0, 40))
    assert (await link.ask(f"GET {path[:-1]}6 HTTP/1.1\r\n\r\n".encode())).status == 404
    link.close()
    await sink.stop()


@pytest.mark.parametrize("script", ["flat", "chunked", "events", "dense", "burst"])
async def test_the_scripted_upstream_sends_the_body_that_its_path_names(script: str) -> None:
    upstream, check = Upstream(), FlatCheck()
    await upstream.start()
    link = await Link.open(upstream.port)
    size = 200_000 if script in {"flat", "chunked"} else 70 * EVENT
    number = size if script in {"flat", "chunked"} else 70
    for index in (1, 2):
        check = FlatCheck()
        reply = await link.ask(f"GET /{script}/{index}/{number} HTTP/1.1\r\n\r\n".encode(), check.feed)
        assert (reply.status, check.index, check.received, check.intact) == (200, index, size, True)
    link.close()
    await upstream.stop()
