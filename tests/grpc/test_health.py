"""The standard health service, and what connections are set to."""

from __future__ import annotations

import socket
import threading
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.grpc.conftest import serving
from tests.http.support import World

Live = tuple[World, str]
STATUS = health_pb2.HealthCheckResponse
UNKNOWN, SERVING, NOT_SERVING = STATUS.SERVICE_UNKNOWN, STATUS.SERVING, STATUS.NOT_SERVING


def asked(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


def test_each_model_can_be_checked_by_its_name(live: Live) -> None:
    with grpc.insecure_channel(live[1]) as channel, triton.InferenceServerClient(live[1]) as client:
        health = health_pb2_grpc.HealthStub(channel)
        client.load_model("echo")
        client.unload_model("echo-int8")
        assert health.Check(asked("inference.GRPCInferenceService")).status == SERVING
        assert health.Check(asked("echo")).status == SERVING
        assert health.Check(asked("echo-int8:1")).status == NOT_SERVING
        for name in ("nobody", "../etc", "x" * 300):
            with pytest.raises(grpc.RpcError) as refused:
                health.Check(asked(name))
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_watching_a_model_tells_each_change(live: Live) -> None:
    with grpc.insecure_channel(live[1]) as channel, triton.InferenceServerClient(live[1]) as client:
        client.unload_model("echo-uint8")
        watched = health_pb2_grpc.HealthStub(channel).Watch(asked("echo-uint8"), timeout=20)
        assert next(watched).status == NOT_SERVING
        client.load_model("echo-uint8")
        assert next(watched).status == SERVING
        client.unload_model("echo-uint8")
        assert next(watched).status == NOT_SERVING
        watched.cancel()
        unknown = health_pb2_grpc.HealthStub(channel).Watch(asked("nobody"), timeout=20)
        assert next(unknown).status == UNKNOWN
        unknown.cancel()


def test_the_end_of_the_server_is_told_to_those_who_watch() -> None:
    found: list[Any] = []
    with serving(World()) as address:
        channel = grpc.insecure_channel(address)
        watched = health_pb2_grpc.HealthStub(channel).Watch(asked(""), timeout=20)
        found.append(next(watched).status)
    found += [answer.status for answer in watched]
    channel.close()
    assert found == [SERVING, NOT_SERVING]


def test_models_are_told_to_those_with_a_key(guarded: str) -> None:
    with grpc.insecure_channel(guarded) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(asked("")).status == SERVING
        with pytest.raises(grpc.RpcError) as refused:
            health.Check(asked("echo"))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as refused:
            next(health.Watch(asked("echo"), timeout=20))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert health.Check(asked("echo"), metadata=(("x-api-key", "a-secret-key"),)).status == NOT_SERVING


class Counting:
    """Passes one connection on to `address` and counts the bytes that come back."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.back = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(self._target) as server:
            there = threading.Thread(target=self._pump, args=(client, server, False), daemon=True)
            there.start()
            self._pump(server, client, True)
            there.join(10)

    def _pump(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                self.back += len(data) if count else 0
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


@pytest.mark.parametrize(("compression", "small"), [("none", False), ("gzip", True), ("deflate", True)])
def test_answers_are_compressed_as_the_operator_says(compression: str, small: bool) -> None:
    with serving(World(), compression=compression, keepalive_s=5.0) as address:
        proxy = Counting(address)
        given = triton.InferInput("x", [2000, 4], "FP32")
        given.set_data_from_numpy(np.ones((2000, 4), np.float32))
        with triton.InferenceServerClient(proxy.address) as client:
            answer = client.infer("echo", [given])
        assert answer.as_numpy("y").sum() == 8000
        proxy.close()
        assert (proxy.back < 8000) is small
