"""Measuring the predictions of a trained classifier, and recording the results."""
