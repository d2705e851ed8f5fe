"""A network in a file of another framework, as a teacher: what ONNX and TFLite have in common.

`published` knows the specs of well-known networks; `FILE.json` beside the file adds to them, or
overrides them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import published
from .spec import TeacherSpec, complete_spec


class Port(NamedTuple):
    """An input or output of a network: its name, and its shape, None where a size is free."""

    name: str
    shape: tuple[int | None, ...]


class Network(Protocol):
    """A network that another framework runs.

    Attributes:
        input, outputs: as the file declares them.
    """

    @property
    def input(self) -> Port: ...

    @property
    def outputs(self) -> Sequence[Port]: ...

    def to(self, device: torch.device) -> None:
        """Run on this device from now on, if the framework can."""
        ...

    def run(self, batch: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """The outputs with these names, for a batch of the input's shape."""
        ...


class FileTeacher:
    """A teacher that runs a network of another framework."""

    def __init__(self, path: Path, network: Network, spec: TeacherSpec, digest: str) -> None:
        self.path, self.runner, self.spec, self.digest = path, network, spec, digest
        self.names = output_names(path, network.outputs, spec)
        check_input(path, network.input, spec)

    def to(self, device: torch.device) -> FileTeacher:
        self.runner.to(device)
        return self

    def __call__(self, crops_B3HW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        channels_last = self.spec.layout == "NHWC"
        inputs = crops_B3HW.permute(0, 2, 3, 1) if channels_last else crops_B3HW
        batch = np.ascontiguousarray(inputs.cpu().numpy())
        single = self.runner.input.shape[0] == 1
        pieces = [batch[k : k + 1] for k in range(len(batch))] if single else [batch]
        try:
            outputs = [self.runner.run(piece, self.names) for piece in pieces]
            joined = [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
        except Exception as error:  # of many types, one for each framework
            raise ValueError(
                f"{self.path} cannot be run on {tuple(batch.shape)}: {first_line(error)}"
            ) from None
        tensors = [torch.from_numpy(part).to(crops_B3HW.device) for part in joined]
        return self._arranged(tensors, len(batch))

    def _arranged(self, outputs: list[Tensor], batch: int) -> Tensor | tuple[Tensor, Tensor]:
        """The outputs in the shapes of `Teacher`; those of an unexpected size, as they are."""
        if len(outputs) == 2 and self.spec.head in ("simcc", "simcc-logits"):
            return outputs[0], outputs[1]
        if self.spec.head == "landmarks":
            rows = batch * len(self.spec.joints)
            if all(output.numel() % rows == 0 for output in outputs):
                outputs = [output.reshape(batch, len(self.spec.joints), -1) for output in outputs]
                return torch.cat(outputs, dim=-1)
        elif self.spec.layout == "NHWC" and outputs[0].ndim == 4:
            return outputs[0].permute(0, 3, 1, 2)
        return outputs[0]


def find_spec(path: Path, name: str, digest: str, network: Network) -> TeacherSpec:
    """The spec of a file: what its shapes and `published` determine, and what `FILE.json` states.

    Args:
        name: the teacher's name, in which a known network is looked for.

    Raises:
        ValueError: there is no `FILE.json` for an unknown network, or a key in it is invalid.
    """
    known = published.from_shapes(network.input.shape, network.outputs)
    known |= published.find(name, digest, network.input.shape, network.outputs)
    spec_path = path.with_name(path.name + ".json")
    if "joints" not in known and not spec_path.is_file():
        raise ValueError(
            f"{path} is none of the networks whose spec is known: expected its spec in "
            f'{spec_path}, found none: write {{"joints": ["nose", ...]}}; docs/teachers.md lists '
            f"all keys. The network has {describe([network.input])} as its input, and the outputs "
            f"{describe(network.outputs)}"
        )
    return complete_spec(spec_path, known)


def describe(ports: Sequence[Port]) -> str:
    """Names and shapes, for messages."""
    shown = [
        f"{port.name:.80} ({' x '.join('?' if n is None else str(n) for n in port.shape)})"
        for port in ports[:12]
    ]
    return ", ".join(shown) + (", ..." if len(ports) > 12 else "")


def output_names(path: Path, outputs: Sequence[Port], spec: TeacherSpec) -> tuple[str, ...]:
    """The names of the outputs to use: those in the spec or, without any, the only candidates.

    Raises:
        ValueError: the spec names an output that does not exist, or none, and it is unclear which.
    """
    wanted = {"simcc": 2, "simcc-logits": 2}.get(spec.head, 1)
    if spec.output:
        names = [port.name for port in outputs]
        fits = len(spec.output) == wanted or spec.head == "landmarks"
        if fits and set(spec.output) <= set(names):
            return spec.output
    else:
        axes = {"landmarks": None, "simcc": 3, "simcc-logits": 3}.get(spec.head, 4)
        names = [port.name for port in outputs if axes is None or len(port.shape) == axes]
        if len(names) == wanted:
            return tuple(names)
    raise ValueError(
        f'{path}: expected the name of the output in the spec ("output"; of simcc, those of x and '
        f"y), found {list(spec.output) or 'none'}: the file has {describe(outputs)}"
    )


def check_input(path: Path, port: Port, spec: TeacherSpec) -> None:
    """Check that crops of the spec fit a network.

    Raises:
        ValueError: naming both shapes.
    """
    height, width = spec.input
    wanted = (1, 3, height, width) if spec.layout == "NCHW" else (1, height, width, 3)
    pairs = zip(port.shape, wanted, strict=False)
    if len(port.shape) != 4 or not all(size is None or size == other for size, other in pairs):
        raise ValueError(
            f"{path}: expected an input for {' x '.join(map(str, wanted))} values (a batch of one "
            f"or a free one; {spec.layout}, {height} x {width} pixels), according to its spec, "
            f"found {describe([port])}: correct input or layout in the spec, or export it again"
        )


def first_line(error: Exception) -> str:
    """An exception's message, shortened to its first line."""
    lines = str(error).strip().splitlines()
    return f"{lines[0]:.300}" if lines else type(error).__name__
