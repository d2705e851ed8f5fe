"""Colors of heatmaps and joints in all pictures.

They are plain numbers because importing matplotlib takes a second. Sides are person-centric. The
hues are from Okabe & Ito's palette (Color Universal Design, 2008), which people with color vision
deficiencies can tell apart.
"""

from __future__ import annotations

import numpy as np

Color = tuple[int, int, int]
"""RGB, each 0 to 255."""

LEFT: Color = (230, 159, 0)
RIGHT: Color = (86, 180, 233)
MIDDLE: Color = (255, 255, 255)
"""Joints and limbs of the left side, of the right side, and of neither."""

RIM: Color = (0, 0, 0)
"""Around every stroke, so that it shows on light and on dark pictures."""

LABEL = "#ffffff"
PREDICTION = "#ffb000"
TEACHER = "#5bc0ff"
"""Whole skeletons, where several are drawn over the same person."""

_fire = np.linspace(0, 1, 256)

FIRE_256x4 = np.stack(
    [_fire**0.3, _fire**1.2, 0.6 * _fire**4, np.minimum(0.85, 1.4 * _fire)], axis=-1
)
"""RGBA in 0..1, from transparent to bright, so that the picture shows through where a map is 0."""

CROP_UNDER_HEAT = 0.7
"""Brightness of a gray crop under a heatmap, as a share of the crop's own."""
