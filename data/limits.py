"""Limits that settings and the modules which read files share.

They are apart from those modules, so that settings are checked without loading NumPy.
"""

MAX_JOINTS = 1000
MAX_NAME_CHARS = 200
MIN_SCORE = 0.3
"""Least score of a detection that is taken for a person: mmpose's `--bbox-thr`."""
