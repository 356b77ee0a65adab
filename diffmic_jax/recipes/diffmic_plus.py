"""Ours: two readings of one denoiser, with and without conditioning, and the guidance prediction.

The denoiser corrects the posterior that follows from the guidance prediction (docs/plus.md has the
equations); its answers are read in one step, without noise.
"""

from diffmic_jax.config import Config, Denoiser, Diffusion, Guidance, Sampling, Train

CONFIG = Config(
    recipe="diffmic_plus",
    guidance=Guidance(
        network="dcg",
        backbone="resnet50",
        local_trunk="",
        saliency_stride=0,
        saliency_weights="uniform",
        num_regions=6,
        region_size=32,
        region_overlap=1.0,
        crop_channels="all",
        pretrained="auto",
        warmup_epochs=10,
        frozen=True,
        loss="fused",
        class_weights="none",
        label_smoothing=0.0,
        mix="none",
        hidden=(),
        dropout=0.0,
        drop_path=0.0,
        tune="full",
        views=4,
        optimizer="amsgrad",
        learning_rate=2e-4,
        rate="constant",
        layer_decay=1.0,
        weight_decay=0.0,
    ),
    denoiser=Denoiser(
        encoder="resnet50",  # like the guidance's trunk, whose weights it starts with
        pretrained="guidance",
        feature_dim=6144,
        local_encoder="",
        conditioning="dual",
        parameterization="posterior",  # an output of zero is the guidance prediction
        gates="ones",  # all timesteps start with the same network
        conditioning_dropout=0.5,  # the unconditional half learns from the image alone
        encoder_updates=1,
    ),
    diffusion=Diffusion(
        schedule="linear",
        num_train_steps=1000,
        precision="float64",
        timesteps="antithetic",
    ),
    train=Train(
        batch_size=32,
        epochs=1000,
        learning_rate=3e-4,
        final_learning_rate=0.0,
        rate_per_epoch=False,
        warmup_fraction=0.04,
        clip_norm=1.0,
        loss_weight="uniform",
        timestep_weight="noise",
        noise_weight=0.0,
        mmd_weight=0.0,
        label_weight=1.0,  # cross-entropy of the denoised label
        label_balance=0.3,  # logit adjustment (Menon et al. 2021)
        ema=False,
    ),
    sampling=Sampling(
        sampler="ancestral",
        num_steps=1,  # from t = T - 1 to the posterior mean
        start="full",
        initial="mean",
        start_std="unit",
        num_samples=2,  # one unconditional, one conditional
        readout="clip",
        unconditional=0.5,
        ensemble_weight=1 / 3,
        flips="none",
        clip=(),
        rederive_eps=False,
    ),
)
