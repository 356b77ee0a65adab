"""From a workdir or an exported file to predictions."""
