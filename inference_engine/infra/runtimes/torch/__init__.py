"""Runs PyTorch models: exported programs, TorchScript, weights with a class. `docs/runtimes/torch.md` is its manual."""

from inference_engine.infra.runtimes.torch.runtime import TorchRuntime

__all__ = ["TorchRuntime"]
