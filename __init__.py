"""Fast Pose Distillation with the teacher run once: its heatmaps cached, students trained on them."""

__version__ = "0.1.0"
