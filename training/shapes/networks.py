"""Two small convolutional networks: how they are trained with torch and written as ONNX. Draws nothing itself.

Weights are stored as float16 and made float32 when the file is loaded, which halves the files; the networks compute in
float32. Batch normalisation is folded into the convolutions.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from training.shapes.drawing import (
    CLASSIFIER_SIZE,
    CLASSIFIER_WIDTHS,
    DETECTOR_SIZE,
    DETECTOR_WIDTHS,
    LABELS,
    MOST_SHAPES,
    Scene,
    scenes,
)

STRIDE = 8
MEAN, STD = 0.5, 0.25
Layer = tuple[int, int, int, int]
"""Channels in and out, stride, dilation of a 3 x 3 convolution."""
CLASSIFIER_LAYERS: tuple[Layer, ...] = (
    (3, 16, 2, 1), (16, 24, 2, 1), (24, 40, 2, 1), (40, 40, 1, 1), (40, 40, 1, 2),
)  # fmt: skip
DETECTOR_LAYERS: tuple[Layer, ...] = (
    (3, 16, 2, 1), (16, 32, 2, 1), (32, 48, 2, 1), (48, 48, 1, 1), (48, 48, 1, 2), (48, 48, 1, 3),
)  # fmt: skip


class Network(nn.Module):
    """Convolutions with batch normalisation and ReLU, then a 1 x 1 convolution; `pooled` takes the maxima before it."""

    def __init__(self, layers: tuple[Layer, ...], outputs: int, pooled: bool) -> None:
        super().__init__()
        self.layers, self.pooled = layers, pooled
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride, padding=dilation, dilation=dilation, bias=False)
            for i, o, stride, dilation in layers
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in layers)
        self.head = nn.Conv2d(layers[-1][1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))
        if self.pooled:
            x = x.amax(dim=(2, 3), keepdim=True)
        x = self.head(x)
        return x.flatten(1) if self.pooled else x


def prepared(found: list[Scene]) -> Tensor:
    """Scenes as the networks take them: float32 [n, 3, size, size]."""
    pixels = np.stack([scene.pixels for scene in found]).astype(np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(((pixels - MEAN) / STD).transpose(0, 3, 1, 2)))


def train_classifier(count: int = 6_000, epochs: int = 8) -> Network:
    """Learns which single shape a scene holds."""
    torch.manual_seed(1)
    found = list(itertools.islice(scenes(1, CLASSIFIER_SIZE, 1, CLASSIFIER_WIDTHS), count))
    images, labels = prepared(found), torch.tensor([scene.shapes[0].label for scene in found])
    network = Network(CLASSIFIER_LAYERS, len(LABELS), pooled=True)
    for batch, step in _schedule(network, count, epochs, 32, "classifier"):
        loss = functional.cross_entropy(network(_turned(images[batch], int(batch[0]) % 4)), labels[batch])
        step(loss)
    return network.eval()


def train_detector(count: int = 5_000, epochs: int = 6) -> Network:
    """Learns, for each cell of `STRIDE` pixels, which shape's middle is near and how far its four sides are."""
    torch.manual_seed(2)
    found = list(itertools.islice(scenes(2, DETECTOR_SIZE, MOST_SHAPES, DETECTOR_WIDTHS), count))
    images = prepared(found)
    sides, kinds = (torch.from_numpy(np.stack(parts)) for parts in zip(*map(_targets, found), strict=True))
    network = Network(DETECTOR_LAYERS, 4 + len(LABELS), pooled=False)
    nn.init.constant_(network.head.bias[4:], -3.0)
    for batch, step in _schedule(network, count, epochs, 32, "detector"):
        images_now, sides_now, kinds_now = images[batch], sides[batch], kinds[batch]
        if int(batch[0]) % 2:  # mirrored, left and right change places
            images_now, kinds_now = images_now.flip(3), kinds_now.flip(3)
            sides_now = sides_now.flip(3)[:, [2, 1, 0, 3]]
        step(_detector_loss(network(images_now), sides_now, kinds_now))
    return network.eval()


def _detector_loss(output: Tensor, sides: Tensor, kinds: Tensor) -> Tensor:
    shares = torch.sigmoid(output[:, 4:])
    wrong = torch.where(kinds > 0, 1 - shares, shares)
    entropy = functional.binary_cross_entropy_with_logits(output[:, 4:], kinds, reduction="none")
    inside = kinds.amax(1) > 0
    middles = inside.sum().clamp(min=1)
    near = (output[:, :4].clamp(-6, 6).exp()).movedim(1, -1)[inside]
    true = sides.movedim(1, -1)[inside]
    return (wrong**2 * entropy).sum() / middles + 2 * _iou_loss(near, true)


def _iou_loss(found: Tensor, true: Tensor) -> Tensor:
    """1 - IoU of boxes that are given as distances of their sides from one point."""
    least = torch.minimum(found, true)
    shared = (least[:, 0] + least[:, 2]) * (least[:, 1] + least[:, 3])
    areas = [(sides[:, 0] + sides[:, 2]) * (sides[:, 1] + sides[:, 3]) for sides in (found, true)]
    return (1 - shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)).mean()


def _targets(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sides in cells [4, grid, grid] and classes [classes, grid, grid]: 1 in the cells next to a shape's middle."""
    grid = DETECTOR_SIZE // STRIDE
    sides = np.zeros((4, grid, grid), np.float32)
    kinds = np.zeros((len(LABELS), grid, grid), np.float32)
    places = (np.arange(grid) + 0.5) * STRIDE
    for label, (x0, y0, x1, y1) in scene.shapes:
        reach = max(0.75 * STRIDE, 0.15 * max(x1 - x0, y1 - y0))
        columns = np.flatnonzero(np.abs(places - (x0 + x1) / 2) <= min(reach, (x1 - x0) / 2 - 1))
        rows = np.flatnonzero(np.abs(places - (y0 + y1) / 2) <= min(reach, (y1 - y0) / 2 - 1))
        for row, column in itertools.product(rows, columns):
            x, y = places[column], places[row]
            kinds[label, row, column] = 1
            sides[:, row, column] = np.array([x - x0, y - y0, x1 - x, y1 - y]) / STRIDE
    return sides, kinds


def _turned(images: Tensor, quarters: int) -> Tensor:
    return torch.rot90(images, quarters, (2, 3))


def _schedule(network: Network, count: int, epochs: int, rows: int, name: str) -> Iterator[tuple[Tensor, _Step]]:
    """Batches of indices and what to do with their loss; the rate rises, then falls to nothing."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-4)
    total = epochs * (count // rows)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=total, pct_start=0.15)
    step = _Step(optimizer, rate)
    started = time.monotonic()
    for epoch in range(epochs):
        order = torch.randperm(count)
        for start in range(0, count - rows + 1, rows):
            yield order[start : start + rows], step
        print(f"{name} epoch {epoch + 1}: loss {step.last:.4f}, {time.monotonic() - started:.0f} s", flush=True)


class _Step:
    def __init__(self, optimizer: torch.optim.Optimizer, rate: torch.optim.lr_scheduler.LRScheduler) -> None:
        self._optimizer, self._rate, self.last = optimizer, rate, 0.0

    def __call__(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._rate.step()
        self.last = float(loss.detach())


def to_onnx(network: Network, size: int, name: str, output: str) -> bytes:
    """The network as an ONNX file: `pixels` float32 [-1, 3, size, size] to `output`."""
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def stored(key: str, value: Tensor) -> str:
        weights.append(numpy_helper.from_array(value.detach().numpy().astype(np.float16), key))
        nodes.append(helper.make_node("Cast", [key], [f"{key}_wide"], to=TensorProto.FLOAT))
        return f"{key}_wide"

    last = "pixels"
    parts = zip(network.layers, network.convolutions, network.norms, strict=True)
    for index, ((_, _, stride, dilation), convolution, norm) in enumerate(parts):
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = stored(f"w{index}", convolution.weight * factor[:, None, None, None])
        bias = stored(f"b{index}", norm.bias - norm.running_mean * factor)
        nodes.append(
            helper.make_node(
                "Conv",
                [last, weight, bias],
                [f"c{index}"],
                kernel_shape=[3, 3],
                strides=[stride] * 2,
                pads=[dilation] * 4,
                dilations=[dilation] * 2,
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last = f"r{index}"
    if network.pooled:
        nodes.append(helper.make_node("GlobalMaxPool", [last], ["most"]))
        last = "most"
    head = [last, stored("w", network.head.weight), stored("b", network.head.bias)]
    nodes.append(helper.make_node("Conv", head, ["head" if network.pooled else output], kernel_shape=[1, 1]))
    grid = size // STRIDE
    shape: list[int | str] = ["n", network.head.out_channels, grid, grid]
    if network.pooled:
        nodes.append(helper.make_node("Flatten", ["head"], [output]))
        shape = shape[:2]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="inference-engine")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content
