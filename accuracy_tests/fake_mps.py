"""A device that stands in for MPS where there is none: it holds tensors on the CPU, and watches.

What runs on MPS fails there for three reasons: a float64 tensor, which the device cannot hold, an
operation without a kernel, and operands on different devices. All three can be seen anywhere. The
figures are the CPU's; nothing is said of Metal's arithmetic or speed.

It is called "lazy", a type of device that torch knows and that needs no library. "mps" itself is
refused by a torch that was built without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAME = "lazy"


class OnMPS(Tensor):
    """A tensor that says that it is on MPS."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnMPS:
        assert held.dtype != torch.float64, "MPS has no float64"
        assert held.device.type == "cpu"
        made: OnMPS = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=NAME
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"OnMPS({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} reached a tensor on MPS outside of FakeMPS")


class _Functions(TorchFunctionMode):
    """What no dispatch mode sees: tensors of Python numbers, and Python numbers of tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist:
            return getattr(args[0], "held", args[0]).tolist()
        device = kwargs.pop("device", None) if func is torch.tensor else None
        found = func(*args, **kwargs)
        return found if device is None else found.to(device)


class FakeMPS(TorchDispatchMode):
    """While it is entered, device=NAME works.

    Attributes
    ----------
    operations : what ran on the device, such as "aten::add.Tensor"
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()
        self._functions = _Functions()

    def __enter__(self) -> FakeMPS:
        self._functions.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._functions.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given: list[Tensor] = []
        tree_map(lambda x: given.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
        device = kwargs.get("device")
        target = None if device is None else torch.device(device).type
        there = any(isinstance(x, OnMPS) for x in given)
        if not there and target != NAME:
            return func(*args, **kwargs)
        copies = func is torch.ops.aten._to_copy.default or func is torch.ops.aten.copy_.default
        strangers = [x for x in given if not isinstance(x, OnMPS) and x.dim() > 0 and not copies]
        assert not strangers, f"{func}: operands on MPS and on the CPU"
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        self.operations.add(func.name())
        found = func(*self._held(args), **self._held(kwargs))
        if func is torch.ops.aten._to_copy.default:
            stays = there if target is None else target == NAME
            return OnMPS(found) if stays else found
        if func._schema.name.endswith("_"):  # in place
            return args[0]
        return tree_map(lambda x: OnMPS(x) if isinstance(x, Tensor) else x, found)

    def _held(self, values: Any) -> Any:
        return tree_map(lambda x: x.held if isinstance(x, OnMPS) else x, values)
