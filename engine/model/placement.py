"""The device and dtype of a model, by torch's names.

A model stays on the device and in the dtype that it was loaded with. Of torch's methods that move, cast or train a
module, those that would change nothing return the model; the others raise an error that says how to load it so. This
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from distilrt.errors import InvalidParameter

if TYPE_CHECKING:
    from typing_extensions import Self

    from distilrt.backends.base import Backend


class DtypeName(str):
    """The name of a dtype, which equals torch's dtype of that name; `getattr(torch, name)` is that dtype."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, str(other).removeprefix("torch."))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class DeviceName(DtypeName):
    """The name of a device, which equals torch's device of that name, and which `tensor.to` takes."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """ "cpu" or "cuda"."""
        return self.partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]  # torch's name for it; str.index is a method
        """The number of the device; None: there is only one."""
        number = self.partition(":")[2]
        return int(number) if number else None


def device_of(device_map: Any) -> str | None:
    """The one device of a device map, such as "cpu" or "cuda:1", or all that it has; None: any."""
    named = set(device_map.values() if isinstance(device_map, Mapping) else [device_map])
    device = named.pop() if len(named) == 1 else ", ".join(sorted(map(str, named)))
    if device in (None, "auto", "balanced", "balanced_low_0", "sequential"):
        return None
    if type(device) is int:
        return "cpu" if device < 0 else f"cuda:{device}"
    return str(device)


def backend_on(device: Any) -> str:
    """The backend that computes on a device in torch's words; an InvalidParameter where none does."""
    backend = str(device_of(device)).partition(":")[0]
    if backend not in ("cpu", "cuda"):
        raise InvalidParameter(f"device must be 'cpu', -1, 'cuda' or the number of a CUDA device, found {device!r}")
    return backend


class Placed:
    """torch's attributes and methods of a module that concern its device, its dtype and its training."""

    backend: Backend
    training = False

    @property
    def dtype(self) -> DtypeName:
        """The dtype that the backend computes in: `"float32"`, which equals `torch.float32` too."""
        return DtypeName(self.backend.dtype)

    @property
    def device(self) -> DeviceName:
        """Where the model computes: `"cpu"`, or `"cuda:0"`, which equal torch's devices too."""
        return DeviceName(self.backend.device)

    def to(self, *places: Any, **named: Any) -> Self:
        """The model itself, if it is on the device and in the dtype that are named, in any of torch's forms."""
        for place in (*places, *(value for name, value in named.items() if name != "non_blocking")):
            name = f"cuda:{place}" if type(place) is int else place
            if place is not None and not (self.dtype == name or self.device == name or self.device.type == str(name)):
                raise ValueError(
                    f"this model is on {str(self.device)!r} in {self.dtype} and can't be moved to {name!r}"
                    "; load it anew with backend=… and dtype=…"
                )
        return self

    def cpu(self) -> Self:
        """The model itself, if it computes there."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """The model itself, if it computes there."""
        return self.to("cuda" if device is None else device)

    def float(self) -> Self:
        """The model itself, if it computes in float32."""
        return self.to("float32")

    def half(self) -> Self:
        """The model itself, if it computes in float16."""
        return self.to("float16")

    def bfloat16(self) -> Self:
        """The model itself, if it computes in bfloat16."""
        return self.to("bfloat16")

    def eval(self) -> Self:
        """The model itself, which is always in evaluation mode."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Refused, unless `mode` is False."""
        if mode:
            raise TypeError("distilrt only infers; train with transformers, save, and load the result here")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Refused, unless `requires_grad` is False."""
        return self.train(requires_grad)

    def parameters(self) -> NoReturn:
        """Refused: there is nothing to train."""
        raise TypeError(
            "distilrt only infers and has no trainable parameters; state_dict() has the weights as arrays, "
            "num_parameters() their number, dtype and device what they are in and where"
        )
