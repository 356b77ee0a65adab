"""DiffMIC-v2 (IEEE TMI 2025): a map of labels, a frozen guidance, ten steps.

Where the paper is silent, the authors' public v2 code decides ("public").
"""

from diffmic_jax.config import Config, Denoiser, Diffusion, Guidance, Sampling, Train

CONFIG = Config(
    recipe="v2",
    guidance=Guidance(
        network="dcg",
        backbone="resnet18",  # public
        local_trunk="",
        saliency_stride=0,
        saliency_weights="uniform",
        num_regions=6,  # K; the label map has K x K cells (Np = K)
        region_size=32,
        region_overlap=1.0,
        crop_channels="first",  # public
        pretrained="auto",
        warmup_epochs=100,  # paper: the guidance is trained alone
        frozen=True,  # and then no longer learns
        loss="branches",  # paper: cross-entropy of both branches
        class_weights="none",
        label_smoothing=0.0,
        mix="none",
        hidden=(),
        dropout=0.0,
        drop_path=0.0,
        statistics="running",
        tune="full",
        views=4,
        optimizer="adam",  # paper; public does not train it
        learning_rate=2e-4,  # paper
        rate="constant",
        layer_decay=1.0,
        weight_decay=0.0,
    ),
    denoiser=Denoiser(
        encoder="efficientsam_s",  # image-feature prior: EfficientSAM's ViT-S
        pretrained="auto",  # its published weights
        feature_dim=6144,
        local_encoder="resnet18",  # image-feature prior: the regions
        conditioning="map",  # dense guidance map
        parameterization="eps",
        gates="uniform",
        conditioning_dropout=0.0,
        encoder_updates=1,
    ),
    diffusion=Diffusion(
        schedule="linear",
        num_train_steps=1000,
        precision="float64",
        timesteps="uniform",  # heterologous diffusion: every cell its own timestep
    ),
    train=Train(
        batch_size=64,  # public
        epochs=1000,  # paper; public 2,000
        learning_rate=1e-3,  # public
        final_learning_rate=1e-5,  # public
        rate_per_epoch=True,  # public
        warmup_fraction=0.0,
        clip_norm=0.0,
        loss_weight="focal",  # public: 1 + 10 (1 - p); the paper has the plain MSE
        timestep_weight="noise",
        noise_weight=1.0,
        mmd_weight=0.0,  # no MMD in v2
        label_weight=0.0,
        label_balance=0.0,
        ema=False,
    ),
    sampling=Sampling(
        sampler="ddim",
        num_steps=10,  # paper
        start="leading",  # public
        initial="map",  # Eq. 10: N(M, I)
        start_std="unit",
        num_samples=8,  # one sample is a poor answer: docs/recipes.md
        readout="clip",
        unconditional=0.0,
        ensemble_weight=0.0,
        flips="none",
        clip=(-1.0, 1.0),  # public
        rederive_eps=False,
    ),
)
