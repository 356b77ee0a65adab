"""Ours: two readings of one denoiser, with and without conditioning, and the guidance prediction.

The guidance is the classifier of `strong`. When it has learned, a denoiser on its features corrects
the posterior that follows from its prediction (docs/plus.md has the equations); the readings take
one step and no noise.
"""

from diffmic_jax.config import Config, Data, Denoiser, Diffusion, Guidance, Sampling, Train

CONFIG = Config(
    recipe="plus",
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
        warmup_epochs=20,
        frozen=True,  # when the denoiser begins to learn
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
        encoder="guidance",  # one trunk for both
        pretrained="",
        feature_dim=512,
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
        epochs=10,
        learning_rate=1e-3,
        final_learning_rate=0.0,
        rate_per_epoch=False,
        warmup_fraction=0.1,
        clip_norm=1.0,
        loss_weight="uniform",
        timestep_weight="noise",
        noise_weight=0.0,
        mmd_weight=0.0,
        label_weight=1.0,  # cross-entropy of the denoised label
        label_balance=0.0,
        ema=True,
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
        flips="horizontal",
        clip=(),
        rederive_eps=False,
    ),
)
