"""DiffMIC in JAX: diffusion models that classify medical images."""

__version__ = "0.2.0"
