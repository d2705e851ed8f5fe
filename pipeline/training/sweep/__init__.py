"""Sweeps: grids of students trained on one heatmap store."""
