"""The Open Inference Protocol v2 over gRPC, for the clients of KServe and Triton. Needs the extra `grpc`.

Importing this package loads no library; `server.py` and what it imports do.
"""
