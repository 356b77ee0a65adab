"""Training: state, the one step, the one loop, checkpoints and devices."""
