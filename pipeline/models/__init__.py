"""The networks. To add one, add a file with its settings class here and an entry in `AnyModel`.

A settings class has `name` (its key in a recipe) and:

    build(num_joints)               a new network, from normalized crops, float (B, 3, S, S), to a
                                    list of heatmaps (B, K, S / 4, S / 4), one per supervised stage
    start(num_joints)               what training starts from: `build`'s, or a pretrained network
    check_crop(crop_px, stride_px)  raises ValueError for a geometry that the network cannot take
    min_batch_size(crop_px)         the smallest batch that a training step works with

A network's last layers are `score`, a ModuleList of one convolution per stage; the number of joints
is read from its bias.
"""
