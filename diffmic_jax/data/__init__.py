"""Images in: sources, splits, transforms, the loader and the embedded phantom."""
