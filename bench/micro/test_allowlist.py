"""Deciding about one URL: parsed and matched against a short and a long list, let through and refused."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.policy.allowlist import Allowlist
from proxy.wire.url import parse_url

_URL = b"https://api.openai.com/v1/chat/completions?stream=true"
_SHORT = ["https://api.openai.com/**", "https://api.anthropic.com/v1/*", "https://*.example.com/api/**"]
_LONG = [f"https://host-{number}.example.com/v1/*/items/**" for number in range(200)]


def test_a_url_is_parsed(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse_url, _URL).host == "api.openai.com"


@pytest.mark.parametrize("patterns", [_SHORT, [*_LONG, *_SHORT]], ids=["3 patterns", "203 patterns"])
def test_an_allowed_url_is_matched(benchmark: BenchmarkFixture, patterns: list[str]) -> None:
    allowlist, url = Allowlist(patterns), parse_url(_URL)
    assert benchmark(allowlist.match, url) is not None


def test_a_url_that_no_pattern_of_a_long_list_allows_is_refused(benchmark: BenchmarkFixture) -> None:
    allowlist, url = Allowlist(_LONG), parse_url(_URL)
    assert benchmark(allowlist.match, url) is None


def test_a_pattern_of_many_wildcards_against_a_path_that_almost_fits(benchmark: BenchmarkFixture) -> None:
    allowlist = Allowlist(["https://api.openai.com/**/a*b*c/**/d*e*f"])
    url = parse_url(b"https://api.openai.com/" + b"/".join([b"abababc"] * 40) + b"/dedede")
    assert benchmark(allowlist.match, url) is None
