"""Sources, precedence, places of errors, and the refusal to serve the network without keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inference_engine.core.settings import (
    SEED_VARIABLES,
    Origins,
    Settings,
    SettingsError,
    flag_name,
    is_loopback,
)

MANUAL = Path(__file__).parents[2] / "docs" / "configuration.md"


def load(
    cwd: Path, flags: dict[str, object] | None = None, environ: dict[str, str] | None = None
) -> tuple[Settings, Origins]:
    return Settings.load(flags or {}, {"HOME": str(cwd / "home")} | (environ or {}), cwd)


def test_defaults_listen_on_this_machine_only(tmp_path: Path) -> None:
    settings, origins = load(tmp_path)
    assert (settings.host, settings.port, settings.models) == ("127.0.0.1", 8000, ())
    assert settings.state_dir == tmp_path / "home/.local/share/inference-engine"
    assert set(origins.fields.values()) == {"default"}
    assert origins.file is None


def test_a_models_folder_beside_the_start_is_found(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    assert load(tmp_path)[0].models == (tmp_path / "models",)


def test_xdg_state_home_holds_the_state(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"XDG_STATE_HOME": "/x"})[0].state_dir == Path("/x/inference-engine")


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "inference-engine.yaml"
    file.write_text("# ours\nport: 1\ndrain_s: 1\nlog_level: DEBUG\n")
    environ = {"INFERENCE_ENGINE_PORT": "2", "INFERENCE_ENGINE_DRAIN_S": "2"}
    settings, origins = load(tmp_path, {"port": 3}, environ)
    assert (settings.port, settings.drain_s, settings.log_level, settings.max_body_mb) == (3, 2.0, "debug", 64.0)
    assert origins.file == file
    assert {name: origins.fields[name] for name in ("port", "drain_s", "log_level", "max_body_mb")} == {
        "port": "flag --port",
        "drain_s": "environment INFERENCE_ENGINE_DRAIN_S",
        "log_level": f"{file}:4",
        "max_body_mb": "default",
    }


def test_toml_is_read_too_and_the_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "m").mkdir()
    file = tmp_path / "conf" / "x.toml"
    file.write_text('port = 9\nmodels = ["m"]\n')
    for flags, environ in (({"config": "conf/x.toml"}, {}), ({}, {"INFERENCE_ENGINE_CONFIG": str(file)})):
        settings, origins = load(tmp_path, flags, environ)
        assert (settings.port, settings.models) == (9, (tmp_path / "conf" / "m",))
        assert origins.fields["models"] == f"{file}:2"


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("API_HOST", "localhost", "host", "localhost"),
        ("API_PORT", "81", "port", 81),
        ("INFERENCE_SERVICE_PORT", "55323", "port", 55323),
        ("DEFAULT_MODEL", "guide", "default_model", "guide"),
        ("API_KEYS", "one, two", "api_keys", ("one", "two")),
        ("API_KEY_HEADER", "X-Key", "api_key_header", "X-Key"),
        ("INFERENCE_TIMEOUT_MS", "30000", "request_timeout_s", 30.0),
        ("HF_ENDPOINT", "https://mirror.example", "hf_endpoint", "https://mirror.example"),
        ("HF_TOKEN", "hf_secret", "hf_token", "hf_secret"),
        ("LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("LOG_FORMAT", "json", "log_format", "json"),
    ],
)
def test_the_seeds_names_are_read(tmp_path: Path, variable: str, text: str, field: str, value: object) -> None:
    settings, origins = load(tmp_path, environ={variable: text})
    assert getattr(settings, field) == value
    assert origins.fields[field] == f"environment {variable}"


def test_every_seed_name_has_its_case() -> None:
    tested = re.findall(r'\("([A-Z_]+)", "', Path(__file__).read_text())
    assert set(SEED_VARIABLES) - {"MODEL_CACHE_DIR"} == set(tested)


def test_model_cache_dir_is_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    settings, _ = load(tmp_path, environ={"MODEL_CACHE_DIR": f"a:{tmp_path}/b"})
    assert settings.models == (tmp_path / "a", tmp_path / "b")


def test_our_own_name_wins_over_a_seeds_name(tmp_path: Path) -> None:
    settings, _ = load(tmp_path, environ={"API_PORT": "1", "INFERENCE_ENGINE_PORT": "2"})
    assert settings.port == 2


def test_empty_variables_and_kubernetes_service_links_are_not_settings(tmp_path: Path) -> None:
    environ = {
        "INFERENCE_ENGINE_PORT": "tcp://10.0.0.7:8000",
        "INFERENCE_ENGINE_PORT_8000_TCP_ADDR": "10.0.0.7",
        "INFERENCE_ENGINE_SERVICE_HOST": "10.0.0.7",
        "INFERENCE_ENGINE_HOST": "",
        "INFERENCE_ENGINE_SERVER": "http://elsewhere:8000",
    }
    settings, _ = load(tmp_path, environ=environ)
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: 1\nprot: 2\n", r"inference-engine.yaml:2: unknown setting 'prot': did you mean 'port'\?"),
        ("\nport: eighty\n", r"yaml:2: port is 'eighty': Expected `int`, got `str`"),
        ("port: '8000'\n", r"yaml:1: port is '8000': Expected `int`, got `str`"),
        ("port: 70000\n", r"yaml:1: port is 70000: Expected `int` <= 65535"),
        ("cors_origins: [http://a, 3]\n", r"yaml:1: cors_origins\[1\] is "),
        ("log_level: noisy\n", r"yaml:1: log_level is 'noisy': must be one of debug, info, warning, error, critical"),
        ("request_timeout_s: 0\n", r"yaml:1: request_timeout_s is 0: Expected `float` > 0"),
        ("port: 1\nport: 2\n", r"yaml:2: key 'port' is given twice"),
        ("port: [1\n", r"yaml:\d: .*expected ',' or '\]'"),
        ("- port\n", r"yaml:1: must hold `setting: value` lines, not a list"),
        ("models: [nowhere]\n", r"yaml:1: models: there is no folder .*/nowhere: create it"),
        ("api_keys: ['two words']\n", r"yaml:1: api_keys\[0\]: keys are printable ASCII"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "inference-engine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        load(tmp_path)


def test_a_mistake_in_toml_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "inference-engine.toml"
    file.write_text('host = "127.0.0.1"\nport = "x"\n')
    with pytest.raises(SettingsError, match=r"toml:2: port is 'x'"):
        load(tmp_path)
    file.write_text("port = \n")
    with pytest.raises(SettingsError, match=r"toml: .*line 1"):
        load(tmp_path)


def test_a_mistake_elsewhere_is_named_with_its_variable_or_flag(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^environment API_PORT: port is 'x'"):
        load(tmp_path, environ={"API_PORT": "x"})
    with pytest.raises(SettingsError, match=r"^environment INFERENCE_ENGINE_ACCESS_LOG: access_log is 'maybe'"):
        load(tmp_path, environ={"INFERENCE_ENGINE_ACCESS_LOG": "maybe"})
    with pytest.raises(
        SettingsError, match=r"INFERENCE_ENGINE_PROT is not a setting: did you mean 'INFERENCE_ENGINE_PORT'"
    ):
        load(tmp_path, environ={"INFERENCE_ENGINE_PROT": "1"})
    with pytest.raises(SettingsError, match=r"^flag --drain-s: drain_s is -1"):
        load(tmp_path, {"drain_s": -1})
    with pytest.raises(SettingsError, match=r"^'prot' is not a setting: did you mean 'port'"):
        load(tmp_path, {"prot": 1})
    with pytest.raises(SettingsError, match=r"^--config: there is no file .*/x.yaml"):
        load(tmp_path, {"config": "x.yaml"})


def test_two_files_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inference-engine.yaml").touch()
    (tmp_path / "inference-engine.toml").touch()
    with pytest.raises(SettingsError, match="keep one"):
        load(tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "[::]", "::ffff:10.0.0.1"])
def test_a_public_host_needs_keys(tmp_path: Path, host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(SettingsError, match=r"flag --host: host .* can be reached from other machines"):
        load(tmp_path, {"host": host})
    assert load(tmp_path, {"host": host, "api_keys": ("k" * 20,)})[0].host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"])
def test_a_loopback_host_needs_none(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, {"host": host})[0].api_keys == ()


def test_keys_come_from_a_file_and_add_up(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nfirst-key  # for the bot\n\nsecond-key\n")
    settings, _ = load(tmp_path, {"api_keys": ("third-key",), "api_keys_file": "keys"})
    assert settings.api_keys == ("third-key", "first-key", "second-key")
    (tmp_path / "keys").write_text("fine\nnot fine\n")
    with pytest.raises(SettingsError, match=r"/keys:2: api_keys\[0\]") as raised:
        load(tmp_path, {"api_keys_file": "keys"})
    assert "not fine" not in str(raised.value)


def test_keys_are_never_printed(tmp_path: Path) -> None:
    settings, _ = load(tmp_path, {"api_keys": ("very-secret-key",)})
    assert "very-secret" not in f"{settings!r} {settings} {settings.shown()}"
    assert settings.shown()["api_keys"] == ["***"]


def test_every_setting_is_in_the_manual_with_all_its_names() -> None:
    manual = MANUAL.read_text()
    for field in Settings.__struct_fields__:
        section = re.search(rf"^### `{field}`\n(.*?)(?=^#|\Z)", manual, re.MULTILINE | re.DOTALL)
        assert section, f"docs/configuration.md has no section for {field}"
        names = [flag_name(field), f"INFERENCE_ENGINE_{field.upper()}"]
        names += [seed for seed, target in SEED_VARIABLES.items() if target == field]
        for name in names:
            assert f"`{name}`" in section[1], f"{name} is missing in the section on {field}"
    documented = re.findall(r"^### `(\w+)`", manual, re.MULTILINE)
    assert set(documented) == set(Settings.__struct_fields__)
