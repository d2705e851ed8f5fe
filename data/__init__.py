"""From files on disk to views: skeletons, readers, augmentation, crops, target heatmaps."""

import os

# The largest image that is decoded, in pixels (400 MB as RGB). OpenCV reads its limit from the
# environment when it is first imported, so it is set here, before any module imports OpenCV.
MAX_PIXELS = 1 << 27
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
