"""What differs between releases of transformers; nothing else in the runtime reads a version or a private name.

Look first: a `Cache` among the values, an annotation, a public registry. A name that some release gave is
the fallback. Where neither finds anything, refuse in one line that names the releases that were tested.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, NoReturn, get_args

import torch
import transformers
from torch import nn

from ..errors import UnsupportedModelError

__all__ = [
    "CACHE_POSITIONS",
    "TESTED",
    "CacheLayer",
    "arguments",
    "attention_name",
    "by_name",
    "cache_argument",
    "cache_of",
    "caches_in",
    "callers",
    "cut_block_mask",
    "eager_attention",
    "eager_mask",
    "find_cache",
    "generations",
    "is_block_mask",
    "masks_as_called",
    "native_config",
    "registered_attention",
    "sdpa_attention",
    "sdpa_mask",
    "takes_images",
    "video_features",
    "without_initialization",
]

TESTED = ("4.57", "5.0", "5.12", "5.23", "5.24")
"""The releases that `make test-versions` runs, the newest on the index aside."""

# Newest first: transformers 5.24 renamed the argument of decoders and layers, and the field of outputs.
CACHE_NAMES = ("cache", "past_key_values")
CACHE_POSITIONS = "cache_position"
"""(q,) places in the cache of the tokens of this pass: an argument of decoders in 4.57 and 5.0, gone by 5.12."""


def _refuse(what: str) -> NoReturn:
    raise UnsupportedModelError(f"{what} (transformers {transformers.__version__}; tested: {', '.join(TESTED)})")


try:
    from transformers import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AttentionInterface,
        AttentionMaskInterface,
        Cache,
        GenerationMixin,
        LlamaConfig,
    )
    from transformers.cache_utils import CacheLayerMixin as CacheLayer

    sdpa_attention = AttentionInterface()["sdpa"]
    sdpa_mask = AttentionMaskInterface()["sdpa"]
    eager_mask = AttentionMaskInterface()["eager"]
except (ImportError, KeyError) as error:
    _refuse(f"this version of transformers lacks what running models needs: {error}")


# The KV cache.


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call of `module` by name, however they were passed."""
    if not args:
        return dict(kwargs)
    return {**dict(zip(_parameters(module), args, strict=False)), **kwargs}


def caches_in(values: Iterable[Any]) -> list[Cache]:
    """The distinct `Cache` objects among `values`."""
    return list({id(value): value for value in values if isinstance(value, Cache)}.values())


def find_cache(module: nn.Module, arguments: Mapping[str, Any]) -> Any:
    """The KV cache that `module` is called with, None where it is called with none.

    Parameters
    ----------
    arguments
        All arguments by name (`by_name`).

    Returns
    -------
    Cache or None
        Or whatever else was given under a name that is known to be the cache's.

    Raises
    ------
    UnsupportedModelError
        Nothing says which argument is the cache, so that "no cache" cannot be told from "not found".
    """
    found = caches_in(arguments.values())
    if len(found) == 1:
        return found[0]
    if found:
        _refuse(f"{type(module).__name__} is called with {len(found)} KV caches")
    declared = _declared_cache(module)
    names = [name for name in (declared, *CACHE_NAMES) if name is not None and name in arguments]
    if declared is None and not names:
        _refuse(f"no KV cache can be found among the arguments of {type(module).__name__}")
    return next((arguments[name] for name in names if arguments[name] is not None), None)


def cache_argument(module: nn.Module) -> str:
    """The name under which the forward pass of `module` takes a KV cache.

    Raises
    ------
    UnsupportedModelError
        It declares none.
    """
    declared = _declared_cache(module)
    if declared is None:
        _refuse(f"no KV cache can be found among the arguments of {type(module).__name__}")
    return declared


def cache_of(output: Any) -> Cache:
    """The KV cache in what a model or `generate` returned.

    Raises
    ------
    UnsupportedModelError
        None found, or more than one.
    """
    found = caches_in(output.values() if isinstance(output, dict) else output)
    if len(found) != 1:
        _refuse(f"{len(found)} KV caches in a {type(output).__name__}, one is needed")
    return found[0]


def arguments(module: nn.Module) -> tuple[str, ...]:
    """The names of the arguments that the forward pass of `module` takes, in order."""
    return tuple(_parameters(module))


def _declared_cache(module: nn.Module) -> str | None:
    """The argument annotated as a `Cache`, else one of a known name."""
    parameters = _parameters(module)
    annotated = [name for name, annotation in parameters.items() if _is_cache(annotation)]
    return next((name for name in (*annotated, *CACHE_NAMES) if name in parameters), None)


def _is_cache(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.replace("Optional[", "").partition("|")[0].strip(" ]").endswith("Cache")
    if isinstance(annotation, type):
        return issubclass(annotation, Cache)
    return any(_is_cache(part) for part in get_args(annotation))


def _parameters(module: nn.Module) -> dict[str, Any]:
    """Names of a forward pass' arguments in order, with their annotations."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    declared = inspect.signature(module.forward).parameters.values()
    return {parameter.name: parameter.annotation for parameter in declared if parameter.kind not in variadic}


# Attention.


def attention_name(module: nn.Module) -> str:
    """The registered attention function that `module` runs."""
    return str(module.config._attn_implementation)


def registered_attention(name: str) -> Any:
    """The attention function that is registered under a name, None where there is none."""
    known = AttentionInterface()
    return known[name] if name in known and not name.startswith("paged") else None


def eager_attention(module: nn.Module) -> Any:
    """The eager attention of a module's own file, where every model keeps it.

    Raises
    ------
    UnsupportedModelError
        It has none there.
    """
    for kind in type(module).__mro__:
        found = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if found is not None:
            return found
    _refuse(f"{type(module).__name__} has no eager attention beside it")


def is_block_mask(mask: Any) -> bool:
    """Whether a mask is flex attention's."""
    return type(mask).__name__ == "BlockMask"


def cut_block_mask(mask: Any, queries: torch.Tensor, keys: torch.Tensor) -> Any:
    """flex attention's `mask` for the (B, q) queries and (B, k) keys of those that it was made for."""
    from torch.nn.attention.flex_attention import create_block_mask

    whole = mask.mask_mod

    def visible(row: Any, head: Any, query: Any, key: Any) -> Any:
        return whole(row, head, queries[row, query], keys[row, key])

    return create_block_mask(visible, len(queries), None, queries.shape[1], keys.shape[1], device=queries.device)


@contextmanager
def masks_as_called() -> Iterator[None]:
    """A context in which a pass that a CUDA graph records makes its masks as the same pass does when it is called.

    Since 5.0 transformers takes a recording stream for a tracer, whose shapes may change, and writes the causal mask
    out: attention then reads N² values and leaves its fused causal kernels (a dense prefill of 6372 tokens took
    212 ms in place of 168 on an H200). Shapes of a recorded pass are fixed. Changes a module's global for the while.
    """
    masks = importlib.import_module("transformers.masking_utils")
    tracing = getattr(masks, "is_tracing", None)
    if tracing is None:
        yield
        return

    def asked(*given: Any, **named: Any) -> bool:
        return not torch.cuda.is_current_stream_capturing() and bool(tracing(*given, **named))

    masks.is_tracing = asked
    try:
        yield
    finally:
        masks.is_tracing = tracing


# Generation.


class Generation(NamedTuple):
    """A ``generate`` call: its configuration, whether a model assists, what it was given and how many tokens."""

    config: Any
    assisted: bool
    given: Mapping[str, Any]
    length: int


def generations() -> Iterator[Generation]:
    """The ``generate`` calls that this thread is in, innermost first.

    A forward pass is not told how its caller decodes, nor, where 5.24 runs the tower ahead of it, the sizes of the
    images; no release has another way to ask.
    """
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            known = frame.f_locals
            given = known.get("kwargs") or {}
            embeds = given.get("inputs_embeds")
            whole = known.get("input_ids") if embeds is None else embeds
            yield Generation(
                config=known.get("generation_config"),
                assisted=known.get("assistant_model") is not None,
                given=given,
                length=0 if whole is None else whole.shape[1],
            )
        frame = frame.f_back  # type: ignore[assignment]


def callers(inner: nn.Module) -> list[tuple[nn.Module, Any]]:
    """The modules around `inner` whose forward this thread is in, inner ones first, each with its ``labels``.

    Each holds the one before as a direct part. A module is not told who calls it.
    """
    found: list[tuple[nn.Module, Any]] = []
    frame = sys._getframe(1)
    while frame is not None:
        known = frame.f_locals
        module = known.get("self")
        if isinstance(module, nn.Module):
            if any(part is (found[-1][0] if found else inner) for part in module.children()):
                found.append((module, None))
            if found and module is found[-1][0] and found[-1][1] is None:
                given = known.get("kwargs")
                found[-1] = (module, known.get("labels", given.get("labels") if isinstance(given, dict) else None))
        frame = frame.f_back  # type: ignore[assignment]
    return found


# Towers.


def video_features(container: nn.Module, pixels: Any) -> Any:
    """What the tower and projector of `container` make of (B, F, 3, h, w) pixels.

    Releases before 5.0 take values of the configuration as separate arguments.
    """
    required = [
        parameter.name
        for parameter in inspect.signature(container.get_video_features).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return container.get_video_features(pixels, **{name: getattr(container.config, name) for name in required[1:]})


# Building models.


def without_initialization() -> AbstractContextManager[Any]:
    """A context in which models are built without drawing weights; drawn anyway where no release has a way."""
    for home in ("initialization", "modeling_utils"):  # moved in 5.0
        try:
            found = getattr(importlib.import_module(f"transformers.{home}"), "no_init_weights", None)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return found()
    return nullcontext()


def takes_images(config: object) -> bool:
    """Whether the model of a configuration is an image-text-to-text one."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def native_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration spelled as this transformers reads it; nothing else is changed.

    Releases before 5.0 know ``rope_theta`` and ``rope_scaling`` and ignore ``rope_parameters`` without a
    word; later ones read both spellings.
    """
    if "rope_parameters" in inspect.signature(LlamaConfig.__init__).parameters:
        return dict(values)
    spelled = {key: native_config(value) if isinstance(value, dict) else value for key, value in values.items()}
    rope = spelled.pop("rope_parameters", None)
    if rope is None:
        return spelled
    if any(isinstance(value, dict) for value in rope.values()):
        _refuse("rope_parameters by layer type cannot be spelled for this release")
    rest = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    spelled |= {key: value for key, value in rope.items() if key not in rest}
    if rest.keys() - {"rope_type"} or rest.get("rope_type", "default") != "default":
        spelled["rope_scaling"] = rest
    return spelled
