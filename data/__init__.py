"""From files on disk to views: skeletons, readers, augmentation, crops, target heatmaps."""
