"""gRPC over TLS, with a certificate of the operator's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from inference_engine.core.settings import Settings, SettingsError
from tests.grpc.conftest import serving
from tests.http.support import World

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


def certificate(folder: Path) -> tuple[Path, Path]:
    chain, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*make, "-keyout", key, "-out", chain, *subject], check=True, capture_output=True)
    return chain, key


def test_tls(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    with (
        serving(World(), tls=(chain, key)) as address,
        triton.InferenceServerClient(address, ssl=True, root_certificates=str(chain)) as client,
    ):
        assert client.is_server_ready()
        numbers = np.array([[1, 2, 3, 4]], np.float32)
        tensor = triton.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(numbers)
        answer = client.infer("echo", [tensor], compression_algorithm="gzip")
        assert np.array_equal(answer.as_numpy("y"), numbers)


def test_the_settings_of_tls_belong_together(tmp_path: Path) -> None:
    chain, _ = certificate(tmp_path)
    with pytest.raises(SettingsError, match="set both grpc_tls_cert and grpc_tls_key"):
        Settings.load({"grpc_tls_cert": str(chain)}, {}, tmp_path)
    with pytest.raises(SettingsError, match="there is no file"):
        Settings.load({"grpc_tls_cert": str(chain), "grpc_tls_key": "missing.pem"}, {}, tmp_path)


def test_shared_memory_is_for_this_machine(tmp_path: Path) -> None:
    public = {"host": "0.0.0.0", "api_keys": ("key",), "grpc_shared_memory": "true"}
    with pytest.raises(SettingsError, match="clients of this machine only"):
        Settings.load(public, {}, tmp_path)
