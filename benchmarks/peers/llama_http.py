"""xllamacpp's own HTTP server: `python -m benchmarks.peers.llama_http FILE.gguf PORT SLOTS CONTEXT THREADS`.

Everything else is left at llama.cpp's defaults. Runs until it is terminated.
"""

from __future__ import annotations

import os
import signal
import sys

import xllamacpp


def main() -> None:
    path, (port, slots, context, threads) = sys.argv[1], map(int, sys.argv[2:6])
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {"llm"}
    params.verbosity = -1
    params.ui = False
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    del server
    os._exit(0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    main()
