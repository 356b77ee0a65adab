"""A local page on which a trained classifier can be tried."""
