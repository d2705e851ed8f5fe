"""Fills a heatmap store, in this process or on a Dask cluster."""
