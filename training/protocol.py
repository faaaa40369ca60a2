"""Compiles `adapters/grpc/proto/inference.proto` into the descriptor set that the gRPC adapter reads at run time.

Needs the dependency group `protocol`. Run it as `python -m training.protocol` after changing the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

FOLDER = Path(__file__).parents[1] / "inference_engine" / "adapters" / "grpc" / "proto"


def compile_protocol() -> int:
    """Write `inference.binpb`; the exit code of protoc."""
    target = FOLDER / "inference.binpb"
    source = FOLDER / "inference.proto"
    return int(protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={target}", str(source)]))


if __name__ == "__main__":
    sys.exit(compile_protocol())
