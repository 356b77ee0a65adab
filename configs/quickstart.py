"""Quickstart: the whole method on the embedded phantom, on a laptop in minutes.

Placental phantoms of 64 px in four grades; small networks.

    python main.py --config=configs/quickstart.py
"""

from typing import Any

from ml_collections import ConfigDict

from diffmic_jax import recipes

CHANGES = {
    "data.name": "phantom",
    "data.image_size": 64,
    "data.rotation": 15.0,
    "model.width": 32,
    "guidance.pretrained": "",
    "guidance.backbone": "resnet18",
    "guidance.num_regions": 4,
    "guidance.region_size": 24,
    "guidance.warmup_epochs": 4,
    "guidance.learning_rate": 4e-4,
    "denoiser.feature_dim": 256,
    "train.batch_size": 32,
    "train.epochs": 14,
}
BY_RECIPE: dict[str, dict[str, Any]] = {
    # After so few steps only the late part of the chain is well trained, and a sample is noisy.
    "v1": {"sampling.start": "truncated", "sampling.num_samples": 32},
    # Its ViT needs the weights that it was published with.
    "v2": {"denoiser.encoder": "resnet18", "denoiser.pretrained": ""},
    # The whole method: the guidance looks at regions too, and learns from random weights.
    "plus": {
        "guidance.network": "dcg",
        "guidance.optimizer": "amsgrad",
        "guidance.weight_decay": 0.0,
        "guidance.rate": "constant",
        "guidance.label_smoothing": 0.0,
        "guidance.warmup_epochs": 14,
        "data.crop": 1.0,
        "train.epochs": 8,
    },
    "strong": {
        "guidance.backbone": "efficientnet_lite0",
        "guidance.pretrained": "auto",
        "guidance.learning_rate": 1e-3,
        "guidance.warmup_epochs": 0,
    },
}


def get_config(recipe: str = "plus") -> ConfigDict:
    """Small networks, few epochs."""
    return recipes.config_dict(recipe, CHANGES, BY_RECIPE)
