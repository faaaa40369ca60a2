"""The options that commands share, and which models a command works with: a server's or this process's."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from inference_engine.adapters.cli.client import Client, Composition
from inference_engine.adapters.cli.output import note
from inference_engine.core.settings import Settings, flag_name

if TYPE_CHECKING:
    from inference_engine.core.settings import Origins

Command = TypeVar("Command", bound=Callable[..., Any])
PROBE_TIMEOUT_S = 0.3
SERVER_HEADER = "x-inference-engine"

SETTING_HELP: dict[str, str] = {
    "host": "Address to listen on. A public one needs API keys.",
    "port": "Port to listen on; 0 takes a free one.",
    "grpc_port": "Port for gRPC; 0 switches it off.",
    "grpc_tls_cert": "File with the certificate chain for gRPC, in PEM; needs the key too.",
    "grpc_tls_key": "File with the private key of that certificate, in PEM.",
    "grpc_shared_memory": "Let gRPC clients of this machine hand tensors over in /dev/shm; loopback only.",
    "grpc_compression": "How answers over gRPC are compressed.",
    "grpc_keepalive_s": "Seconds of silence after which a gRPC connection is asked whether it is alive.",
    "models": "Folder of models; may be given several times, the first wins.",
    "builtin_models": "Serve the models that come with the engine.",
    "default_model": "Model that answers requests that name none.",
    "model_changes": "Let clients pull, create, copy and delete models.",
    "ollama_registry": "Registry that models are pulled from.",
    "hf_endpoint": "Hugging Face Hub, or a mirror of it.",
    "hf_token": "Token for the Hugging Face Hub. Others can see it in the process list.",
    "pull_origins": "Further registry that may be pulled from; may be given several times.",
    "resources": "An amount that models share, as in memory=4; may be given several times.",
    "trusted_digests": "Digest (sha256:...) of a file that may run code when it is loaded; may be given several times.",
    "install_requirements": "Install what the requirements.txt of a Python model names.",
    "state_dir": "Folder for what the server remembers.",
    "api_keys": "Key that clients must send; may be given several times. Others can see it in the process list.",
    "api_keys_file": "File with one key on each line.",
    "api_key_header": "Header for keys, beside Authorization.",
    "cors_origins": "Origin of web pages that may call the server; may be given several times.",
    "root_path": "Path under which a reverse proxy shows the server.",
    "api_docs": "Serve the API reference.",
    "http_shared_memory": "Let clients of this machine pass tensors over HTTP in shared memory.",
    "max_body_mb": "Largest request body in megabytes.",
    "request_timeout_s": "Longest time for one request in seconds.",
    "file_max_mb": "Largest uploaded file in megabytes.",
    "files_total_mb": "Room for all files of a tenant in megabytes.",
    "batch_max_lines": "Most lines of one batch.",
    "batch_concurrency": "Lines of batches that are answered at once.",
    "responses_keep_h": "How long a stored response is kept after its last use, in hours.",
    "responses_total_mb": "Room for all stored responses of a tenant in megabytes.",
    "video_max_mb": "Largest video of a request to /inference, in megabytes.",
    "video_max_s": "Longest such video, in seconds.",
    "video_max_megapixels": "Most pixels of one of its pictures, in millions.",
    "video_max_frames": "Most pictures of a video that are looked at.",
    "video_decode_s": "Processor time that decoding one video may take, in seconds.",
    "video_concurrency": "Videos that are decoded at once; others wait.",
    "image_max_count": "Most images of one request to /inference.",
    "image_max_mb": "Largest image of a request to /inference, in megabytes.",
    "image_max_megapixels": "Most pixels of such an image, in millions.",
    "sound_max_mb": "Largest sound of a request to /inference, in megabytes.",
    "inference_batch_max_items": "Most items of one request to /inference/batch.",
    "inference_batch_concurrency": "Items of such a request that are done at once.",
    "drain_s": "Time for running requests to end at shutdown, in seconds.",
    "cache": "Compute equal requests once, and keep answers that would be the same again.",
    "cache_mb": "Memory for answers that are kept, in megabytes; 0 keeps none.",
    "cache_ttl_s": "How long an answer is kept, in seconds.",
    "log_level": "debug, info, warning, error or critical.",
    "log_format": "json, console, or auto (console in a terminal).",
    "access_log": "Log every request.",
}


class Session:
    """What one run of the program holds: the composition root, and whether answers and errors are JSON."""

    def __init__(self, composition: Composition) -> None:
        self.composition = composition
        self.json = False
        self.quiet = False

    def settings(self, flags: Mapping[str, object]) -> tuple[Settings, Origins]:
        return self.composition.settings({name: value for name, value in flags.items() if value not in (None, ())})


pass_session = click.make_pass_decorator(Session)


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        setattr(context.ensure_object(Session), str(parameter.name), True)


json_option = click.option(
    "--json", is_flag=True, expose_value=False, is_eager=True, callback=_remember, help="Print JSON, errors too."
)
quiet_option = click.option(
    "--quiet", "-q", is_flag=True, expose_value=False, callback=_remember, help="Print the answer and nothing else."
)
config_option = click.option("--config", metavar="FILE", help="Configuration file, YAML or TOML.")
models_option = click.option("--models", metavar="DIR", multiple=True, help=SETTING_HELP["models"])


def setting_options(command: Command) -> Command:
    """A flag for every setting; the command gets those that were given as `flags`."""

    @functools.wraps(command)
    def with_flags(*args: Any, **values: Any) -> Any:
        flags = {name: values.pop(name) for name in (*Settings.__struct_fields__, "config")}
        return command(*args, flags=flags, **values)

    for field in reversed(Settings.__struct_fields__):
        with_flags = _setting_option(field)(with_flags)
    return config_option(with_flags)  # type: ignore[return-value] # click adds its parameters to the function itself


def _setting_option(field: str) -> Callable[[Any], Any]:
    kind = str(Settings.__annotations__[field])
    flag, text = flag_name(field), SETTING_HELP[field]
    if kind == "bool":
        return click.option(f"{flag}/{flag.replace('--', '--no-', 1)}", field, default=None, help=text)
    metavar = (
        "TEXT" if "str" in kind or "Key" in kind or "Origin" in kind or "Base" in kind or "Log" in kind else "NUMBER"
    )
    metavar = "PATH" if "Path" in kind else metavar
    return click.option(flag, field, metavar=metavar, multiple=kind.startswith("tuple"), help=text)


def client_options(command: Command) -> Command:
    """The options that choose the models; the command gets a `connect` function for them."""

    @functools.wraps(command)
    def with_client(*args: Any, server: str, api_key: str, local: bool, config: str, models: Any, **rest: Any) -> Any:
        session = click.get_current_context().ensure_object(Session)
        local = local or bool(models)
        flags = {"config": config, "models": models}
        connect = functools.partial(_connect, session, server, api_key=api_key, local=local, flags=flags)
        return command(*args, connect=connect, **rest)

    decorated: Any = with_client
    for option in (
        quiet_option,
        json_option,
        config_option,
        models_option,
        click.option("--local", is_flag=True, help="Work in this process even if a server runs. Implied by --models."),
        click.option("--api-key", envvar="INFERENCE_ENGINE_API_KEY", metavar="KEY", help="Key for the server."),
        click.option("--server", envvar="INFERENCE_ENGINE_SERVER", metavar="URL", help="Server to work with."),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return] # click's decorators keep the function


def _connect(
    session: Session, server: str | None, *, api_key: str | None, local: bool, flags: Mapping[str, object]
) -> Client:
    """The server that was named, else the configured one if it runs, else the models in this process."""
    if server and not local:
        if urlsplit(server).scheme not in ("http", "https") or not urlsplit(server).netloc:
            raise click.BadParameter(f"{server!r} is not a URL such as http://127.0.0.1:8000", param_hint="--server")
        return _http(session, server, api_key)
    settings, _ = session.settings(flags)
    url = server_url(settings)
    if not local and server_runs(url):
        return _http(session, url, api_key or next(iter(settings.api_keys), None))
    if not session.quiet:
        note("working in this process" if local else f"no server at {url}: working in this process")
    from inference_engine.adapters.cli.local_client import LocalClient

    return LocalClient(session.composition.engine(settings), session.composition.repository(settings))


def _http(session: Session, url: str, api_key: str | None) -> Client:
    from inference_engine.adapters.cli.http_client import HttpClient

    if not session.quiet:
        note(f"using the server at {url}")
    return HttpClient(url, api_key)


def server_url(settings: Settings) -> str:
    """Where the configured server answers on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host.strip("[]"), settings.host.strip("[]"))
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def server_runs(url: str) -> bool:
    """Whether one of our servers is alive at `url`. A plain socket: an HTTP library would take longer to import."""
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        return False
    request = f"GET /health/live HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=PROBE_TIMEOUT_S) as connection:
            connection.settimeout(PROBE_TIMEOUT_S)
            connection.sendall(request.encode())
            head = b""
            while b"\r\n\r\n" not in head and len(head) < 16384 and (piece := connection.recv(4096)):
                head += piece
    except OSError:
        return False
    names = [line.partition(b":")[0].strip().lower() for line in head.split(b"\r\n\r\n")[0].splitlines()[1:]]
    return SERVER_HEADER.encode() in names
