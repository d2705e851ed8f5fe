"""Settings: the recipe and its sections."""
