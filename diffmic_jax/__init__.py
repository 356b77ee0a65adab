"""DiffMIC in JAX: diffusion models that classify medical images."""

__version__ = "0.1.0"
