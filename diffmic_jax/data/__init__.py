"""Data sets: sources, splits, decoding, the cache, batches, augmentation, the embedded phantom."""
