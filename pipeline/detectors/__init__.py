"""Detectors of people: their boxes on photographs for which no file has them."""

from .detect import detect, find_people
from .detector import Detector
from .registry import check_detector, load_detector, whole_pictures

__all__ = [
    "Detector",
    "check_detector",
    "detect",
    "find_people",
    "load_detector",
    "whole_pictures",
]
