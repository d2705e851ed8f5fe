"""Exporting a finished model as one file that runs without this package."""
