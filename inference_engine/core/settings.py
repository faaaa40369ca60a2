"""The settings of the server: what can be set, where it can be set, and which source wins. Knows no other layer.

Flags win over environment variables, these over the configuration file, that over the defaults. Nothing here reads the
process's own environment or working directory: both are passed in, once, by the composition root.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta

from inference_engine.core.yaml_source import YamlError, dotted, parse_yaml, split_problem, suggestion

PREFIX = "INFERENCE_ENGINE_"
CONFIG_NAMES = ("inference-engine.yaml", "inference-engine.toml")
CLIENT_VARIABLES = ("CONFIG", "SERVER", "API_KEY")
"""Variables with our prefix that are not settings: the file itself, and what the command line says to a server."""

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
Compression = Literal["none", "gzip", "deflate"]
LogFormat = Literal["auto", "json", "console"]
Key = Annotated[str, Meta(pattern=r"^[\x21-\x2b\x2d-\x7e]+$")]
Origin = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
Base = Annotated[str, Meta(pattern=r"^https?://[^/\s]+$")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Amount = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+(@[a-z0-9]+(:[0-9]+)?)?=[0-9]{1,9}$")]
Positive = Annotated[float, Meta(gt=0)]


class SettingsError(Exception):
    """A setting is wrong; the message names the exact place and what to write instead."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Everything an operator can set, as `docs/configuration.md` explains it. Paths are absolute."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    grpc_port: Annotated[int, Meta(ge=0, le=65535)] = 8001
    grpc_tls_cert: Path | None = None
    grpc_tls_key: Path | None = None
    grpc_shared_memory: bool = False
    grpc_compression: Compression = "none"
    grpc_keepalive_s: Annotated[float, Meta(ge=1)] = 60.0
    models: tuple[Path, ...] = ()
    builtin_models: bool = True
    default_model: str | None = None
    model_changes: bool = True
    ollama_registry: Base = "https://registry.ollama.ai"
    hf_endpoint: Base = "https://huggingface.co"
    hf_token: Annotated[str, Meta(pattern=r"^[\x21-\x7e]*$")] = ""
    pull_origins: tuple[Base, ...] = ()
    trusted_digests: tuple[Digest, ...] = ()
    install_requirements: bool = False
    resources: tuple[Amount, ...] = ()
    state_dir: Path = Path()
    api_keys: tuple[Key, ...] = ()
    api_keys_file: Path | None = None
    api_key_header: Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$")] = "X-API-Key"
    cors_origins: tuple[Origin, ...] = ()
    root_path: Annotated[str, Meta(pattern=r"^(/\S*[^/\s])?$")] = ""
    api_docs: bool = True
    http_shared_memory: bool = False
    max_body_mb: Positive = 64.0
    request_timeout_s: Positive = 600.0
    file_max_mb: Positive = 512.0
    files_total_mb: Positive = 10_240.0
    batch_max_lines: Annotated[int, Meta(ge=1)] = 50_000
    batch_concurrency: Annotated[int, Meta(ge=1, le=1024)] = 4
    responses_keep_h: Positive = 720.0
    responses_total_mb: Positive = 1024.0
    video_max_mb: Positive = 64.0
    video_max_s: Positive = 3600.0
    video_max_megapixels: Annotated[float, Meta(gt=0, le=100)] = 10.0
    video_max_frames: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    video_decode_s: Positive = 300.0
    video_concurrency: Annotated[int, Meta(ge=1, le=64)] = 2
    image_max_count: Annotated[int, Meta(ge=1, le=1024)] = 32
    image_max_mb: Positive = 32.0
    image_max_megapixels: Annotated[float, Meta(gt=0, le=40)] = 40.0
    sound_max_mb: Positive = 32.0
    inference_batch_max_items: Annotated[int, Meta(ge=1, le=10_000)] = 100
    inference_batch_concurrency: Annotated[int, Meta(ge=1, le=1024)] = 8
    drain_s: Annotated[float, Meta(ge=0)] = 30.0
    cache: bool = True
    cache_mb: Annotated[float, Meta(ge=0)] = 32.0
    cache_ttl_s: Positive = 300.0
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    access_log: bool = False

    @staticmethod
    def load(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> tuple[Settings, Origins]:
        """Read every source once. `flags` maps field names (and `config`) to values; None or () is "not given".

        Raises:
            SettingsError: an unknown key, a bad value, an unreadable file, or a public host without keys.
        """
        file = _config_file(flags, environ, cwd)
        given = (_from_file(file) if file else {}) | _from_environment(environ, cwd) | _from_flags(flags, cwd)
        home = _home(environ, cwd)
        values = _defaults(environ, cwd, home)
        values |= {name: _decode(name, found, home) for name, found in given.items()}
        origins = {name: given[name].place if name in given else "default" for name in Settings.__struct_fields__}
        if values.get("api_keys_file"):
            values["api_keys"] = (*values.get("api_keys", ()), *_read_keys(values["api_keys_file"], origins))
        settings = Settings(**values)
        _check_models(settings, origins)
        _check_exposure(settings, origins)
        _check_shared_memory(settings, origins)
        _check_grpc(settings, origins)
        return settings, Origins(fields=origins, file=file)

    def shown(self) -> dict[str, Any]:
        """Plain values to print; secrets are masked."""
        values = {name: _plain(getattr(self, name)) for name in self.__struct_fields__}
        return values | {"api_keys": ["***"] * len(self.api_keys), "hf_token": "***" if self.hf_token else ""}

    @property
    def pulled_models(self) -> Path:
        """The folder that models are pulled and created into: the first of `models`, else one of our own."""
        return self.models[0] if self.models else self.state_dir / "models"

    def __repr__(self) -> str:
        return f"Settings({self.shown()})"


class Origins(msgspec.Struct, frozen=True):
    """Where each value came from (`flag --port`, `environment API_PORT`, `FILE:3`, `default`), and the file read."""

    fields: dict[str, str]
    file: Path | None = None


class _Given(NamedTuple):
    """A value as a source gave it. `place` is for messages; relative paths start at `base`; `text` is untyped."""

    value: object
    place: str
    base: Path
    text: bool


SEED_VARIABLES: dict[str, str] = {
    "API_HOST": "host",
    "API_PORT": "port",
    "INFERENCE_SERVICE_PORT": "port",
    "MODEL_CACHE_DIR": "models",
    "DEFAULT_MODEL": "default_model",
    "API_KEYS": "api_keys",
    "API_KEY_HEADER": "api_key_header",
    "INFERENCE_TIMEOUT_MS": "request_timeout_s",
    "HF_ENDPOINT": "hf_endpoint",
    "HF_TOKEN": "hf_token",
    "LOG_LEVEL": "log_level",
    "LOG_FORMAT": "log_format",
}
"""Shorter names for the same settings; the name with our prefix wins over them, an earlier one over a later."""

_TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)
_WORDS = {"yes": True, "on": True, "true": True, "1": True, "no": False, "off": False, "false": False, "0": False}


def flag_name(field: str) -> str:
    """The command-line flag of a setting."""
    return "--api-key" if field == "api_keys" else "--" + field.replace("_", "-")


def _config_file(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> Path | None:
    named = (("--config", flags.get("config")), (PREFIX + "CONFIG", environ.get(PREFIX + "CONFIG")))
    for source, path in named:
        if path:
            file = _absolute(Path(str(path)), cwd, _home(environ, cwd))
            if not file.is_file():
                raise SettingsError(f"{source}: there is no file {file}")
            return file
    found = [cwd / name for name in CONFIG_NAMES if (cwd / name).is_file()]
    if len(found) > 1:
        raise SettingsError(f"{cwd} holds {' and '.join(CONFIG_NAMES)}: keep one, or name one with --config")
    return found[0] if found else None


def _from_file(file: Path) -> dict[str, _Given]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from None
    data, lines = _parse_toml(file, text) if file.suffix == ".toml" else _parse_yaml(file, text)
    given = {}
    for name, value in data.items():
        place = f"{file}:{lines.get(name, 1)}"
        if name not in _TYPES:
            raise SettingsError(f"{place}: unknown setting {name!r}: {suggestion(str(name), _TYPES)}")
        if value is not None:
            given[name] = _Given(value, place, file.parent, text=False)
    return given


def _parse_yaml(file: Path, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        document = parse_yaml(text)
    except YamlError as error:
        raise SettingsError(f"{file}:{error.line}: {error.problem}") from None
    if not isinstance(document.data, dict | None):
        raise SettingsError(f"{file}:1: must hold `setting: value` lines, not a {type(document.data).__name__}")
    return document.data or {}, {str(keys[0]): line for keys, line in document.lines.items() if len(keys) == 1}


def _parse_toml(file: Path, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: {error}") from None
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        lines.setdefault(line.partition("=")[0].strip().strip("[]\"'").partition(".")[0], number)
    return data, lines


def _from_environment(environ: Mapping[str, str], cwd: Path) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for variable, text in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or not text or _from_kubernetes(variable, text):
            continue
        if name not in _TYPES:
            if name.upper() in CLIENT_VARIABLES:
                continue
            known = [PREFIX + field.upper() for field in _TYPES]
            raise SettingsError(f"environment variable {variable} is not a setting: {suggestion(variable, known)}")
        given[name] = _Given(text, f"environment {variable}", cwd, text=True)
    for variable, name in SEED_VARIABLES.items():
        value = environ.get(variable)
        if name not in given and value:
            given[name] = _Given(value, f"environment {variable}", cwd, text=True)
    return given


def _from_kubernetes(variable: str, text: str) -> bool:
    """Kubernetes gives every pod the address of a service called `inference-engine` under exactly our prefix."""
    rest = variable.removeprefix(PREFIX)
    return rest.startswith(("SERVICE_", "PORT_")) or (rest == "PORT" and "://" in text)


def _from_flags(flags: Mapping[str, object], cwd: Path) -> dict[str, _Given]:
    given = {}
    for name, value in flags.items():
        if name not in _TYPES and name != "config":
            raise SettingsError(f"{name!r} is not a setting: {suggestion(name, _TYPES)}")
        if name in _TYPES and value is not None and value != ():
            given[name] = _Given(value, f"flag {flag_name(name)}", cwd, text=True)
    return given


def _decode(name: str, given: _Given, home: Path) -> Any:
    """One value in its type.

    Raises:
        SettingsError: with the place the value came from; the value itself is shown unless it is a secret.
    """
    kind = _TYPES[name]

    def path(_: type, value: Any) -> Path:
        if not isinstance(value, str | Path):
            raise ValueError("Expected a path")
        return _absolute(Path(value), given.base, home)

    try:
        return msgspec.convert(_spelled(name, given), kind, strict=not given.text, dec_hook=path)
    except (msgspec.ValidationError, ValueError) as error:
        keys, problem, _ = split_problem(msgspec.ValidationError(str(error)))
    if name == "hf_token":
        raise SettingsError(f"{given.place}: hf_token is printable ASCII without spaces")
    if name.startswith("api_keys"):
        raise SettingsError(f"{given.place}: {name + dotted(keys)}: keys are printable ASCII without spaces or commas")
    if get_args(kind) and all(isinstance(word, str) for word in get_args(kind)):
        problem = f"must be one of {', '.join(get_args(kind))}"
    raise SettingsError(f"{given.place}: {name + dotted(keys)} is {given.value!r}: {problem}")


def _spelled(name: str, given: _Given) -> object:
    """The value with the freedoms of plain text taken out: separators, yes and no, upper case, milliseconds."""
    value = given.value
    if not isinstance(value, str):
        return list(value) if isinstance(value, tuple) else value
    if name in ("log_level", "log_format"):
        return value.lower()
    if not given.text:
        return value
    if given.place.endswith("INFERENCE_TIMEOUT_MS"):
        return float(value) / 1000
    if "tuple" in str(_TYPES[name]):
        separator = ":" if name == "models" else ","
        return [part.strip() for part in value.split(separator) if part.strip()]
    return _WORDS.get(value.lower(), value) if _TYPES[name] is bool else value


def _defaults(environ: Mapping[str, str], cwd: Path, home: Path) -> dict[str, Any]:
    state = environ.get("XDG_STATE_HOME")
    folder = Path(state) if state and Path(state).is_absolute() else home / ".local" / "share"
    models = (cwd / "models",) if (cwd / "models").is_dir() else ()
    return {"state_dir": folder / "inference-engine", "models": models}


def _home(environ: Mapping[str, str], cwd: Path) -> Path:
    try:
        return Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except RuntimeError:  # a container may run under a user id that has no entry and no home
        return cwd


def _absolute(path: Path, base: Path, home: Path) -> Path:
    if path.parts[:1] == ("~",):
        path = home.joinpath(*path.parts[1:])
    return base / path


def _read_keys(file: Path, origins: Mapping[str, str]) -> tuple[str, ...]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{origins['api_keys_file']}: api_keys_file {file} cannot be read: {error}") from None
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if key := line.partition("#")[0].strip():
            keys.append(_decode("api_keys", _Given([key], f"{file}:{number}", file.parent, text=False), file)[0])
    return tuple(keys)


def _check_models(settings: Settings, origins: Mapping[str, str]) -> None:
    for folder in settings.models:
        if not folder.is_dir():
            raise SettingsError(f"{origins['models']}: models: there is no folder {folder}: create it or mend the path")


def _check_exposure(settings: Settings, origins: Mapping[str, str]) -> None:
    if not settings.api_keys and not is_loopback(settings.host):
        raise SettingsError(
            f"{origins['host']}: host {settings.host!r} can be reached from other machines, and no API key is set: "
            "set api_keys (or api_keys_file, or API_KEYS in the environment), or listen on 127.0.0.1"
        )


def _check_shared_memory(settings: Settings, origins: Mapping[str, str]) -> None:
    if settings.http_shared_memory and not is_loopback(settings.host):
        raise SettingsError(
            f"{origins['http_shared_memory']}: http_shared_memory is for clients of this machine only: "
            "listen on 127.0.0.1, or leave it off"
        )


def _check_grpc(settings: Settings, origins: Mapping[str, str]) -> None:
    files = {name: getattr(settings, name) for name in ("grpc_tls_cert", "grpc_tls_key")}
    for name, file in files.items():
        if None in files.values() and file is not None:
            raise SettingsError(f"{origins[name]}: {name}: set both grpc_tls_cert and grpc_tls_key, or none of them")
        if file is not None and not file.is_file():
            raise SettingsError(f"{origins[name]}: {name}: there is no file {file}")
    if settings.grpc_shared_memory and not is_loopback(settings.host):
        raise SettingsError(
            f"{origins['grpc_shared_memory']}: grpc_shared_memory is for clients of this machine only: "
            "listen on 127.0.0.1, or leave it off"
        )


def is_loopback(host: str) -> bool:
    """True when only this machine can reach `host`. A name other than `localhost` is not trusted to."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
