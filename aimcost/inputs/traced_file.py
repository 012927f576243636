"""Model files that ``aimcost trace`` writes → ModelSpec. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from ..errors import InvalidValueError
from ..types import DecoderSpec, ModelSpec, VisionSpec
from ..types.expression import Expression
from ..types.strict import Bounds, Strict, made
from ..types.traced import Group, Share, TracedDecoder, TracedLayer, TracedOp, TracedRanks, TracedTower
from .schema import NonNegative, validate
from .traced_images import projector_of, resolution_of, with_images_alone, with_video_processor

__all__ = ["SCHEMA", "TracedFile", "is_traced", "traced_model"]

SCHEMA = 1
# Sizes in bytes are those of 16-bit elements.
_ELEMENT_BYTES = 2

Size = str | NonNegative
Part = Annotated[float, Bounds(ge=0, le=1)]
# [the part that all ranks divide, the part that those with different KV heads divide], or ``vocabulary``
Split = dict[str, Annotated[list[Part], Bounds(min_length=2, max_length=2)] | Literal["vocabulary"]]
Count = Annotated[int, Bounds(ge=1, le=10_000_000)]


class TracedOpFile(Strict):
    """One op; sizes are numbers or expressions of counts."""

    name: Annotated[str, Bounds(min_length=1, max_length=200)]
    kind: Literal[
        "gemm",
        "bmm",
        "experts",
        "attention",
        "rms_norm",
        "layer_norm",
        "rope",
        "gated_act",
        "activation",
        "softmax",
        "embed",
        "weighted_sum",
        "gather",
        "ranking",
        "pointwise",
        "move",
        "unknown",
    ]
    group: Group
    dims: dict[str, Size]
    mask: Literal["", "causal", "full", "window", "chunk", "square"] = ""
    window: Annotated[int, Bounds(ge=0)] = 0
    weight_bytes: NonNegative = 0.0
    count: Size | None = None
    read_bytes: Size | None = None
    write_bytes: Size | None = None
    read_cached_bytes: Size | None = None
    cached_bytes: Size | None = None
    flops: Size | None = None
    split: Split = made(dict)
    exchange: Literal["", "all_reduce", "statistics", "all_gather"] = ""
    routed: bool = False


class TracedRoutedFile(Strict):
    """Experts of a layer, all of which run in the trace, and those that a token is routed to."""

    experts: Count
    active: Count


class TracedLayerFile(Strict):
    """A run of equal layers: described here, or the same as an earlier entry."""

    repeat: Count
    same_as: Annotated[int, Bounds(ge=0)] | None = None
    parameters: NonNegative = 0.0
    ops: list[TracedOpFile] = made(list)
    decode: list[TracedOpFile] = made(list)
    cache_bytes: Size = 0.0
    alive: list[Size] = made(list)
    decode_alive: list[Size] = made(list)
    split: Split = made(dict)


class TracedRanksFile(Strict):
    """Sizes of the configuration that tensor-parallel ranks divide, KV heads apart; or why they divide nothing."""

    sizes: dict[str, Count] = made(dict)
    kv_sizes: dict[str, Count] = made(dict)
    refused: str = ""


class TracedDecoderFile(Strict):
    """The language model."""

    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    vocab: Count
    context_limit: Annotated[int, Bounds(ge=1)] | None = None
    ranks: TracedRanksFile | None = None
    routed: TracedRoutedFile | None = None
    layers: Annotated[list[TracedLayerFile], Bounds(min_length=1)]
    before: list[TracedOpFile]
    after: list[TracedOpFile]
    outer_parameters: NonNegative


class TracedTowerLayerFile(Strict):
    """A run of equal layers of a tower: described here, or the same as an earlier entry."""

    repeat: Count
    same_as: Annotated[int, Bounds(ge=0)] | None = None
    ops: list[TracedOpFile] = made(list)
    alive: list[Size] = made(list)


class TracedTowerFile(Strict):
    """A vision tower and its projector, by images and patches of an image.

    `side` is that of an image in patches, zero where the tower takes any grid of them; `image_size` that of its
    configuration in pixels; `merge` the side of the square of patches that becomes one visual token there.
    """

    hidden: Count
    intermediate: Count
    heads: Count
    patch_size: Count
    image_size: Annotated[int, Bounds(ge=0, le=100_000)] = 0
    side: Annotated[int, Bounds(ge=0, le=100_000)]
    merge: Count
    parameters: NonNegative
    tokens: Size
    layers: Annotated[list[TracedTowerLayerFile], Bounds(min_length=1)]
    before: list[TracedOpFile]
    after: list[TracedOpFile]


class TracedPartsFile(Strict):
    """The parts of a model."""

    decoder: TracedDecoderFile
    tower: TracedTowerFile | None = None


class TracedFile(Strict):
    """A traced model."""

    architecture: Annotated[str, Bounds(min_length=1)]
    transformers: str
    config_digest: str = ""
    config: dict[str, Any] = made(dict)
    parameters: NonNegative
    format: Literal["bf16"]
    notes: list[str] = made(list)
    parts: TracedPartsFile


def is_traced(data: Mapping[str, Any]) -> bool:
    """Whether a file is a traced model, not a configuration."""
    return "parts" in data and "architecture" in data


def traced_model(
    data: Mapping[str, Any], *, name: str, where: str, preprocessor: Mapping[str, Any] | None = None
) -> ModelSpec:
    """The model that a file describes.

    Parameters
    ----------
    preprocessor
        What the checkpoint's processor files say, as `aimcost.inputs.processors.processor_keys` reads them.

    Raises
    ------
    InvalidValueError
        A key is missing or unknown, or a size is no expression of counts.
    """
    if data.get("schema") != SCHEMA:
        raise InvalidValueError("schema", f"{SCHEMA}: what this release reads", data.get("schema"), where=where)
    file = validate(TracedFile, {key: value for key, value in data.items() if key != "schema"}, where=where)
    decoder = file.parts.decoder
    kinds, order = _unfolded(decoder.layers, "parts.decoder.layers", where, _layer)
    traced = TracedDecoder(
        kinds=kinds,
        order=order,
        before=_ops(decoder.before, "parts.decoder.before", where),
        after=_ops(decoder.after, "parts.decoder.after", where),
        outer_parameters=decoder.outer_parameters,
        unknown=_unknown(kinds),
        routed=(0, 0) if decoder.routed is None else (decoder.routed.experts, decoder.routed.active),
        **({} if decoder.ranks is None else {"ranks": _ranks(decoder.ranks)}),
    )
    spec = DecoderSpec(
        hidden=decoder.hidden,
        intermediate=decoder.hidden,
        layers=len(order),
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        vocab=decoder.vocab,
        context_limit=decoder.context_limit,
        traced=traced,
    )
    model = ModelSpec(
        name=name,
        family=file.architecture,
        decoder=spec,
        source=f"traced from transformers {file.transformers}",
        notes=tuple(file.notes),
    )
    if file.parts.tower is None:
        return with_images_alone(model, file.config, where)
    return _with_tower(model, file, file.parts.tower, preprocessor, where)


def _with_tower(
    model: ModelSpec, file: TracedFile, given: TracedTowerFile, preprocessor: Mapping[str, Any] | None, where: str
) -> ModelSpec:
    kinds, order = _unfolded(given.layers, "parts.tower.layers", where, _tower_layer)
    tower = TracedTower(
        kinds=kinds,
        order=order,
        before=_ops(given.before, "parts.tower.before", where),
        after=_ops(given.after, "parts.tower.after", where),
        parameters=given.parameters,
        tokens=_expression(given.tokens, "parts.tower.tokens", where),
        unknown=_unknown(kinds),
    )
    vision = VisionSpec(
        hidden=given.hidden,
        intermediate=given.intermediate,
        layers=len(order),
        stored_layers=len(order),
        heads=given.heads,
        image_size=_pixels(given),
        patch_size=given.patch_size,
        post_norm=False,
        traced=tower,
    )
    projector = projector_of(vision, given.merge)
    config = {**file.config, **({"preprocessor": dict(preprocessor)} if preprocessor else {})}
    rule = resolution_of(file.architecture, config, vision, given.image_size, where)
    model = replace(model, vision=vision, projector=projector, resolution=rule)
    return with_video_processor(model, config, given.merge, where)


def _pixels(given: TracedTowerFile) -> int:
    """The side of an image in pixels: that of the configuration, which whole patches need not fill; zero for any."""
    fits = given.image_size // given.patch_size == given.side
    return given.image_size if given.side and fits else given.side * given.patch_size


def _ranks(given: TracedRanksFile) -> TracedRanks:
    return TracedRanks(sizes=tuple(given.sizes.items()), kv_sizes=tuple(given.kv_sizes.items()), refused=given.refused)


def _split(given: Split) -> tuple[tuple[str, Share], ...]:
    return tuple(
        (name, Share(vocabulary=True) if isinstance(shares, str) else Share(shares[0], shares[1]))
        for name, shares in given.items()
    )


_Entry = TypeVar("_Entry", TracedLayerFile, TracedTowerLayerFile)


def _unfolded(
    entries: Sequence[_Entry], key: str, where: str, read: Callable[[_Entry, str, str], TracedLayer]
) -> tuple[tuple[TracedLayer, ...], tuple[int, ...]]:
    """Kinds of layer, and the kind of each layer."""
    kinds: list[TracedLayer] = []
    order: list[int] = []
    kind_of: dict[int, int] = {}
    for index, entry in enumerate(entries):
        place = f"{key}.{index}"
        if entry.same_as is not None:
            if entry.same_as not in kind_of:
                raise InvalidValueError(f"{place}.same_as", "an earlier entry with ops", entry.same_as, where=where)
            kind_of[index] = kind_of[entry.same_as]
        else:
            kind_of[index] = len(kinds)
            kinds.append(read(entry, place, where))
        order += [kind_of[index]] * entry.repeat
    return tuple(kinds), tuple(order)


def _unknown(kinds: Sequence[TracedLayer]) -> tuple[str, ...]:
    ops = (op for kind in kinds for op in (*kind.ops, *kind.decode))
    return tuple(dict.fromkeys(op.name for op in ops if op.kind == "unknown"))


def _tower_layer(entry: TracedTowerLayerFile, place: str, where: str) -> TracedLayer:
    if not entry.ops:
        raise InvalidValueError(f"{place}.ops", "given", [], where=where)
    return TracedLayer(
        parameters=0.0,
        ops=_ops(entry.ops, f"{place}.ops", where),
        alive=tuple(_elements(size, f"{place}.alive", where) for size in entry.alive),
    )


def _layer(entry: TracedLayerFile, place: str, where: str) -> TracedLayer:
    for key in ("ops", "decode", "alive", "decode_alive"):
        if not getattr(entry, key):
            raise InvalidValueError(f"{place}.{key}", "given", [], where=where)
    if any(op.mask == "square" for op in (*entry.ops, *entry.decode)):
        raise InvalidValueError(f"{place}.ops", "of masks over tokens: squares are a tower's", "square", where=where)
    return TracedLayer(
        parameters=entry.parameters,
        ops=_ops(entry.ops, f"{place}.ops", where),
        decode=_ops(entry.decode, f"{place}.decode", where),
        cache=_elements(entry.cache_bytes, f"{place}.cache_bytes", where),
        alive=tuple(_elements(size, f"{place}.alive", where) for size in entry.alive),
        decode_alive=tuple(_elements(size, f"{place}.decode_alive", where) for size in entry.decode_alive),
        split=_split(entry.split),
    )


def _ops(entries: Sequence[TracedOpFile], place: str, where: str) -> tuple[TracedOp, ...]:
    return tuple(_op(entry, f"{place}.{number}", where) for number, entry in enumerate(entries))


def _op(entry: TracedOpFile, place: str, where: str) -> TracedOp:
    def optional(key: str) -> Expression | None:
        given = getattr(entry, key)
        if given is None:
            return None
        take = _elements if key.endswith("_bytes") else _expression
        return take(given, f"{place}.{key}", where)

    missing = [name for name in _DIMS.get(entry.kind, ()) if name not in entry.dims]
    if missing:
        raise InvalidValueError(f"{place}.dims.{missing[0]}", f"given for {entry.kind}", None, where=where)
    if entry.kind == "attention" and (not entry.mask or (entry.mask not in ("causal", "full") and not entry.window)):
        raise InvalidValueError(f"{place}.mask", "given, with its window", entry.mask, where=where)
    return TracedOp(
        name=entry.name,
        kind=entry.kind,
        group=entry.group,
        dims=tuple((key, _expression(size, f"{place}.dims.{key}", where)) for key, size in entry.dims.items()),
        mask=entry.mask,
        window=entry.window,
        weight=entry.weight_bytes / _ELEMENT_BYTES,
        count=optional("count"),
        read=optional("read_bytes"),
        write=optional("write_bytes"),
        read_cached=optional("read_cached_bytes"),
        cached=optional("cached_bytes"),
        flops=optional("flops"),
        split=_split(entry.split),
        exchange=entry.exchange,
        routed=entry.routed,
    )


# Sizes that the formula of a kind takes.
_DIMS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "bmm": ("groups", "m", "n", "k"),
    "experts": ("tokens", "n", "k", "experts", "active"),
    "attention": ("batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len"),
    "rms_norm": ("rows", "width"),
    "layer_norm": ("rows", "width"),
    "rope": ("batch", "q_len", "heads", "kv_heads", "head_dim"),
    "softmax": ("rows", "width"),
    "embed": ("rows", "width"),
    "weighted_sum": ("rows", "active", "width"),
}


def _expression(given: str | float, key: str, where: str) -> Expression:
    try:
        return Expression.of(given)
    except ValueError as error:
        raise InvalidValueError(key, f"a number or an expression of counts ({error})", given, where=where) from None


def _elements(given: str | float, key: str, where: str) -> Expression:
    """Bytes of 16-bit elements → elements."""
    if isinstance(given, str):
        _expression(given, key, where)
        return _expression(f"({given})/{_ELEMENT_BYTES}", key, where)
    return _expression(given / _ELEMENT_BYTES, key, where)
