"""Training: batches of views, losses, the training loop, and its checkpoints."""
