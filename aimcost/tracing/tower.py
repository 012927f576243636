"""The tower of an image-text model, with what joins it to the language model: its own passes over images.

`get_image_features` of transformers is run on images of several numbers and, where the tower takes any grid of
patches, of several grids. What it needs beside pixels follows from its signature.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedModelError
from .model import Pass, Subject, first_line, handing_on
from .recorder import FORMAT, Recorder, replaced

__all__ = ["Tower", "joins"]

# Images of a tower of one size; (images, rows, columns) in merged patches of one that takes any grid.
_IMAGES = (1, 2, 3, 5, 7)
_GRIDS = ((1, 4, 6), (1, 10, 3), (2, 3, 5), (3, 2, 7), (2, 8, 4), (1, 13, 9), (3, 4, 4), (2, 11, 6), (1, 5, 5))
_JOINING = (
    "projector",
    "connector",
    "merger",
    "adapter",
    "embed_vision",
    "downsample",
    "modality_projection",
    "embeddings_table",
    "head_linear",
)

# Lfm2VlImageProcessor pads every input to the patches of a tile, of so many pixels a side.
_LFM_SIDE = 512

Inputs = Callable[[int, int, int], dict[str, Any]]


@dataclass(slots=True)
class Tower:
    """A tower to trace.

    Attributes
    ----------
    layers, stored
        The modules that are its layers; parameters of tower and projector, by identity.
    side
        Patches along one side of an image of the one size that it takes; zero: it takes any grid.
    merge
        Side of the square of patches that become one token.
    square
        Side in patches of the squares that some layers attend in; zero: none do.
    """

    subject: Subject
    owner: Any
    layers: list[nn.Module]
    stored: dict[int, int]
    inputs: Inputs
    patch: int
    side: int = 0
    merge: int = 1
    square: int = 0
    _returned: int = 0

    @classmethod
    def of(cls, subject: Subject) -> Tower:
        """The tower beside a subject's decoder.

        Raises
        ------
        UnsupportedModelError
            Its features, layers or inputs are not found.
        """
        owner: Any = next((m for m in (getattr(subject.model, "model", None), subject.model) if _features(m)), None)
        if owner is None:
            raise UnsupportedModelError("it has no get_image_features")
        own = _beside(subject)
        layers = _longest_list(subject, own)
        vision = subject.config.vision_config
        patch = _side(getattr(vision, "patch_size", 0))
        if not patch:
            raise UnsupportedModelError("its vision_config has no patch_size")
        names = inspect.signature(owner.get_image_features).parameters
        channels = int(getattr(vision, "num_channels", getattr(vision, "in_channels", 3)))
        if getattr(vision, "model_type", "") == "kimi_k25_vision":
            merge = _side(vision.merge_kernel_size)
            return cls(subject, owner, layers, own, _grids((channels, patch, patch), merge), patch, merge=merge)
        if "image_grid_thw" in names:
            merge = int(getattr(vision, "spatial_merge_size", 1))
            temporal = int(getattr(vision, "temporal_patch_size", 1))
            inputs = _grids((channels * temporal * patch * patch,), merge)
            square = _side(getattr(vision, "window_size", 0)) // patch // merge * merge
            return cls(subject, owner, layers, own, inputs, patch, merge=merge, square=square)
        if getattr(vision, "model_type", "") == "pixtral":
            merge = int(getattr(subject.config, "spatial_merge_size", 1))
            return cls(subject, owner, layers, own, _any_size(channels, patch, merge), patch, merge=merge)
        if subject.config.model_type == "lfm2_vl":
            side = _LFM_SIDE // patch
            merge = int(subject.config.downsample_factor)
            return cls(subject, owner, layers, own, _packed(channels * patch**2, side), patch, side=side, merge=merge)
        size = _side(getattr(vision, "image_size", 0))
        if not size or size < patch:
            raise UnsupportedModelError("its vision_config has no image_size")
        if "spatial_shapes" in names:
            raise UnsupportedModelError("its tower takes packed patches (spatial_shapes)")
        inputs = _squares(names, channels, size, tiled=_joins_tiles(owner))
        return cls(subject, owner, layers, own, inputs, patch, side=size // patch)

    def points(self) -> list[tuple[int, int, int]]:
        """(images, rows, columns) in patches."""
        if self.side:
            return [(images, self.side, self.side) for images in _IMAGES]
        return [(images, rows * self.merge, columns * self.merge) for images, rows, columns in _GRIDS]

    def recorder(self) -> Recorder:
        """A recorder of the tower's layers."""

        def note(_: nn.Module, __: Any, output: Any) -> None:
            self._returned = len(output) if isinstance(output, tuple) else 0

        self.layers[-1].register_forward_hook(note)
        return Recorder(self.subject.model, self.layers)

    def run(self, recorder: Recorder, images: int, rows: int, columns: int) -> tuple[Pass, float]:
        """One pass, and the visual tokens that came of it."""
        joining = getattr(self.owner, "multi_modal_projector", None) or getattr(
            self.subject.model, "multi_modal_projector", None
        )
        ran: list[bool] = []
        hook = joining.register_forward_hook(lambda *_: ran.append(True)) if joining is not None else None
        try:
            with recorder.recording(), _tile_by_tile(self.owner):
                found = self.owner.get_image_features(**self.inputs(images, rows, columns))
                features = _tensor(found)
                if joining is not None and not ran:  # Llama 4 projects outside of get_image_features
                    features = joining(features.reshape(-1, features.shape[-1]))
        except UnsupportedModelError:
            raise
        except Exception as error:  # whatever a model's own code raises on this configuration
            raise UnsupportedModelError(f"does not run: {type(error).__name__}: {first_line(error)}") from error
        finally:
            if hook is not None:
                hook.remove()
        patches = rows * columns
        values = {"images": images, "patches": patches, "kv": patches, "rows": rows, "columns": columns}
        return Pass(values, recorder.events), features.numel() / features.shape[-1]

    def only(self, chosen: set[int]) -> Any:
        """Layers that are none of `chosen` hand their input on."""
        return handing_on(self.layers, chosen, self._returned)

    def parameters(self) -> float:
        """Stored parameters of tower and projector, layers that never run included."""
        return float(sum(self.stored.values()))

    def sizes(self) -> dict[str, Any]:
        """Sizes that methods and reports ask for."""
        vision = self.subject.config.vision_config
        hidden = _whole(vision, ("hidden_size", "embed_dim", "width"), 1)
        return {
            "hidden": hidden,
            "intermediate": _whole(vision, ("intermediate_size", "mlp_dim"), 4 * hidden),
            "heads": _whole(vision, ("num_attention_heads", "num_heads"), 1),
            "patch_size": self.patch,
            "image_size": _side(getattr(vision, "image_size", 0)),
            "side": self.side,
            "merge": self.merge,
        }


def joins(path: str) -> bool:
    """Whether an op after the layers is the projector's."""
    return any(word in path for word in _JOINING)


def _features(module: Any) -> bool:
    return module is not None and hasattr(module, "get_image_features")


def _tensor(found: Any) -> torch.Tensor:
    """The features among what `get_image_features` returned, several images one behind the other."""
    value = getattr(found, "pooler_output", None)
    if value is None:
        value = getattr(found, "last_hidden_state", found)
    parts = [value] if isinstance(value, torch.Tensor) else list(value)
    while parts and not isinstance(parts[0], torch.Tensor):
        parts = [entry for part in parts for entry in part]
    if not parts:
        raise UnsupportedModelError("get_image_features returns no tensor")
    if len(parts) == 1:
        return parts[0]
    rows = sum(part.numel() // part.shape[-1] for part in parts)
    return torch.empty(rows, parts[0].shape[-1], dtype=parts[0].dtype, device="meta")


def _beside(subject: Subject) -> dict[int, int]:
    """Parameters that are neither the language model's nor of audio."""
    language = {id(p) for p in subject.decoder.parameters()}
    model: Any = subject.model
    head = model.get_output_embeddings()
    if head is not None:
        language |= {id(p) for p in head.parameters()}
    named = subject.model.named_parameters()
    return {id(p): p.numel() for name, p in named if id(p) not in language and "audio" not in name}


def _longest_list(subject: Subject, own: Mapping[int, int]) -> list[nn.Module]:
    """The list of modules beside the language model that holds the most of its parameters."""
    lists = []
    for module in subject.model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(m) for m in module}) == 1:
            size = sum(own.get(id(p), 0) for p in module.parameters())
            if size:
                lists.append((size, list(module)))
    if not lists:
        raise UnsupportedModelError("its tower has no list of layers")
    return max(lists, key=lambda found: found[0])[1]


def _joins_tiles(owner: Any) -> bool:
    """Whether `get_image_features` joins the features of an image's tiles by the image's size."""
    module = sys.modules[type(owner).__module__]
    return hasattr(owner, "pack_image_features") and hasattr(module, "image_size_to_num_patches")


@contextmanager
def _tile_by_tile(owner: Any) -> Iterator[None]:
    """Take each input for an image of one tile (LLaVA-NeXT): what tiles are joined to follows from the size alone."""
    module = sys.modules[type(owner).__module__]
    with ExitStack() as stack:
        if _joins_tiles(owner):
            stack.enter_context(replaced(module, "image_size_to_num_patches", lambda _: lambda *_, **__: 1))
            stack.enter_context(replaced(owner, "pack_image_features", lambda _: lambda tiles, *_, **__: (tiles, None)))
        yield


def _grids(each: tuple[int, ...], merge: int) -> Inputs:
    """Patches of all images one behind the other, `each` of that shape."""

    def inputs(images: int, rows: int, columns: int) -> dict[str, Any]:
        pixels = torch.empty(images * rows * columns, *each, dtype=FORMAT, device="meta")
        return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, rows, columns]] * images)}

    return inputs


def _packed(width: int, side: int) -> Inputs:
    """Patches of each image, none of them padding."""

    def inputs(images: int, _: int, __: int) -> dict[str, Any]:
        return {
            "pixel_values": torch.empty(images, side**2, width, dtype=FORMAT, device="meta"),
            "spatial_shapes": torch.tensor([[side, side]] * images),
            "pixel_attention_mask": torch.ones(images, side**2, dtype=torch.long),
        }

    return inputs


def _any_size(channels: int, patch: int, merge: int) -> Inputs:
    def inputs(images: int, rows: int, columns: int) -> dict[str, Any]:
        high, wide = rows * patch, columns * patch
        pixels = torch.empty(images, channels, high, wide, dtype=FORMAT, device="meta")
        return {"pixel_values": pixels, "image_sizes": torch.tensor([[high, wide]] * images)}

    return inputs


def _squares(names: Mapping[str, Any], channels: int, size: int, *, tiled: bool) -> Inputs:
    def inputs(images: int, _: int, __: int) -> dict[str, Any]:
        if "pixel_attention_mask" in names:
            # empty images are looked for by their values; those of a request lie beside each other
            return {"pixel_values": torch.ones(1, images, channels, size, size, dtype=FORMAT)}
        given: dict[str, Any] = {"pixel_values": torch.empty(images, channels, size, size, dtype=FORMAT, device="meta")}
        if "pixel_mask" in names:
            given["pixel_mask"] = torch.ones(images, size, size, dtype=torch.bool)
        if tiled:
            given["image_sizes"] = torch.tensor([[size, size]] * images)
        return given

    return inputs


def _side(given: Any) -> int:
    """A side in pixels, given as one number or as two that are equal."""
    if isinstance(given, list | tuple) and given and all(side == given[0] for side in given):
        given = given[0]
    return int(given) if isinstance(given, int) and not isinstance(given, bool) else 0


def _whole(config: Any, names: Sequence[str], default: int) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return default
