"""Detectors of people: their boxes on photographs for which no file has them."""

from .detect import detect
from .registry import check_detector, load_detector

__all__ = ["check_detector", "detect", "load_detector"]
