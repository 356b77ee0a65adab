"""Measuring and recording what a trained classifier says."""
