"""What is computed: labels, losses, the networks put together, the training and prediction step."""
