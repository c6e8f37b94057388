"""The command: `python -m bench` lists, `python -m bench NAME…` runs and `profile NAME…` says where the time goes.

`compare` and `report` look at results.
"""

import argparse
import asyncio
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.compare import compare
from bench.machine import conditions
from bench.page import figures, profile, write_page
from bench.process import pin_self
from bench.profile import profiling, sort
from bench.report import html
from bench.results import Outcome, Results, load, save
from bench.rig.http import BrokenRun
from bench.runner import Options, outcome_lines, run_scenario
from bench.scenarios import SCENARIOS, Scenario

_RESULTS = Path(__file__).with_name("results")
_PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def main(argv: list[str]) -> int:
    """The exit code: 0; 1 for a run whose output was wrong; 2 for a command that cannot be run."""
    try:
        if argv[:1] == ["compare"]:
            return _compare(argv[1:])
        if argv[:1] == ["report"]:
            return _report(argv[1:])
        if argv[:1] == ["profile"]:
            return _profile(argv[1:])
        return _run(argv)
    except BrokenRun as error:
        print(f"\nThe run is void: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Without a name: the scenarios and their goals. `all` runs every one."
    )
    parser.add_argument("name", nargs="*", help=f"{', '.join(SCENARIOS)}, or all")
    parser.add_argument("--repeats", type=int, help="how often each contender runs (default: the scenario's)")
    parser.add_argument("--quick", action="store_true", help="short runs, once: does it work, not how fast is it")
    parser.add_argument("--only", action="append", metavar="PEER", help="leave the other contenders out (repeatable)")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="directory of the results (default: bench/results)")
    arguments = parser.parse_args(argv)
    names = list(SCENARIOS) if arguments.name == ["all"] else arguments.name
    options = Options(arguments.repeats or (1 if arguments.quick else 0), arguments.quick, tuple(arguments.only or ()))
    _check_names(names)
    if not names:
        _list()
        return 0
    results = Results(datetime.now(UTC).isoformat(timespec="seconds"), conditions(pin_self()), [])
    for name, text in results.conditions.items():
        print(f"{name:>12}  {text}")
    for name in names:
        scenario = SCENARIOS[name]
        print(f"\n{name}: {scenario.summary}", flush=True)
        outcome = _outcome(scenario, options)
        results.outcomes.append(outcome)
        print("\n".join(outcome_lines(outcome)), flush=True)
        path = _write(results, arguments.out)
    print(f"\n{path}\n{path.with_suffix('.html')}")
    return 0


def _check_names(names: list[str]) -> None:
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise ValueError(f"no scenario called {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")


def _outcome(scenario: Scenario, options: Options) -> Outcome:
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(run_scenario(scenario, options, lambda line: print(line, flush=True)))


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415  # listing and comparing work without it

    return uvloop.new_event_loop()


def _list() -> None:
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:<13} {scenario.summary}")
        for goal in scenario.goals:
            print(f"{'':<13}   {goal.text}: {goal.bound}")
    print("\n./scripts/bench NAME… [--quick] [--repeats N]   ./scripts/bench compare A.json B.json")
    print("./scripts/bench profile NAME…")


def _write(results: Results, directory: Path) -> Path:
    """Save the results. Called after each scenario, so that an interrupted run keeps them."""
    which = results.outcomes[0].scenario if len(results.outcomes) == 1 else f"{len(results.outcomes)}-scenarios"
    stamp = results.begun.replace(":", "").replace("+0000", "Z")
    path = directory / f"{stamp}-{which}.json"
    for earlier in directory.glob(f"{stamp}-*"):
        earlier.unlink()
    save(results, path)
    path.with_suffix(".html").write_text(html(results))
    return path


def _compare(argv: list[str]) -> int:
    if len(argv) != 2:
        raise ValueError("compare takes two result files: python -m bench compare A.json B.json")
    print("\n".join(compare(load(Path(argv[0])), load(Path(argv[1])))))
    return 0


def _report(argv: list[str]) -> int:
    """Rewrites the HTML of a result; with --page also the figures in docs/performance.md."""
    paths = [Path(argument) for argument in argv if argument != "--page"]
    if not paths:
        raise ValueError("report takes a result file: python -m bench report RESULT.json [--page]")
    for path in paths:
        results = load(path)
        path.with_suffix(".html").write_text(html(results))
        print(path.with_suffix(".html"))
        if "--page" in argv:
            write_page(_PAGE, "figures", figures(results))
            print(_PAGE)
    return 0


def _first_case(scenario: Scenario) -> Scenario:
    """The scenario with its first trial alone, which measures our own process."""
    return replace(scenario, plan=lambda quick: scenario.plan(quick)[:1])


def _profile(argv: list[str]) -> int:
    """Samples our own process in the first case of each scenario; with --page also into docs/performance.md."""
    names = [argument for argument in argv if argument != "--page"]
    _check_names(names)
    if not names:
        raise ValueError("profile takes scenarios: python -m bench profile NAME… [--page]")
    machine = conditions(pin_self())
    found: dict[str, Counter[str]] = {}
    for name in names:
        with profiling() as samples:
            _outcome(_first_case(SCENARIOS[name]), Options(repeats=1))
            found[name] = sum(map(sort, samples.iterdir()), Counter())
    text = profile(machine, found)
    print(f"\n{text}")
    if "--page" in argv:
        write_page(_PAGE, "profile", text)
        print(_PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
