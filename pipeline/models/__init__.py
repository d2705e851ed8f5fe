"""The networks. Another one is one file here, with a settings class and an entry in `AnyModel`.

A settings class has `name` (its key in a recipe), `build(num_joints)`, which returns a module that
maps normalized crops, float (B, 3, S, S), to a list of heatmaps, one entry a supervised stage,
`start(num_joints)`, which returns the one that training begins with, `check_crop(crop_px,
stride_px)`, which refuses a geometry that does not fit, and `min_batch_size(crop_px)`, the views
that a training step needs at least. A network's last layers are `score`, a list with a convolution
for each stage: from its bias is read how many joints it has.
"""
