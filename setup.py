"""Installs configs/ as `diffmic_jax.configs`, so that they are found from any folder."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["diffmic_jax", "diffmic_jax.*"]), "diffmic_jax.configs"],
    package_dir={"diffmic_jax.configs": "configs"},
)
