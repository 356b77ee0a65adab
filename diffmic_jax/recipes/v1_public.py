"""DiffMIC as the authors' public code computes it, so that its checkpoints give its predictions.

Lines with "differs" are those in which it is not `v1`.
"""

from diffmic_jax.config import Config, Denoiser, Diffusion, Guidance, Sampling, Train

CONFIG = Config(
    recipe="v1_public",
    guidance=Guidance(
        network="dcg",
        backbone="resnet50",
        local_trunk="",
        saliency_stride=0,
        saliency_weights="uniform",
        num_regions=6,
        region_size=32,
        region_overlap=1.0,
        crop_channels="first",  # differs: regions are channel 0, three times
        pretrained="auto",
        warmup_epochs=15,  # public
        frozen=False,
        loss="fused",
        class_weights="none",
        label_smoothing=0.0,
        mix="none",
        hidden=(),
        dropout=0.0,
        drop_path=0.0,
        statistics="running",
        tune="full",
        views=4,
        optimizer="amsgrad",
        learning_rate=2e-4,
        rate="constant",
        layer_decay=1.0,
        weight_decay=0.0,
    ),
    denoiser=Denoiser(
        encoder="resnet18",
        pretrained="",
        feature_dim=6144,
        local_encoder="",
        conditioning="fused",  # differs: one projection for all streams
        parameterization="eps",
        gates="uniform",
        conditioning_dropout=0.0,
        encoder_updates=3,  # differs: the embedding is computed for each stream
    ),
    diffusion=Diffusion(
        schedule="linear",
        num_train_steps=1000,
        precision="public",  # differs: float32 tables
        timesteps="antithetic",
    ),
    train=Train(
        batch_size=32,
        epochs=1000,
        learning_rate=1e-3,
        final_learning_rate=0.0,
        rate_per_epoch=False,
        warmup_fraction=0.04,
        clip_norm=1.0,
        loss_weight="uniform",
        timestep_weight="noise",
        noise_weight=1.0,
        mmd_weight=0.5,
        label_weight=0.0,
        label_balance=0.0,
        ema=False,
    ),
    sampling=Sampling(
        sampler="ancestral",
        num_steps=100,
        start="truncated",  # differs: only the first steps of the chain
        initial="mean",
        start_std="unit",
        num_samples=1,
        readout="softmax",  # differs: softmax of y0_hat
        unconditional=0.0,
        ensemble_weight=0.0,
        flips="none",
        clip=(),
        rederive_eps=False,
    ),
)
