"""Fast pose distillation: the teacher runs once, students train on its cached heatmaps."""

__version__ = "0.1.0"
