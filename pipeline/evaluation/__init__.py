"""Scores: predictions, PCK, OKS, and the report."""
