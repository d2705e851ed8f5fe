"""Evaluation of trained models: inference, PCK and OKS, prediction files, and the report."""
