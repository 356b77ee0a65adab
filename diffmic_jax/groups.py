"""The groups of a configuration: every field of a run, declared once, with type, default, allowed
values or range, unit and meaning.

`config.Config` joins them; `docs/config.md` is written from this file.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from diffmic_jax.fields import field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The images, their labels and their split."""

    name: str = field("images", "a data set known by name, images (your own), or phantom")
    root: str = field("", "folder of the images, or what `prepare` wrote", free=True)
    labels: str = field(
        "", "CSV of labels, or one for each part, as train.csv,test.csv; empty: a folder per class"
    )
    lists: str = field("", "folder or pair TRAIN,TEST of DiffMIC's pickled split lists")
    groups: str = field("", "CSV of image and group (lesion, patient), which stay on one side")
    group_regex: str = field(
        "", "where in an image's id its group is, as (patient[0-9]+); `audit` proposes one"
    )
    split: str = field("", "CSV of image and part, as a run writes it; wins over the protocol")
    label_columns: tuple[str, ...] = field(
        (), "the label column of the CSV, or one for each class; empty: by their names"
    )
    unlabelled: Literal["error", "skip"] = field(
        "error", "stop at an image without a label, or leave it out"
    )
    uncertain: Literal["error", "ignore", "zero", "one"] = field(
        "error", "a blank or -1 in a class's column: stop, count it in no loss and metric, 0, or 1"
    )
    class_names: tuple[str, ...] = field(
        (), "in label order, which is one of degrees; empty: as the labels have them"
    )
    allow_outside: bool = field(
        False, "images may be elsewhere than under root: by path in a table, or by links"
    )
    multi_label: bool = field(False, "any number of classes per image")
    protocol: Literal["given", "authors", "random", "grouped"] = field(
        "given", "which split: the data set's own, DiffMIC's lists, or one cut anew"
    )
    test_fraction: float = field(0.2, "of all images, where no split is given", low=0, high=1)
    validation_fraction: float = field(
        0.1, "of the training part; 0: the last step is evaluated", low=0, high=1
    )
    folds: int = field(
        0,
        "parts of training and validation together, each held out by one run; 0: one cut",
        low=0,
    )
    fold: int = field(0, "with data.folds: the part that this run holds out", low=0)
    split_seed: int = field(0, "of the cuts", low=0, high=2**32 - 1)
    image_size: int = field(224, "side of the square that the networks see", low=1, unit="px")
    fit: Literal["crop", "letterbox", "stretch"] = field(
        "crop", "how a picture becomes the square: its centre, padded with black, or stretched"
    )
    trim: Literal["none", "disc"] = field(
        "none", "before that; disc: cut away dark surroundings, as of a retina on black"
    )
    flip: Literal["none", "horizontal", "both"] = field(
        "horizontal", "random flips in training (v1, section 3: horizontal; both for APTOS2019)"
    )
    rotation: float = field(
        30.0, "random rotation in training, uniform to both sides", low=0, high=180, unit="degrees"
    )
    crop: float = field(
        1.0,
        "smallest share of the area that a random crop in training keeps; 1: none",
        low=0.05,
        high=1,
    )
    augmentation: Literal["basic", "trivial"] = field(
        "basic", "flips, rotation and crops; trivial: and one random operation on every image"
    )
    balance: float = field(
        0.0, "training images per class: 0 as there are, 1 equally many of each", low=0, high=1
    )
    on_bad_image: Literal["error", "skip"] = field(
        "error", "stop at an image that cannot be read, or leave it out and list it"
    )
    on_conflict: Literal["warn", "error"] = field(
        "warn", "tell of the same picture under two labels, or stop"
    )
    gray_bits: int = field(
        0,
        "scale of gray images stored in more than 8 bits; 0: one for all, of the bits in use",
        low=0,
        high=16,
        free=True,
    )
    max_pixels: int = field(100_000_000, "larger images are refused", low=1, unit="px")
    cache_dir: str = field("", "of decoded images; empty: ~/.cache/diffmic_jax", free=True)
    num_workers: int = field(
        0, "processes that read batches; 0 is enough for most devices", low=0, free=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What all ResNet trunks share."""

    width: int = field(64, "channels of a ResNet's first stage", low=1)
    stem: Literal["imagenet", "small"] = field(
        "imagenet", "first layers of a ResNet: stride 4, or stride 1 for images of 32 px or so"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """The guidance network, which estimates the class by itself."""

    network: Literal["dcg", "classifier"] = field(
        "dcg", "dcg: the whole image and its regions; classifier: one trunk, no regions"
    )
    backbone: str = field("resnet50", "name of its trunks; `diffmic info --trunks` lists them")
    local_trunk: str = field(
        "", "trunk of the regions: a name; empty: one like backbone; shared: backbone itself"
    )
    saliency_stride: int = field(
        0,
        "of the grid that finds the regions; 0: that of backbone's last features",
        low=0,
        unit="px",
    )
    saliency_weights: Literal["uniform", "predicted"] = field(
        "uniform", "of the classes when regions are found: all alike, or by the class maps' means"
    )
    num_regions: int = field(6, "K, regions of interest; also the side of v2's label map", low=1)
    region_size: int = field(32, "side of a region", low=1, unit="px")
    region_overlap: float = field(
        1.0, "largest share of a region inside those before it; 1: no limit", low=0, high=1
    )
    crop_channels: Literal["all", "first"] = field(
        "all", "channels of a region: its colour, or channel 0 three times"
    )
    pretrained: str = field(
        "auto",
        "weights of backbone: a file, a timm name, auto (ImageNet's) or empty (random); another "
        "local_trunk takes auto",
        free=True,
    )
    checkpoint: str = field("", "workdir of a run whose guidance this one starts with", free=True)
    warmup_epochs: int = field(10, "guidance alone, before the denoiser learns", low=0)
    frozen: bool = field(False, "the guidance no longer learns once the denoiser does")
    loss: Literal["fused", "branches", "focal", "ohem", "logit_adjusted", "ldam", "prototype"] = (
        field("fused", "loss of the averaged logits, of each branch, or one for skewed classes")
    )
    class_weights: Literal["none", "balanced", "deferred"] = field(
        "none", "weights of the classes; deferred: in the last fifth, without diffusion"
    )
    label_smoothing: float = field(
        0.0, "share of a label that is spread over all classes", low=0, high=1
    )
    mix: Literal["none", "mixup", "cutmix", "both"] = field(
        "none", "training images are mixed with others, and so are their labels"
    )
    hidden: tuple[int, ...] = field(
        (), "classifier: widths of layers between the trunk's features and the last, linear one"
    )
    dropout: float = field(
        0.0, "classifier: share of the inputs of these layers left out in training", low=0, high=1
    )
    drop_path: float = field(
        0.0, "stochastic depth: share of images without the last block; less before", low=0, high=1
    )
    statistics: Literal["running", "settled"] = field(
        "running",
        "of batch normalisation: running averages; settled: computed anew for what predicts, of "
        "images that are not augmented",
    )
    tune: Literal["full", "last_blocks", "head"] = field(
        "full", "what learns of the trunks: all, the last quarter of the blocks, or nothing"
    )
    views: int = field(
        4, "with tune=head: augmented views of an image whose features are computed once", low=1
    )
    optimizer: Literal["amsgrad", "adam", "adamw"] = field("amsgrad", "of the guidance")
    learning_rate: float = field(2e-4, "of the guidance, at its peak", low=0)
    rate: Literal["constant", "cosine"] = field(
        "constant", "of learning: constant, or warm-up and half a cosine over all phases"
    )
    layer_decay: float = field(
        1.0, "factor of the rate from each block of a trunk to the one before", low=0, high=1
    )
    weight_decay: float = field(0.0, "adamw: decay of the weights, without biases and norms", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
    """The denoiser, which predicts the noise in a label."""

    encoder: str = field(
        "resnet18",
        "trunk of the image embedding; guidance: the guidance's own features; empty: no diffusion",
    )
    pretrained: str = field(
        "",
        "weights of the encoder, as guidance.pretrained; guidance: those its trunk has learned",
        free=True,
    )
    feature_dim: int = field(6144, "D, width of its layers", low=1)
    local_encoder: str = field("", "trunk of the regions (v2); empty: the whole image alone")
    conditioning: Literal["fused", "dual", "map", "global", "local", "none"] = field(
        "dual", "the guidance prediction that the denoiser sees"
    )
    parameterization: Literal["eps", "v", "y0", "edm", "posterior"] = field(
        "eps",
        "what it outputs: the noise, v, the label around the prior mean, what a linear estimate of "
        "that leaves, or a correction of the posterior given the guidance",
    )
    gates: Literal["uniform", "ones"] = field(
        "uniform", "start of the factors per timestep and feature: random in [0, 1), or 1"
    )
    conditioning_dropout: float = field(
        0.0, "share of the training images without conditioning", low=0, high=1
    )
    encoder_updates: int = field(
        1, "updates of the encoder's running statistics per step (public code: 3)", low=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The noise schedule and the timesteps of training."""

    schedule: Literal["linear", "const", "quad", "jsd", "sigmoid", "cosine", "cosine_anneal"] = (
        field("linear", "of the noise; linear: beta from 1e-4 to 0.02")
    )
    num_train_steps: int = field(1000, "T, length of the chain", low=2)
    precision: Literal["float64", "public"] = field(
        "float64", "of its tables; public: rounded as in the authors' float32 code"
    )
    timesteps: Literal["antithetic", "uniform"] = field(
        "antithetic", "training timesteps: in pairs t, T-1-t, or independent in every cell"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Losses, optimization, and the running of a training."""

    batch_size: int = field(32, "images per step", low=1)
    epochs: int = field(1000, "in which the denoiser learns", low=1, unit="epochs")
    max_steps: int = field(0, "limit over all phases; 0: none", low=0, free=True)
    patience: int = field(
        0, "checkpoints in a row worse on validation, then it ends; 0: no limit", low=0, free=True
    )
    learning_rate: float = field(1e-3, "of the denoiser, at its peak", low=0)
    final_learning_rate: float = field(0.0, "at the end of the half cosine", low=0)
    rate_per_epoch: bool = field(False, "the rate changes once per epoch, not per step")
    warmup_fraction: float = field(
        0.04, "of the epochs, over which the rate rises from 0", low=0, high=1
    )
    clip_norm: float = field(1.0, "global norm of the denoiser's gradients; 0: no limit", low=0)
    loss_weight: Literal["uniform", "focal"] = field(
        "uniform", "weight of an image: 1, or 1 + 10 (1 - p) by the guidance's confidence p"
    )
    timestep_weight: Literal["noise", "label", "min_snr", "edm"] = field(
        "noise", "of a squared error: as of the noise, as of the label, or between the two"
    )
    noise_weight: float = field(1.0, "of the noise MSE", low=0)
    mmd_weight: float = field(0.5, "of each MMD term", low=0)
    label_weight: float = field(0.0, "of the cross-entropy of the denoised label", low=0)
    label_balance: float = field(
        0.0, "logit adjustment of that loss: 0 none, 1 classes equally common", low=0, high=1
    )
    ema: bool = field(False, "evaluate the exponential moving average of the parameters")
    dtype: Literal["float32", "bfloat16"] = field("float32", "of the computation")
    steps_per_dispatch: int = field(
        1, "computed in one go; fewer before a checkpoint, a phase or the end", low=1, free=True
    )
    log_every: int = field(50, "between rows of the log", low=1, unit="steps", free=True)
    on_nan: Literal["stop", "skip"] = field(
        "stop", "at a loss that is not finite: stop, or leave the step out", free=True
    )
    max_minutes: float = field(
        0.0, "then save and exit with status 75; 0: no limit", low=0, unit="min", free=True
    )
    hang_minutes: float = field(
        30.0, "without progress before a warning; 0: never", low=0, unit="min", free=True
    )
    remat: bool = field(False, "recompute the trunks' blocks in the backward pass: less memory")
    accumulate: int = field(1, "parts of a batch, one after the other: less memory", low=1)
    model_shards: int = field(1, "devices that share the denoiser's wide layers", low=1, free=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """The reverse process and how its samples become probabilities."""

    sampler: Literal["ancestral", "ddim"] = field("ancestral", "the reverse sampler")
    num_steps: int = field(100, "reverse steps; 0 without a denoiser", low=0)
    start: Literal["full", "truncated", "leading"] = field(
        "full", "timesteps: spread over the chain, its first ones, or multiples of T // n"
    )
    initial: Literal["mean", "map", "random_map"] = field(
        "mean", "start: noise around the prior mean, around the guidance map, or a random map"
    )
    start_std: Literal["unit", "matched"] = field(
        "unit", "standard deviation of the noise at the start: 1, or that of its timestep"
    )
    num_samples: int = field(1, "S, samples per image, averaged", low=1)
    readout: Literal["clip", "chain", "softmax"] = field(
        "clip",
        "from samples to probabilities: their mean, clipped and normalised; chain: the mean over "
        "all steps as well; softmax: the link function of the mean",
    )
    unconditional: float = field(0.0, "share of the samples without conditioning", low=0, high=1)
    ensemble_weight: float = field(
        0.0, "weight of the guidance prediction in the probabilities", low=0, high=1
    )
    flips: Literal["none", "horizontal", "both"] = field(
        "none", "the prediction is the mean over the image and its mirrored copies"
    )
    clip: tuple[float, ...] = field((), "ddim: range (low, high) of y0_hat; empty: none")
    rederive_eps: bool = field(
        False, "ddim: after clipping, go on with the noise that the clipped label implies"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is saved, and which checkpoint is the best."""

    every_steps: int = field(
        0, "between checkpoints; 0: once per epoch", low=0, unit="steps", free=True
    )
    metric: str = field("accuracy", "on validation, chooses the best")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """How results are measured."""

    batch_size: int = field(64, "images per prediction step", low=1, free=True)
    bootstrap: int = field(1000, "resamples for the intervals", low=0, free=True)
