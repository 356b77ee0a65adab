"""The networks, Flax linen and pure: no configuration, no knowledge of the diffusion."""
