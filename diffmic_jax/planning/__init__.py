"""What is decided before a training, from the data and the machine."""
