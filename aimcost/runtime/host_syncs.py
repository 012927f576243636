"""Finding what makes the host wait for a device, without having one.

A CUDA graph records work that is queued once; whatever reads a value back while it is queued (a
truth value, a count of nonzeros, a copy from pageable memory) cannot be part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["INDEXING", "READS", "HostSyncs"]

# Operators whose result, or whose result's shape, must be known to the host.
READS = frozenset(
    {
        "_local_scalar_dense",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "nonzero_numpy",
        "unique_dim",
        "_unique",
        "_unique2",
        "unique_consecutive",
        "bincount",
    }
)
# Operators that wait where an index is a mask: its marks are counted.
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})


class HostSyncs(TorchDispatchMode):
    """Notes every operator of the ``with`` block that a CUDA graph could not record.

    Parameters
    ----------
    device
        The device that the block computes on. On ``cpu`` it tells what would happen on a GPU.

    Attributes
    ----------
    found
        Names of the operators, in order, each once.
    waits
        How often each of them waited.
    """

    def __init__(self, device: str | torch.device) -> None:
        super().__init__()
        self._kind = torch.device(device).type
        self.waits: Counter[str] = Counter()
        self._lists = _Lists(self)

    @property
    def found(self) -> list[str]:
        return list(self.waits)

    def __enter__(self) -> HostSyncs:
        self._lists.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.partition("::")[2]
        if self.waits_in(name, func._overloadname, args, kwargs):
            self.waits[name] += 1
        return func(*args, **kwargs)

    def waits_in(self, name: str, overload: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the host waits in an operator that is called with these arguments."""
        first = args[0] if args else None
        if name in READS:
            return self.here(first)
        if name == "repeat_interleave":
            # without output_size the result is as long as the counts add up to
            return overload != "self_int" and self.here(first) and kwargs.get("output_size") is None
        if name in INDEXING:
            indices = [index for index in args[1] if isinstance(index, torch.Tensor)]
            return self.here(first) and any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if name == "lift_fresh":
            # values of a Python list on their way to the device; single numbers on a CPU are filled in
            return self.here(first) and first.numel() > 0 and (first.ndim > 0 or self._kind != "cpu")
        if name == "_to_copy":
            return self._crosses(first, kwargs.get("device"))
        return name == "copy_" and isinstance(first, torch.Tensor) and self._crosses(args[1], first.device)

    def reads_list(self, value: Any) -> bool:
        """Whether ``value.tolist()`` waits without an operator: on a CPU it reads memory as it lies there."""
        return self._kind == "cpu" and self.here(value)

    def here(self, value: Any) -> bool:
        """Whether a value is a tensor on the device."""
        return isinstance(value, torch.Tensor) and value.device.type == self._kind

    def _crosses(self, source: Any, target: Any) -> bool:
        if not isinstance(source, torch.Tensor) or target is None or source.numel() < 2:
            return False  # a number is filled in, not copied
        kinds = (source.device.type, torch.device(target).type)
        return kinds[0] != kinds[1] and self._kind in kinds


class _Lists(TorchFunctionMode):
    """Notes each ``tolist`` that no operator shows."""

    def __init__(self, syncs: HostSyncs) -> None:
        super().__init__()
        self._syncs = syncs

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.tolist and self._syncs.reads_list(args[0]):
            self._syncs.waits["tolist"] += 1
        return func(*args, **(kwargs or {}))
