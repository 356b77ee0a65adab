"""A strong plain classifier: a pretrained trunk, fine-tuned as practice has it. No diffusion.

The rival that a diffusion has to beat at equal cost. Measured choices: docs/results.md.
"""

from diffmic_jax.config import Config, Data, Denoiser, Diffusion, Guidance, Sampling, Train

CONFIG = Config(
    recipe="strong",
    data=Data(
        crop=0.7,
        augmentation="basic",  # in a few epochs more of it is too much
    ),
    guidance=Guidance(
        network="classifier",
        backbone="efficientnet_lite0",  # its weights come with the package
        local_trunk="",
        saliency_stride=0,
        saliency_weights="uniform",
        num_regions=6,
        region_size=32,
        region_overlap=1.0,
        crop_channels="all",
        pretrained="auto",
        warmup_epochs=0,
        frozen=False,
        loss="fused",
        class_weights="none",
        label_smoothing=0.1,  # Szegedy et al. 2016
        mix="none",
        hidden=(),
        dropout=0.0,
        drop_path=0.0,
        statistics="settled",
        tune="full",
        views=4,
        optimizer="adamw",  # Loshchilov and Hutter 2019
        learning_rate=2e-3,
        rate="cosine",
        layer_decay=1.0,
        weight_decay=0.05,
    ),
    denoiser=Denoiser(
        encoder="",  # no diffusion: the guidance classifies
        pretrained="",
        feature_dim=6144,
        local_encoder="",
        conditioning="fused",
        parameterization="eps",
        gates="uniform",
        conditioning_dropout=0.0,
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
        epochs=20,
        learning_rate=1e-3,
        final_learning_rate=0.0,
        rate_per_epoch=False,
        warmup_fraction=0.1,
        clip_norm=1.0,
        loss_weight="uniform",
        timestep_weight="noise",
        noise_weight=1.0,
        mmd_weight=0.5,
        label_weight=0.0,
        label_balance=0.0,
        ema=True,
    ),
    sampling=Sampling(
        sampler="ancestral",
        num_steps=0,
        start="full",
        initial="mean",
        start_std="unit",
        num_samples=1,
        readout="clip",
        unconditional=0.0,
        ensemble_weight=0.0,
        flips="horizontal",
        clip=(),
        rederive_eps=False,
    ),
)
