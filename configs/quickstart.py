"""Quickstart: the whole method on the embedded phantom, on a laptop in minutes.

Placental phantoms of 64 px in four grades; small networks.

    python main.py --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from configs import default


def get_config(recipe: str = "v1") -> ConfigDict:
    """Small networks, few epochs."""
    c = default.get_config(recipe)
    c.data.name = "phantom"
    c.data.image_size = 64
    c.data.rotation = 15.0
    c.guidance.pretrained = ""
    c.guidance.backbone = "resnet18"
    c.guidance.width = 32
    c.guidance.num_regions = 4
    c.guidance.region_size = 24
    c.guidance.warmup_epochs = 4
    c.guidance.learning_rate = 4e-4
    if recipe == "v2":
        c.denoiser.encoder = "resnet18"  # its ViT needs the weights it was published with
        c.denoiser.pretrained = ""
    if recipe == "diffmic_plus":
        c.denoiser.encoder = c.guidance.backbone
    c.denoiser.width = 32
    c.denoiser.feature_dim = 256
    c.train.batch_size = 32
    c.train.epochs = 14
    if recipe == "v1":
        # After so few steps only the late part of the chain is well trained, and a draw is noisy.
        c.sampling.start = "truncated"
        c.sampling.num_samples = 32
    return c
