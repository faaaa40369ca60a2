"""Measures the server side by side with the bare libraries it is built on: `make bench`, or `python -m benchmarks`."""
