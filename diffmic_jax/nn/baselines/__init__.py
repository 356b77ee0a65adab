"""Networks that diffusion is compared with; the method reads without them."""
