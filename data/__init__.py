"""From files on disk to views: skeletons, readers, augmentation, crops, target heatmaps."""

import os

# Read by OpenCV when it is first imported, hence here: no file may ask for more than 2**27 pixels
# (400 MB).
MAX_PIXELS = 1 << 27
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
