"""Optional dependencies: load what needs one, or say in one line which extra is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import InvalidValueError, MissingExtraError

__all__ = ["load", "require_device", "torch_module"]


def load(module: str, *, extra: str, purpose: str, packages: tuple[str, ...] = ()) -> ModuleType:
    """Import `module`, which `extra` installs or which needs packages that it installs.

    Parameters
    ----------
    purpose
        Subject of the message: "… needs torch: pip install 'aimcost[torch]'".
    packages
        Packages whose absence the extra mends; the one that `module` belongs to by default.

    Raises
    ------
    MissingExtraError
        One of `packages` is not installed. Any other failed import is a bug and passes through.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in (packages or (module.partition(".")[0],)):
            raise
        raise MissingExtraError(missing, extra, purpose) from None


def torch_module(module: str, purpose: str = "running models") -> ModuleType:
    """Import a module of aimcost that needs torch and transformers."""
    return load(module, extra="torch", purpose=purpose, packages=("torch", "transformers"))


def require_device(device: str, purpose: str = "running models") -> None:
    """Check that models can run on `device` here, before anything is built.

    Raises
    ------
    InvalidValueError
        Neither ``cpu`` nor ``cuda``, or no GPU is usable.
    MissingExtraError
        torch or transformers is not installed.
    """
    if device not in ("cpu", "cuda"):
        raise InvalidValueError("device", "'cpu' or 'cuda'", device)
    torch_module("transformers", purpose)
    torch = torch_module("torch", purpose)
    if device == "cuda" and not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "no GPU is visible"
        raise InvalidValueError("device", f"'cpu': {why}", device)
