"""Settings: each from flag, environment or default; bad ones in one line that names them; no secret in any repr."""

import os
import stat
from pathlib import Path

import pytest

from proxy.config import SETTINGS, Config, ConfigError, Setting

SAMPLES: dict[str, tuple[str, object]] = {
    "public_url": ("https://proxy.example/base", "https://proxy.example/base"),
    "durable_streams_url": ("http://storage:4437", "http://storage:4437"),
    "allowlist": ("https://a.example/**, https://b.example", ("https://a.example/**", "https://b.example")),
    "cors_origin": ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
    "allow_private": ("http://a.internal", ("http://a.internal",)),
    "pass_header": ("x-one, x-two-*", ("x-one", "x-two-*")),
    "secret": ("a, b", ("a, b",)),
    "egress_proxy": ("http://egress.example:3128", "http://egress.example:3128"),
    "no_proxy": ("10.0.0.0/8, .internal.example", ("10.0.0.0/8", ".internal.example")),
    "stream_ttl_seconds": ("90000", 90_000),
    "max_transfer_seconds": ("3601.5", 3601.5),
    "inactivity_timeout_seconds": ("599", 599.0),
}


def sample(setting: Setting) -> tuple[str, object]:
    """A value that is not the default, as text and as it should be read."""
    if setting.name in SAMPLES:
        return SAMPLES[setting.name]
    if setting.kind is bool:
        return "true", True
    if setting.kind is str:
        return "some-text", "some-text"
    value = setting.kind(setting.default) + 1
    return str(value), value


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_has_a_variable_and_its_flag_comes_first(setting: Setting) -> None:
    text, value = sample(setting)
    assert getattr(Config.from_sources({}, {}), setting.name) == setting.default
    assert value != setting.default
    assert getattr(Config.from_sources({}, {setting.env: f" {text} "}), setting.name) == value
    assert getattr(Config.from_sources({}, {setting.env: "  "}), setting.name) == setting.default
    flags = {setting.name: setting.default}
    assert getattr(Config.from_sources(flags, {setting.env: text}), setting.name) == setting.default
    assert getattr(Config.from_sources({setting.name: value}, {}), setting.name) == value


def test_names_are_unique_and_every_setting_is_explained() -> None:
    for names in ([each.env for each in SETTINGS], [each.flag for each in SETTINGS if each.flag]):
        assert len(names) == len(set(names))
    for setting in SETTINGS:
        assert setting.help
        assert setting.flag is None or setting.flag.startswith("--")
        if setting.kind in (int, float):
            assert setting.unit, f"{setting.name} has no unit"


def test_credentials_have_no_flag_and_stand_in_no_repr() -> None:
    credentials = {setting.name for setting in SETTINGS if setting.flag is None}
    assert credentials == {
        "secret",
        "durable_streams_token",
        "egress_credentials",
        "store_read_token",
        "store_write_token",
    }
    values: dict[str, object] = dict.fromkeys(credentials, "CANARY")
    values["secret"] = ("CANARY", "CANARY 2")
    assert "CANARY" not in repr(Config(**values))  # type: ignore[arg-type]  # each by its field's name


@pytest.mark.parametrize(
    "setting", [each for each in SETTINGS if each.kind in (int, float)], ids=lambda each: each.name
)
def test_a_number_that_is_none_or_out_of_bounds_is_one_line_that_names_it(setting: Setting) -> None:
    texts = ["many", "-1", "1_0x", "nan", "inf", ""] if setting.kind is float else ["many", "-1", "1.5", "0x10"]
    for text in texts:
        if not text:
            continue
        with pytest.raises(ConfigError) as caught:
            Config.from_sources({}, {setting.env: text})
        message = str(caught.value)
        assert "\n" not in message
        assert setting.env in message or str(setting.flag) in message


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"port": 65_536}, "--port"),
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
        ({"public_url": "http://ho st/"}, "--public-url"),
        ({"public_url": "ftp://host/"}, "--public-url"),
        ({"stream_ttl_seconds": 3600}, "--stream-ttl-seconds"),
        ({"inactivity_timeout_seconds": 90_000.0}, "--stream-ttl-seconds"),
        ({"max_request_bytes": 513 << 20}, "--max-request-bytes-total"),
    ],
)
def test_what_cannot_be_run_does_not_exist(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**values)  # type: ignore[arg-type]  # that is the point
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("YES", True), ("false", False), ("No", False), ("0", False)])
def test_a_switch_is_spelled_in_a_few_ways(text: str, value: bool) -> None:
    assert Config.from_sources({}, {"PROXY_SHARED_CACHE": text}).shared_cache is value
    with pytest.raises(ConfigError, match="PROXY_SHARED_CACHE"):
        Config.from_sources({}, {"PROXY_SHARED_CACHE": "perhaps"})


# Secrets


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_without_a_secret_one_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        config = Config(data_dir=str(tmp_path / "deep" / "data"))
        (secret,), source = config.secrets()
    finally:
        os.umask(previous)
    assert Path(source) == tmp_path / "deep" / "data" / "secret"
    assert (mode(Path(source)), mode(Path(source).parent)) == (0o600, 0o700)
    assert len(secret) == 64
    assert config.secrets() == ((secret,), source)
    assert Config(data_dir=str(tmp_path / "other")).secrets()[0] != (secret,)
    assert [path.name for path in Path(source).parent.iterdir()] == ["secret"]


def test_a_secret_given_needs_no_data_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert Config(secret=("s",), data_dir=str(data)).secrets() == (("s",), "the environment")
    assert not data.exists()


def test_a_file_holds_one_secret_a_line_and_comes_before_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("\n one \n\ntwo, with comma\n")
    config = Config(secret_file=str(path), secret=("other",))
    assert config.secrets() == (("one", "two, with comma"), str(path))


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe", None])
def test_a_file_without_a_secret_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secrets"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="--secret-file") as caught:
        Config(secret_file=str(path)).secrets()
    assert "\n" not in str(caught.value)


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"):
        Config(data_dir=str(tmp_path / "file" / "data")).secrets()
