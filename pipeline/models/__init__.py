"""The networks. Another one is one file here, with a settings class and an entry in `Model`.

A settings class has `name` (its key in a recipe), `build(num_joints)`, which returns a module that
maps normalised crops, float (B, 3, S, S), to a list of heatmaps, one entry a supervised stage, and
`check_crop(crop_px, stride_px)`, which refuses a geometry that does not fit, and
`smallest_batch(crop_px)`, the views that a training step needs at least.
"""

from .hourglass import Hourglass, HourglassSettings

# A union discriminated by `name` once there are two.
Model = HourglassSettings

__all__ = ["Hourglass", "HourglassSettings", "Model"]
