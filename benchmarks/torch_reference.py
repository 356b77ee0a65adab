"""The networks of the benchmarks in PyTorch, to compare with; for an environment that has PyTorch.

Written to be fast: channels last, what does not change computed once, all streams of a step side by
side. The operations are those of diffmic_jax; weights are random.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch_lite0 import network as lite0

CLASSES, TIMESTEPS, FEATURES = 7, 1000, 6144
REGIONS, REGION = 6, 32
LAST = torch.channels_last


class Residual(nn.Module):
    """Two 3x3 convolutions, or a bottleneck four times as wide."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        plan = [(width, 3, stride), (width, 3, 1)]
        if bottleneck:
            plan = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        layers: list[nn.Module] = []
        last = inputs
        for outputs, size, step in plan:
            layers += [nn.Conv2d(last, outputs, size, step, size // 2, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            last = outputs
        self.branch = nn.Sequential(*layers[:-1])
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != last:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, last, 1, stride, bias=False), nn.BatchNorm2d(last)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, F, H, W] -> [B, G, H / stride, W / stride]."""
        return F.relu(self.skip(x) + self.branch(x), inplace=True)


def resnet(depth: int) -> nn.Sequential:
    """ResNet18 or ResNet50 up to the last feature map."""
    sizes, bottleneck = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}[depth]
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for stage, repeats in enumerate(sizes):
        for i in range(repeats):
            width, stride = 64 << stage, 2 if stage and not i else 1
            layers.append(Residual(inputs, width, stride, bottleneck))
            inputs = width * (4 if bottleneck else 1)
    return nn.Sequential(*layers)


class Classifier(nn.Module):
    """A ResNet with a linear layer."""

    def __init__(self, depth: int):
        super().__init__()
        self.trunk = resnet(depth)
        self.head = nn.Linear(512 if depth == 18 else 2048, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of [B, 3, H, W]."""
        return self.head(self.trunk(x).mean((2, 3)))


class Guidance(nn.Module):
    """DCG: the whole image, and the regions in which its class maps are largest."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.local = resnet(50), resnet(50)
        self.maps = nn.Conv2d(2048, CLASSES, 1, bias=False)
        self.value, self.gate = (nn.Linear(2048, 128, bias=False) for _ in range(2))
        self.score, self.head = (
            nn.Linear(n, k, bias=False) for n, k in ((128, 1), (2048, CLASSES))
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [B, C], the mean of both streams'."""
        maps = self.maps(self.whole(image))
        with torch.no_grad():
            crops = _crops(image, _corners(maps, image.shape[-1]))
        h = self.local(crops).mean((2, 3)).unflatten(0, (len(image), REGIONS))
        weight = self.score(torch.tanh(self.value(h)) * torch.sigmoid(self.gate(h))).softmax(1)
        return (maps.mean((2, 3)) + self.head((weight * h).sum(1))) / 2


def _corners(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Upper-left pixels [B, K, 2] of the best windows of one cell, greedily."""
    low = maps.amin((2, 3), keepdim=True)
    merged = ((maps - low) / (maps.amax((2, 3), keepdim=True) - low)).sum(1)
    cells = merged.flatten(1).topk(REGIONS).indices  # of windows of a cell, greedy is the best
    width = merged.shape[-1]
    return torch.stack([cells // width, cells % width], -1) * (side // width)


def _crops(image: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """[B K, 3, p, p]."""
    along = torch.arange(REGION)
    rows, columns = (corners[..., i, None] + along for i in (0, 1))
    batch = torch.arange(len(image))[:, None, None, None]
    picked = image.permute(0, 2, 3, 1)[batch, rows[..., :, None], columns[..., None, :]]
    return picked.flatten(0, 1).permute(0, 3, 1, 2)


class Denoiser(nn.Module):
    """The noise in a label, given the guidance's logits and the image's embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.embed = resnet(18), nn.Linear(512, FEATURES)
        self.embed_norm = nn.BatchNorm1d(FEATURES)
        self.layers = nn.ModuleList(
            nn.Linear(n, FEATURES) for n in (2 * CLASSES, FEATURES, FEATURES)
        )
        self.gates = nn.ModuleList(nn.Embedding(TIMESTEPS + 1, FEATURES) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(FEATURES) for _ in range(3))
        self.output = nn.Linear(FEATURES, CLASSES)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Embedding [B, D]."""
        return self.embed_norm(self.embed(self.encoder(image).mean((2, 3))))

    def forward(
        self, y: torch.Tensor, logits: torch.Tensor, t: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """eps_hat [B, C] of y [B, C]; in training of streams [S, B, C], normalised one by one."""
        x = torch.cat([y, logits.expand_as(y)], -1)
        for i, layer in enumerate(self.layers):
            x = self._norm(i, layer(x) * self.gates[i](t))
            x = F.softplus(x) * features if i == 0 else F.softplus(x)
        return self.output(x)

    def _norm(self, i: int, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.norms[i](one) for one in x]) if x.ndim == 3 else self.norms[i](x)


class Diffusion:
    """The chain of v1 (Eq. 1 to 6) with a linear schedule."""

    def __init__(self) -> None:
        beta = torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)
        self.ab = torch.cumprod(1 - beta, 0)
        self.beta = beta

    def noisy(self, y0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, mean: torch.Tensor):
        """q(y_t | y_0, mean)."""
        root = self.ab[t].sqrt().float()[:, None]
        return root * y0 + (1 - root) * mean + (1 - root**2).sqrt() * eps

    def coefficients(self, t: int) -> tuple[float, ...]:
        """Of y0_hat, y_t, the mean and the noise in a reverse step, and sqrt(alpha_bar)."""
        ab, before = float(self.ab[t]), float(self.ab[t - 1]) if t else 1.0
        beta, alpha = float(self.beta[t]), 1 - float(self.beta[t])
        of_y0, of_y = beta * before**0.5 / (1 - ab), (1 - before) * alpha**0.5 / (1 - ab)
        of_mean = 1 + (ab**0.5 - 1) * (alpha**0.5 + before**0.5) / (1 - ab)
        return of_y0, of_y, of_mean, (beta * (1 - before) / (1 - ab)) ** 0.5, ab**0.5


class Predictor(nn.Module):
    """Classification of images by the first `steps` timesteps of the chain."""

    def __init__(self, steps: int = 60):
        super().__init__()
        self.guidance, self.denoiser, self.steps = Guidance(), Denoiser(), steps
        chain = Diffusion()
        self.coefficients = [chain.coefficients(t) for t in range(steps)]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities [B, C]."""
        logits = self.guidance(image)
        mean, features = logits.softmax(-1), self.denoiser.encode(image)
        y = mean + torch.randn_like(mean)
        for t in reversed(range(self.steps)):
            of_y0, of_y, of_mean, noise, root = self.coefficients[t]
            eps = self.denoiser(y, logits, torch.tensor(t), features)
            y0 = (y - (1 - root) * mean - math.sqrt(1 - root**2) * eps) / root
            y = of_y0 * y0 + of_y * y + of_mean * mean if t else y0
            y = y + noise * torch.randn_like(y) if t else y
        return y.softmax(-1)


def mmd(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy with a Gaussian kernel."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(a[:, None] - b[None]).square().mean(-1) / a.shape[-1])

    return kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()


def training(batch: int, size: int, layout: torch.memory_format) -> Callable[[], object]:
    """A joint step of v1: guidance by AMSGrad, denoiser by Adam."""
    guidance, denoiser = (each.to(memory_format=layout) for each in (Guidance(), Denoiser()))
    chain = Diffusion()
    first = torch.optim.Adam(guidance.parameters(), 2e-4, amsgrad=True)
    second = torch.optim.Adam(denoiser.parameters(), 1e-3)
    image = torch.randn(batch, 3, size, size).to(memory_format=layout)
    label = torch.arange(batch) % CLASSES
    target = F.one_hot(label, CLASSES).float()

    def step() -> None:
        guidance.eval()
        with torch.no_grad():
            logits = guidance(image)
        guidance.train()
        first.zero_grad(set_to_none=True)
        F.cross_entropy(guidance(image), label).backward()
        second.zero_grad(set_to_none=True)
        t, eps = torch.randint(0, TIMESTEPS, (batch,)), torch.randn(batch, CLASSES)
        y = chain.noisy(target, t, eps, logits.softmax(-1))
        # Three noisy labels, as the streams' own means would give; one embedding for them all.
        found = denoiser(torch.stack([y, y, y]), logits, t, denoiser.encode(image))
        loss = (found[0] - eps).square().mean()
        loss = loss + 0.5 * (mmd(eps, found[1]) + mmd(eps, found[2]))
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        first.step()
        second.step()

    return step


def program(name: str, variant: str, batch: int, size: int) -> Callable[[], object]:
    """What is timed: one step of training, or one batch classified.

    Args:
      name: `v1-train`, `v1-predict`, or `train` or `infer` behind `lite0`, `resnet18`, `resnet50`.
      variant: `eager`, `channels_last` or `compiled` (and channels last).
      batch: images.
      size: pixels a side.
    """
    if name == "v1-train":
        return training(batch, size, torch.contiguous_format if variant == "eager" else LAST)
    what, _, task = name.partition("-")
    net: nn.Module
    net = (
        Predictor()
        if what == "v1"
        else lite0("", CLASSES)
        if what == "lite0"
        else Classifier(int(what.removeprefix("resnet")))
    )
    image = torch.randn(batch, 3, size, size)
    if variant != "eager":
        net, image = (each.to(memory_format=LAST) for each in (net, image))
    net.train(task == "train")
    run = torch.compile(net) if variant == "compiled" else net

    def infer() -> None:
        with torch.inference_mode():
            run(image)

    def train() -> None:
        net.zero_grad(set_to_none=True)
        (-torch.log_softmax(run(image), dim=1)[:, 0].mean()).backward()

    return train if task == "train" else infer
