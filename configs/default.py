"""Every field of a run, with the values of the DiffMIC paper.

A data set's config changes what differs. Fields left open (`None`) are decided by the recipe: `v1`
(the paper), `v1_public` (what the authors' code computes), `v2` (DiffMIC-v2) or `diffmic_plus`
(ours).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(recipe: str = "v1") -> ConfigDict:
    """The default configuration of a recipe."""
    c = ConfigDict()
    c.seed = 0
    c.recipe = recipe

    c.data = ConfigDict()
    c.data.name = "images"  # a data set that is known by name, images (your own), or phantom
    c.data.root = ""  # folder of the images as they are distributed, or what `prepare` wrote
    c.data.labels = ""  # CSV of labels; empty: one folder per class
    c.data.train_list = ""  # DiffMIC's pickled split lists
    c.data.test_list = ""
    c.data.groups = ""  # CSV of image id and group id (lesion, patient)
    c.data.split = ""  # CSV of image and part, as a run writes it; wins over the protocol
    c.data.class_names = ()
    c.data.multi_label = False  # any number of classes per image
    c.data.protocol = "given"  # given, authors (DiffMIC's lists), random, or grouped
    c.data.test_fraction = 0.2  # where no split is given
    c.data.validation_fraction = 0.1  # of the training part; 0: the last step is evaluated
    c.data.split_seed = 0
    c.data.image_size = 224
    c.data.horizontal_flip = True
    c.data.vertical_flip = False
    c.data.rotation = 30.0  # degrees, uniform to both sides
    c.data.on_bad_image = "error"  # or skip
    c.data.max_pixels = 100_000_000  # larger images are refused
    c.data.cache_dir = ""  # of decoded images; default ~/.cache/diffmic_jax
    c.data.num_workers = 0  # processes that read batches; 0 is enough for most devices

    c.guidance = ConfigDict()
    c.guidance.network = placeholder(str)  # dcg, or classifier: one trunk, no regions
    # resnet18, resnet34, resnet50; for a classifier also vit_s16, vit_b16, swin_t, pvt_v2_b2.
    c.guidance.backbone = placeholder(str)
    c.guidance.width = 64
    c.guidance.stem = "imagenet"  # small: for images of 32 px or so
    c.guidance.num_regions = 6
    c.guidance.region_size = 32
    c.guidance.crop_channels = placeholder(str)  # all or first
    # Weights of both trunks: a file, timm/resnet50.tv_in1k, auto (ImageNet's if they can be had),
    # or empty for random ones.
    c.guidance.pretrained = "auto"
    c.guidance.checkpoint = ""  # workdir of a run whose guidance this one starts with
    c.guidance.warmup_epochs = placeholder(int)  # guidance alone, before the denoiser learns
    c.guidance.frozen = placeholder(bool)  # from then on
    # fused, or branches; for skewed classes focal, ohem, logit_adjusted, ldam or prototype
    c.guidance.loss = placeholder(str)
    c.guidance.class_weights = "none"  # balanced; deferred: in the last fifth, without diffusion
    c.guidance.amsgrad = placeholder(bool)  # or Adam
    c.guidance.learning_rate = 2e-4

    c.denoiser = ConfigDict()
    # A ResNet, efficientsam_ti or efficientsam_s; empty: no diffusion, the guidance classifies.
    c.denoiser.encoder = placeholder(str)
    c.denoiser.width = 64
    c.denoiser.stem = "imagenet"
    # Weights of the encoder, likewise; guidance: those that its trunk has come to.
    c.denoiser.pretrained = placeholder(str)
    c.denoiser.feature_dim = 6144
    c.denoiser.local_encoder = placeholder(str)  # a ResNet for the regions, or empty
    c.denoiser.conditioning = placeholder(str)  # fused, dual, map, global, local or none
    c.denoiser.predicts = placeholder(str)  # noise; posterior: what Bayes' rule makes of the guess
    # What each feature is scaled by before any training, at each timestep: uniform (random in
    # [0, 1), as published), or ones.
    c.denoiser.gates = placeholder(str)
    c.denoiser.guidance_features = placeholder(bool)  # it sees those beside its own
    # Share of the training images whose guess it is not told.
    c.denoiser.guidance_dropout = placeholder(float)
    c.denoiser.guidance_swap = placeholder(float)  # or is told that for another image
    c.denoiser.map_size = placeholder(int)  # side of the label map; default num_regions
    c.denoiser.encoder_updates = placeholder(int)  # of its statistics, per step

    c.diffusion = ConfigDict()
    c.diffusion.schedule = "linear"
    c.diffusion.num_train_steps = 1000
    c.diffusion.beta_start = 1e-4
    c.diffusion.beta_end = 0.02
    c.diffusion.precision = placeholder(str)  # float64 or public
    c.diffusion.timesteps = placeholder(str)  # in training: antithetic or uniform

    c.train = ConfigDict()
    c.train.batch_size = placeholder(int)
    c.train.epochs = 1000  # in which the denoiser learns
    c.train.max_steps = 0  # of all phases; 0: no limit
    c.train.patience = 0  # checkpoints in a row worse on validation, then it ends; 0: no limit
    c.train.learning_rate = placeholder(float)  # of the denoiser, at its peak
    c.train.final_learning_rate = placeholder(float)  # at the end of the cosine
    c.train.rate_per_epoch = placeholder(bool)  # the rate changes once per epoch, not per step
    c.train.warmup_fraction = placeholder(float)  # of these epochs, for the learning rate
    c.train.clip_norm = placeholder(float)  # 0: no limit
    c.train.loss_weight = placeholder(str)  # uniform or focal
    c.train.noise_weight = placeholder(float)  # of the noise MSE
    c.train.mmd_weight = placeholder(float)
    c.train.label_weight = placeholder(float)  # of the cross-entropy of the denoised label
    c.train.label_balance = placeholder(float)  # 0: classes as common as they are; 1: equally
    c.train.ema = placeholder(bool)
    c.train.dtype = "float32"  # of the computation; bfloat16 for GPU and TPU
    c.train.log_every = 50
    c.train.on_nan = "stop"  # or skip: leave such a step out, and count it
    c.train.max_minutes = 0.0  # then save and exit with 75, "restart me"; 0: no limit
    c.train.hang_minutes = 30.0  # without a sign of progress before it is told; 0: never
    c.train.remat = False  # compute the trunks' blocks twice rather than keep what is inside them
    c.train.accumulate = 1  # parts of a batch, taken one after the other; docs/performance.md
    c.train.share_guidance = False  # one pass through it for both losses; docs/performance.md
    c.train.model_shards = 1  # devices that share the denoiser's wide layers

    c.sampling = ConfigDict()
    c.sampling.sampler = placeholder(str)  # ancestral or ddim
    c.sampling.num_steps = placeholder(int)  # 0 without a denoiser
    c.sampling.start = placeholder(str)  # full, truncated or leading
    c.sampling.stop = placeholder(int)  # last timestep of a full start
    c.sampling.average = placeholder(bool)  # answer with the mean of y0_hat over the steps
    c.sampling.initial = placeholder(str)  # noise around the mean or the map, or a random_map
    c.sampling.num_samples = placeholder(int)  # draws per image, averaged
    c.sampling.readout = placeholder(str)  # of the mean draw, clip or softmax; or vote
    c.sampling.antithetic = placeholder(bool)  # draws in pairs, with the noise of both signs
    c.sampling.withhold = placeholder(float)  # share of the draws that are not told the guess
    # Share of the guidance's own answer in the probabilities.
    c.sampling.guess_weight = placeholder(float)
    c.sampling.eta = 0.0  # ddim only
    c.sampling.clip = placeholder(tuple)  # ddim only: range of y0_hat, as in (-1.0, 1.0)
    c.sampling.rederive_eps = False  # after clipping, go on with the noise that the clipped implies

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 0  # 0: once per epoch
    c.checkpoint.metric = "accuracy"  # on validation, chooses the best

    c.eval = ConfigDict()
    c.eval.batch_size = 64
    c.eval.bootstrap = 1000  # resamples for the intervals
    return c
