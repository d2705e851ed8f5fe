"""The synthetic data set: drawn people with exact joints."""
