"""Grids of students trained on one store."""
