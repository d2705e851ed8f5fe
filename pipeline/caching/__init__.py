"""Filling a heatmap store: locally or on a Dask cluster."""
