"""Training: what a network is fed, what it is asked for, the loop and its checkpoints."""
