"""EfficientNet-Lite0 in PyTorch, to compare with; for an environment that has PyTorch.

The parameters have the names of the published file, which `network` loads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# Kernel, stride, expansion, features, repeats.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class SameConv(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's SAME."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, size, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, F, H, W] -> [B, G, ceil(H / stride), ceil(W / stride)]."""
        size, stride = self.kernel_size[0], self.stride[0]
        total = [max((side - 1) // stride * stride + size - side, 0) for side in x.shape[2:]]
        if total[0] == total[1] and total[0] % 2 == 0:
            return F.conv2d(x, self.weight, None, stride, total[0] // 2, groups=self.groups)
        height, width = total
        pads = (width // 2, width - width // 2, height // 2, height - height // 2)
        return F.conv2d(F.pad(x, pads), self.weight, None, stride, groups=self.groups)


def norm(features: int) -> nn.BatchNorm2d:
    """Batch normalisation as the network has it."""
    return nn.BatchNorm2d(features, eps=1e-3)


class Block(nn.Module):
    """Inverted residual."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(inputs, wide, 1), norm(wide)
        self._depthwise_conv = SameConv(wide, wide, size, stride, groups=wide)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, outputs, 1), norm(outputs)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, F, H, W] -> [B, G, ceil(H / stride), ceil(W / stride)]."""
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class Lite0(nn.Module):
    """The classifier."""

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), norm(32)
        blocks, inputs = [], 32
        for size, stride, expansion, outputs, repeats in STAGES:
            for i in range(repeats):
                blocks.append(Block(inputs, outputs, size, 1 if i else stride, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(inputs, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of [B, 3, H, W], normalised as (pixels - 127) / 128."""
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)), inplace=True)
        return self._fc(x.mean((2, 3)))


def network(weights: str = "", num_classes: int = 1000) -> Lite0:
    """The network, with the published weights of a file if there is one; the last layer is new."""
    found = Lite0(num_classes)
    if weights:
        state: dict[str, Any] = torch.load(weights, map_location="cpu", weights_only=True)
        if num_classes != 1000:
            state = {name: x for name, x in state.items() if not name.startswith("_fc.")}
        found.load_state_dict(state, strict=num_classes == 1000)
    return found
