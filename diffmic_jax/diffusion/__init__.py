"""The mathematics of the diffusion over labels: no networks, no configuration."""
