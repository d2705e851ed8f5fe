"""Colours of every picture of heatmaps and joints, as plain numbers: matplotlib takes a second."""

from __future__ import annotations

import numpy as np

_fire = np.linspace(0, 1, 256)

FIRE_256x4 = np.stack(
    [_fire**0.3, _fire**1.2, 0.6 * _fire**4, np.minimum(0.85, 1.4 * _fire)], axis=-1
)
"""RGBA in 0..1, from invisible to bright, so that a picture shows where a map is zero."""

LABEL_COLOUR = "#27d3ff"
"""Of labelled joints."""

CROP_UNDER_HEAT = 0.7
"""What a crop without colour is darkened by where heatmaps come over it."""
