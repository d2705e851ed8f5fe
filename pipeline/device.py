"""Where the numbers are crunched."""

import torch


def choose_device(name: str) -> torch.device:
    """A device by name; "auto" is the GPU if there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(
            f"--device {name}: no such device here; expected auto, cpu"
            + "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        ) from None
    return device
