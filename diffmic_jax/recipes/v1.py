"""DiffMIC (MICCAI 2023) as the paper describes it.

What the paper leaves open is as in the authors' public code; `v1_public` is that code in all else.
Places: sections, equations and tables of the MICCAI paper, or "public" for the authors' code.
"""

from diffmic_jax.config import Config, Denoiser, Diffusion, Guidance, Sampling, Train

CONFIG = Config(
    recipe="v1",
    guidance=Guidance(
        network="dcg",  # section 2.1: dual-granularity conditional guidance
        backbone="resnet50",  # section 2.3: a ResNet; public: ResNet50
        local_trunk="",
        saliency_stride=0,
        saliency_weights="uniform",
        num_regions=6,  # public: K = 6 regions of interest
        region_size=32,  # public: 32 x 32 pixels
        region_overlap=1.0,
        crop_channels="all",  # section 2.1: regions are cropped from the raw image
        pretrained="auto",  # public: ImageNet
        warmup_epochs=10,  # section 2.3: the guidance alone for 10 epochs
        frozen=False,  # section 2.3: then both are trained jointly
        loss="fused",  # section 2.3: cross-entropy; public: of the averaged logits
        class_weights="none",
        label_smoothing=0.0,
        mix="none",
        hidden=(),
        dropout=0.0,
        drop_path=0.0,
        statistics="running",
        tune="full",
        views=4,
        optimizer="amsgrad",  # public
        learning_rate=2e-4,  # section 3.2
        rate="constant",
        layer_decay=1.0,
        weight_decay=0.0,
    ),
    denoiser=Denoiser(
        encoder="resnet18",  # section 2.3: image encoder rho
        pretrained="",  # public: from random weights
        feature_dim=6144,  # public
        local_encoder="",
        conditioning="dual",  # Eq. 3 and 5: one projection for each stream
        parameterization="eps",  # Eq. 4
        gates="uniform",  # public: embeddings of the timestep
        conditioning_dropout=0.0,
        encoder_updates=1,  # the embedding is computed once per step
    ),
    diffusion=Diffusion(
        schedule="linear",  # section 2.3: beta from 1e-4 to 0.02
        num_train_steps=1000,  # public: T = 1000
        precision="float64",
        timesteps="antithetic",  # public; section 2.3: uniform
    ),
    train=Train(
        batch_size=32,  # section 3.2
        epochs=1000,  # section 3.2
        learning_rate=1e-3,  # section 3.2: Adam
        final_learning_rate=0.0,  # public: half a cosine to 0
        rate_per_epoch=False,
        warmup_fraction=0.04,  # public: 40 of 1,000 epochs
        clip_norm=1.0,  # public
        loss_weight="uniform",
        timestep_weight="noise",
        noise_weight=1.0,  # Eq. 4 and 6
        mmd_weight=0.5,  # Eq. 6: lambda = 0.5
        label_weight=0.0,
        label_balance=0.0,
        ema=False,  # public keeps one and never evaluates it
    ),
    sampling=Sampling(
        sampler="ancestral",  # Eq. 1 and section 2.3: DDPM
        num_steps=100,  # section 3.2: PMG2000; other data sets in configs/
        start="full",  # measured: docs/recipes.md
        initial="mean",  # Eq. 1: noise around the mean of both predictions
        start_std="unit",
        num_samples=1,
        readout="clip",
        unconditional=0.0,
        ensemble_weight=0.0,
        flips="none",
        clip=(),
        rederive_eps=False,
    ),
)
