"""Fast pose distillation: run the teacher once, train students on its cached heatmaps."""

__version__ = "0.1.0"
