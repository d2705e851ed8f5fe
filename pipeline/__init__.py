"""What the stages share: settings, networks, losses, training, the heatmap store, metrics."""
