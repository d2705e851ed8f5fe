"""A finished model as a file that needs nothing of this package: made, compared, quantized."""
