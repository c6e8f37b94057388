"""Settings: each from flag, environment or default; bad ones in one line that names them; no secret in any repr."""

import os
import stat
from dataclasses import fields
from pathlib import Path
from typing import get_origin, get_type_hints

import pytest

from proxy.config import (
    GROUPS,
    SETTINGS,
    Config,
    ConfigError,
    Setting,
    Value,
    data_path,
    found_secrets,
    service_secrets,
)
from proxy.config.numbers import DERIVED, FIXED
from proxy.config.setting import parsed, shown

SAMPLES: dict[str, tuple[str, Value]] = {
    "host": ("::1, 127.0.0.1", ("::1", "127.0.0.1")),
    "tls_cert": ("a.pem", ("a.pem",)),
    "tls_key": ("a.key", ("a.key",)),
    "upstream_cert": ("https://a.example=a.pem", ("https://a.example=a.pem",)),
    "upstream_http": ("1.1", "1.1"),
    "tls_min_version": ("1.3", "1.3"),
    "public_url": ("https://proxy.example/base", "https://proxy.example/base"),
    "durable_streams_url": ("http://storage:4437", "http://storage:4437"),
    "allowlist": ("https://a.example/**, https://b.example", ("https://a.example/**", "https://b.example")),
    "cors_origin": ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
    "allow_private": ("http://a.internal", ("http://a.internal",)),
    "forward_header": ("origin, cf-aig-*", ("origin", "cf-aig-*")),
    "pass_header": ("x-one, x-two-*", ("x-one", "x-two-*")),
    "secret": ("a, b", ("a, b",)),
    "egress_proxy": ("http://egress.example:3128", "http://egress.example:3128"),
    "no_proxy": ("10.0.0.0/8, .internal.example", ("10.0.0.0/8", ".internal.example")),
    "stream_ttl_seconds": ("90000", 90_000),
    "max_transfer_seconds": ("3601.5", 3601.5),
    "inactivity_timeout_seconds": ("599", 599.0),
    "max_waiting_bytes": ("1MiB", 1 << 20),
}
# Settings that cannot be alone, each with others that it needs beside it.
PAIR: dict[str, Value] = {"tls_cert": ("cert.pem",), "tls_key": ("key.pem",)}
NEEDS = {"tls_cert": PAIR, "tls_key": PAIR, "tls_client_ca": PAIR}
NUMBERS = [setting for setting in SETTINGS if setting.kind in (int, float)]


def sample(setting: Setting) -> tuple[str, Value]:
    """A value that is not the default, as text and as it should be read."""
    if setting.name in SAMPLES:
        return SAMPLES[setting.name]
    if setting.kind is bool:
        return "true", True
    if setting.kind is str:
        return "some-text", "some-text"
    value = setting.kind(setting.default) + 1
    return str(value), value


def named(setting: Setting) -> str:
    return setting.name


def secrets_of(**settings: Value) -> tuple[tuple[str, ...], str]:
    config = Config.of(**settings)
    return service_secrets(config.access, config.place)


# Sources


@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_every_setting_has_a_variable_and_its_flag_comes_first(setting: Setting) -> None:
    text, value = sample(setting)
    flag: object = text
    if setting.kind is bool:
        flag = True
    elif isinstance(value, tuple):
        flag = list(value)
    needs = NEEDS.get(setting.name, {})
    expected = Config.of(**needs | {setting.name: value})
    assert Config.from_sources({}, {setting.env: f" {text} "}, needs) == expected
    assert Config.from_sources({}, {setting.env: "  "}) == Config.of()
    assert Config.from_sources({setting.name: flag}, {setting.env: "nonsense"}, needs) == expected
    assert Config.from_sources({}, {}, needs | {setting.name: value}) == expected


@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_every_setting_reaches_a_section(setting: Setting) -> None:
    needs = NEEDS.get(setting.name, {})
    assert Config.of(**needs | {setting.name: sample(setting)[1]}) != Config.of(**needs)


def test_every_number_that_nobody_sets_reaches_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [number.name for number in (*FIXED, *DERIVED)]
    assert not set(names) & {setting.name for setting in SETTINGS}
    usual = Config.of()
    for name in names:
        with monkeypatch.context() as patch:
            patch.setattr("proxy.config.config.all_values", lambda values, name=name: changed(values, name))
            assert Config.of() != usual, name


def changed(values: dict[str, Value], name: str) -> dict[str, Value]:
    from proxy.config.numbers import all_values

    return all_values(values) | {name: -1}


def test_every_field_of_a_section_has_a_value_of_its_own_type() -> None:
    config = Config.of()
    for section in fields(config):
        value = getattr(config, section.name)
        for name, kind in get_type_hints(type(value)).items():
            wanted = (int, float) if kind is float else get_origin(kind) or kind
            assert isinstance(getattr(value, name), wanted), f"{section.name}.{name}"


def test_names_are_unique_and_every_setting_is_explained() -> None:
    for names in ([each.env for each in SETTINGS], [each.flag for each in SETTINGS if each.flag]):
        assert len(names) == len(set(names))
    for setting in SETTINGS:
        assert setting.help[0].isupper()
        assert not setting.help.endswith(".")
        if setting in NUMBERS:
            assert setting.unit, f"{setting.name} has no unit"
    assert len({group.key for group in GROUPS}) == len(GROUPS)


def test_credentials_have_no_flag_and_stand_in_no_repr() -> None:
    credentials = {setting.name for setting in SETTINGS if setting.flag is None}
    assert credentials == {
        "secret",
        "durable_streams_token",
        "egress_credentials",
        "store_password",
        "store_read_token",
        "store_write_token",
    }
    values: dict[str, Value] = dict.fromkeys(credentials, "CANARY")
    values["secret"] = ("CANARY", "CANARY 2")
    assert "CANARY" not in repr(Config.of(**values))


# Values


@pytest.mark.parametrize(
    ("unit", "text", "value"),
    [
        ("bytes", "65536", 65_536),
        ("bytes", "64KiB", 65_536),
        ("bytes", "64 kib", 65_536),
        ("bytes", "10MB", 10_000_000),
        ("bytes", "1.5GiB", 3 << 29),
        ("bytes", "7B", 7),
        ("s", "90", 90),
        ("s", "90s", 90),
        ("s", "1m30s", 90),
        ("s", "1h 30m", 5400),
        ("s", "2d", 172_800),
        ("s", "4000ms", 4),
    ],
)
def test_sizes_and_times_may_have_a_unit(unit: str, text: str, value: int) -> None:
    assert parsed(Setting("x", 1, "X", unit=unit), text, "--x") == value


@pytest.mark.parametrize("unit", ["bytes", "s", "streams"])
@pytest.mark.parametrize(
    "text", ["", "x", "1e3", "1_000", "0x10", "inf", "nan", "1 000", "10XB", "5y", "٣", "30m s", "1.5s"]
)
def test_other_spellings_of_a_whole_number_are_refused(unit: str, text: str) -> None:
    with pytest.raises(ConfigError, match="--x must be") as caught:
        parsed(Setting("x", 1, "X", unit=unit), text, "--x")
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("setting", NUMBERS, ids=named)
def test_a_default_is_shown_as_it_could_be_given(setting: Setting) -> None:
    assert parsed(setting, shown(setting), "--x") == pytest.approx(setting.default)


@pytest.mark.parametrize("setting", NUMBERS, ids=named)
def test_a_number_that_is_none_or_out_of_bounds_is_one_line_that_names_it(setting: Setting) -> None:
    for text in ("many", "-1", "1_0x", "nan", "inf", "0x10"):
        with pytest.raises(ConfigError) as caught:
            Config.from_sources({}, {setting.env: text})
        message = str(caught.value)
        assert "\n" not in message
        assert setting.env in message or str(setting.flag) in message


@pytest.mark.parametrize(("text", "value"), [("1", True), ("YES", True), ("false", False), ("No", False), ("0", False)])
def test_a_switch_is_spelled_in_a_few_ways(text: str, value: bool) -> None:
    assert Config.from_sources({}, {"PROXY_SHARED_CACHE": text}).read.shared_cache is value
    with pytest.raises(ConfigError, match="PROXY_SHARED_CACHE"):
        Config.from_sources({}, {"PROXY_SHARED_CACHE": "perhaps"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"port": 65_536}, "--port must be at most 65535, not 65536"),
        ({"port": "80"}, "--port must be a whole number, not str"),
        ({"port": True}, "--port"),
        ({"host": ()}, "--host must name at least one host"),
        ({"uds": 1}, "--uds must be a text, not int"),
        ({"allowlist": "https://a.example"}, "--allow must be a list of texts"),
        ({"allowlist": ("https://",)}, "--allow"),
        ({"allowlist": ("ftp://x/",)}, "--allow"),
        ({"cors_origin": ("nonsense",)}, "--cors-origin"),
        ({"pass_header": ("set-cookie",)}, "--pass-header"),
        ({"secret": ("",)}, "PROXY_SECRET"),
        ({"durable_streams_url": "localhost:4437"}, "--durable-streams-url"),
        ({"egress_proxy": "egress.example:3128"}, "--egress-proxy"),
        ({"egress_proxy": "https://egress.example"}, "--egress-proxy"),
        ({"egress_proxy": "http://user:pass@egress.example"}, "--egress-proxy"),
        ({"egress_proxy": "http://egress.example", "no_proxy": ("a b",)}, "--no-proxy"),
        ({"durable_streams_url": "http://"}, "--durable-streams-url"),
        ({"durable_streams_url": "http://user:pass@host/"}, "--durable-streams-url"),
        ({"durable_streams_url": "http://host:99999/"}, "--durable-streams-url"),
        ({"durable_streams_url": "http://host/?x"}, "--durable-streams-url"),
        ({"durable_streams_url": "http://[::1/"}, "--durable-streams-url"),
        ({"durable_streams_url": "unix:relative.sock"}, "--durable-streams-url"),
        ({"durable_streams_url": "unix:/" + 107 * "x"}, "--durable-streams-url"),
        ({"public_url": "unix:/run/x"}, "--public-url"),
        ({"tls_cert": ("a", "b"), "tls_key": ("a",)}, "--tls-cert and --tls-key"),
        ({"upstream_cert": ("http://a.example=a.pem",)}, "--upstream-cert"),
        ({"tls_min_version": "1.1"}, "--tls-min-version"),
        ({"tls_client_ca": "ca.pem"}, "--tls-client-ca"),
        (PAIR | {"uds": "/run/x"}, "--tls-cert"),
        ({"public_url": "http://ho st/"}, "--public-url"),
        ({"public_url": "ftp://host/"}, "--public-url"),
        ({"stream_ttl_seconds": 3600}, "--stream-ttl-seconds"),
        ({"inactivity_timeout_seconds": 90_000.0}, "--stream-ttl-seconds"),
        ({"max_request_bytes": 513 << 20}, "--max-request-bytes-total"),
    ],
)
def test_what_cannot_be_run_does_not_exist(values: dict[str, Value], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.of(**values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_a_name_that_is_no_setting_is_refused() -> None:
    for name in ("colour", FIXED[0].name, DERIVED[0].name):
        with pytest.raises(TypeError, match=name):
            Config.of(**{name: 1})


# Secrets


def private(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_without_a_secret_one_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    data_dir = str(tmp_path / "deep" / "data")
    previous = os.umask(0)
    try:
        (secret,), source = secrets_of(data_dir=data_dir)
    finally:
        os.umask(previous)
    assert Path(source) == tmp_path / "deep" / "data" / "secret"
    assert (mode(Path(source)), mode(Path(source).parent)) == (0o600, 0o700)
    assert len(secret) == 64
    assert secrets_of(data_dir=data_dir) == ((secret,), source)
    assert secrets_of(data_dir=str(tmp_path / "other"))[0] != (secret,)
    assert [path.name for path in Path(source).parent.iterdir()] == ["secret"]


def test_a_secret_given_needs_no_data_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert secrets_of(secret=("s",), data_dir=str(data)) == (("s",), "the environment")
    assert not data.exists()


def test_a_file_holds_one_secret_a_line_and_comes_before_the_environment(tmp_path: Path) -> None:
    path = private(tmp_path / "secrets", b"\n one \n\ntwo, with comma\n")
    assert secrets_of(secret_file=str(path), secret=("other",)) == (("one", "two, with comma"), str(path))


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe", None])
def test_a_file_without_a_secret_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secrets"
    if content is not None:
        private(path, content)
    with pytest.raises(ConfigError, match="--secret-file") as caught:
        secrets_of(secret_file=str(path))
    assert "\n" not in str(caught.value)


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"):
        data_path(Config.of(data_dir=str(tmp_path / "file" / "data")).place)


@pytest.mark.parametrize(
    ("permissions", "said"),
    [(0o644, "can read it (chmod o-rwx"), (0o602, "can write it"), (0o640, None)],
)
def test_a_secret_that_others_can_read_or_replace_stops_the_start(
    tmp_path: Path, permissions: int, said: str | None
) -> None:
    for path, settings in (
        (tmp_path / "named", {"secret_file": str(tmp_path / "named")}),
        (tmp_path / "data" / "secret", {"data_dir": str(tmp_path / "data")}),
    ):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        private(path, b"a secret")
        path.chmod(permissions)
        if said is None:
            assert secrets_of(**settings)[0] == ("a secret",)
            continue
        with pytest.raises(ConfigError) as caught:
            secrets_of(**settings)
        assert said in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("permissions", [0o777, 0o1777, 0o703])
def test_a_data_directory_that_others_can_write_to_stops_the_start(tmp_path: Path, permissions: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(permissions)
    for act in (lambda: secrets_of(data_dir=str(data)), lambda: data_path(Config.of(data_dir=str(data)).place)):
        with pytest.raises(ConfigError, match=r"--data-dir .*can write there \(chmod o-w"):
            act()
    assert not list(data.iterdir())
    data.chmod(0o750)
    assert len(secrets_of(data_dir=str(data))[0]) == 1


def test_a_made_secret_is_no_symbolic_link_but_a_named_one_may_be(tmp_path: Path) -> None:
    target = private(tmp_path / "target", b"a secret")
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    link = data / "secret"
    link.symlink_to(target)
    assert secrets_of(secret_file=str(link))[0] == ("a secret",)
    with pytest.raises(ConfigError, match="symbolic link"):
        secrets_of(data_dir=str(data))


def test_what_a_crash_left_of_a_secret_is_no_obstacle(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    for name in (f"secret.{os.getpid()}", "secret.x"):
        (data / name).write_text("half a sec")
    (secret,), _ = secrets_of(data_dir=str(data))
    assert len(secret) == 64


def test_two_that_make_a_secret_at_once_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data" / "secret"
    link = os.link

    def other_is_first(source: str, target: str) -> None:
        private(path, b"of the other")
        link(source, target)

    monkeypatch.setattr(os, "link", other_is_first)
    assert secrets_of(data_dir=str(path.parent))[0] == ("of the other",)
    assert list(path.parent.iterdir()) == [path]


def test_a_secret_is_looked_for_without_making_one(tmp_path: Path) -> None:
    config = Config.of(data_dir=str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"the secret .* cannot be read"):
        found_secrets(config.access, config.place)
    assert not (tmp_path / "data").exists()
    made = secrets_of(data_dir=str(tmp_path / "data"))
    assert found_secrets(config.access, config.place) == made
