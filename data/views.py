"""A view: the augmented crop of one sample, with its labels transformed to match.

Teacher, store, student and evaluation all read their pixels through this module.
Shape letters: S crop side, K joints.
"""

from __future__ import annotations

from typing import NamedTuple, NotRequired, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from .augmentation import UNAUGMENTED, affine_23, draw_parameters, transform
from .geometry import Geometry
from .io.jpeg import decode_jpeg, encode_jpeg
from .samples import CropSource, ImageSource, Sample, SampleSet
from .sections import Augmentation
from .torso import torso_indices, torso_of

VIEW_VERSION = 2
"""Increase it with any change to a view's pixels or labels: existing stores are then refused."""

CENTER_CROP = -1
"""The view number of the crop without augmentation."""


class View(TypedDict):
    """One view as the data loader returns it (PyTorch collates the arrays)."""

    crop: NDArray[np.uint8]  # (S, S, 3) RGB
    joints: NDArray[np.float32]  # (K, 2) x, y in heatmap pixels; NaN where not labeled
    affine: NDArray[np.float64]  # (2, 3) original image to crop
    parameters: NDArray[np.float64]  # (3,) see augmentation.PARAMETERS
    index: int  # of the sample in its sample set
    jpeg: NotRequired[bytes]  # which `crop` was decoded from; views of a portable store have it
    teacher_crop: NotRequired[NDArray[np.uint8]]  # (T, T, 3) RGB, the same view for a teacher
    teacher_torso: NotRequired[NDArray[np.float32]]  # (2, 2) in it; see `TeacherCrop`


class TeacherCrop(NamedTuple):
    """The crop of a view that a teacher is run on, beside the students'.

    Attributes:
        side_px: its side, pixels.
        box_factor: side of what it shows, relative to that of the view's box; they share a center.
        torso: also return the ends of the labeled torso in it, `teacher_torso`: (x, y) of the
            middle of the hips and of the shoulders, teacher-crop pixels; NaN where not labeled.
    """

    side_px: int
    box_factor: float = 1.0
    torso: bool = False


class Views:
    """All views of a sample set, by (sample index, view number). A map-style PyTorch data set."""

    def __init__(
        self,
        samples: SampleSet,
        geometry: Geometry,
        augmentation: Augmentation,
        seed: int,
        *,
        crop_quality: int | None = None,
        teacher_crop: TeacherCrop | None = None,
    ) -> None:
        """Views of `samples`, drawn from `augmentation` with `seed` (0 <= seed < 2**64).

        Args:
            crop_quality: encode each crop as JPEG of this quality, and return what that decodes
                to; None: return the crop as it is cut.
            teacher_crop: also cut each view like this, for a teacher; None: do not.
        """
        self.samples = samples
        self.geometry = geometry
        self.augmentation = augmentation
        self.seed = seed
        self.crop_quality = crop_quality
        self.teacher_crop = teacher_crop
        self._torso_indices = torso_indices(samples.skeleton.joints)
        self._flip_indices = np.array(samples.skeleton.flip_indices)

    def __len__(self) -> int:
        return len(self.samples)

    def parameters(self, index: int, view: int) -> NDArray[np.float64]:
        """The view's float64 (3,) parameters; `UNAUGMENTED` for view `CENTER_CROP`."""
        if view == CENTER_CROP:
            return UNAUGMENTED.copy()
        id_hash = int(self.samples.id_hash_N[index])
        return draw_parameters(self.augmentation, self.seed, id_hash, view)

    def __getitem__(self, key: tuple[int, int]) -> View:
        index, view = key
        sample = self.samples[index]
        parameters = self.parameters(index, view)
        affine = affine_23(sample.center_2, sample.side_px, parameters, self.geometry.crop_px)
        joints_K2 = self.geometry.to_heatmap(transform(affine, sample.joints_K2))
        if parameters[2]:
            joints_K2 = joints_K2[self._flip_indices]
        crop_px = self.geometry.crop_px
        cut = View(
            crop=crop_image(self.samples.images, sample, affine, crop_px),
            joints=joints_K2.astype(np.float32),
            affine=affine,
            parameters=parameters,
            index=index,
        )
        if self.crop_quality is not None:
            cut["jpeg"] = encode_jpeg(cut["crop"], self.crop_quality)
            cut["crop"] = decode_jpeg(cut["jpeg"], crop_px)
        if self.teacher_crop is not None:
            side_px, box_factor, torso = self.teacher_crop
            affine = affine_23(sample.center_2, sample.side_px * box_factor, parameters, side_px)
            cut["teacher_crop"] = crop_image(self.samples.images, sample, affine, side_px)
            if torso:
                torso_22 = torso_of(sample.joints_K2, self._torso_indices)
                cut["teacher_torso"] = transform(affine, torso_22).astype(np.float32)
        return cut

    def flipped(self, view: View) -> View:
        """The view flipped left to right, with left and right joints swapped.

        Exact, without interpolation: a flip maps pixel centers to pixel centers on both grids.
        """
        joints_K2 = view["joints"][self._flip_indices]
        joints_K2[:, 0] = (self.geometry.heatmap_px - 1) - joints_K2[:, 0]
        affine = view["affine"].copy()
        affine[0] = -affine[0]
        affine[0, 2] += self.geometry.crop_px - 1
        parameters = view["parameters"].copy()
        parameters[2] = 1 - parameters[2]
        return View(
            # NumPy takes 20 times as long to flip three interleaved channels.
            crop=cv2.flip(view["crop"], 1).astype(np.uint8, copy=False),
            joints=joints_K2,
            affine=affine,
            parameters=parameters,
            index=view["index"],
        )


def crop_image(
    images: ImageSource, sample: Sample, affine: NDArray[np.float64], crop_px: int
) -> NDArray[np.uint8]:
    """Warp a sample's image to its crop, by one bilinear interpolation; black beyond the edges.

    Args:
        affine: float64 (2, 3), from original-image to crop pixels.
        crop_px: side of the square crop, pixels.

    Returns:
        uint8 (crop_px, crop_px, 3) RGB.
    """
    if isinstance(images, CropSource):
        return images.crop(sample.image, affine, crop_px)
    zoom = float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
    image, reduction = images.read(sample.image, zoom)
    # Pixel p of the original is at (p + 0.5) / reduction - 0.5 in the reduced image.
    enlarge = np.array([[reduction, 0, (reduction - 1) / 2], [0, reduction, (reduction - 1) / 2]])
    reduced_affine = affine[:, :2] @ enlarge
    reduced_affine[:, 2] += affine[:, 2]
    return warp(image, reduced_affine, crop_px)


def warp(
    image_HW3: NDArray[np.uint8], affine: NDArray[np.float64], crop_px: int
) -> NDArray[np.uint8]:
    """Warp a picture by one bilinear interpolation; black beyond its edges.

    Args:
        affine: float64 (2, 3), from the picture's to crop pixels.

    Returns:
        uint8 (crop_px, crop_px, 3) RGB.
    """
    # With a fourth channel, OpenCV 5 takes half the time and gives the same pixels (tested).
    rgba = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2RGBA)
    crop = cv2.warpAffine(rgba, affine, (crop_px, crop_px), flags=cv2.INTER_LINEAR)
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB).astype(np.uint8, copy=False)
