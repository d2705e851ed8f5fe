"""What the shards of a store are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ...data.samples import SampleSet
from ...data.views import Views
from ..config.recipe import Recipe, stored_views
from ..models.predictor import HeatmapPredictor, input_crop
from ..teachers import HeatmapSource


@dataclass(frozen=True)
class StoreInputs:
    """A teacher, and the samples whose views it sees.

    Attributes:
        teacher: moved to the device when it is first needed.
        recipe: its geometry and augmentation decide the views, `recipe.store` how they are encoded.
        samples: of training.
        device: where the teacher runs.
    """

    teacher: HeatmapSource
    recipe: Recipe
    samples: SampleSet
    device: torch.device

    @cached_property
    def predictor(self) -> HeatmapPredictor:
        """The teacher's, on the device.

        Raises:
            ValueError: the teacher cannot be loaded.
        """
        return self.teacher.predictor(self.device)

    @property
    def views(self) -> Views:
        """The store's views, with crops of the teacher's own where it needs some."""
        return stored_views(self.recipe, self.samples, input_crop(self.predictor))
