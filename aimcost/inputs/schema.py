"""The boundary: declarations of run files, profiles and stacks, and their one-line errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from ..errors import AimcostError, InvalidValueError, UnknownNameError, nearest
from ..types.strict import Before, Bounds, Strict, made, pydantic_model

__all__ = [
    "HardwareFile",
    "Positive",
    "PrecisionFile",
    "RunFile",
    "ServingFile",
    "StackFile",
    "Strict",
    "TextTokens",
    "WeightsFile",
    "WorkloadFile",
    "validate",
]

MAX_COUNT = 100_000_000  # above any token count or batch; keeps products inside float64's exact integers

Count = Annotated[int, Bounds(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Bounds(ge=1, le=MAX_COUNT)]
MAX_SIDE = 100_000
Side = Annotated[int, Bounds(ge=1, le=MAX_SIDE)]
ImageSize = Annotated[list[Side], Bounds(min_length=2, max_length=2)]
Pixels = Annotated[int, Bounds(ge=1, le=10**13)]
# 1e-12 is below any figure with a unit, and far enough from the smallest float for quotients
Positive = Annotated[float, Bounds(ge=1e-12, le=1e30)]
NonNegative = Annotated[float, Bounds(ge=0, le=1e30)]
# a method's name alone, or with its parameters
Method = Annotated[
    dict[str, Any],
    Before(lambda given: {"name": given} if isinstance(given, str) else given, str | dict[str, Any]),
]
Stage = Literal["preprocess", "vision", "projector", "merge", "prefill", "decode", "overhead"]
Bits = Literal[32, 16, 8, 4] | Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]


class TextTokens(Strict):
    """Text around the visual tokens: system prompt before, question after.

    Attributes
    ----------
    system
        Tokens before the visual ones.
    question
        Tokens after them.
    """

    system: Count = 0
    question: Count = 0


class WorkloadFile(Strict):
    """What is asked, per request.

    `images` may come with one video: `frames`, or `seconds` of it. `visual_tokens` excludes them all.

    Attributes
    ----------
    image_size
        In pixels: [width, height] or the side of a square, of images and of frames; or a list of
        [width, height], one an image in order, then one of the video's frames.
    fps
        Frames a second that are taken of `seconds`; of given `frames`, the rate they were taken at.
    min_pixels, max_pixels
        Limits on a resized image and a resized frame.
    total_pixels
        Limit on all frames together.
    min_frames, max_frames
        Limits on the number of frames.
    cached_tokens
        Tokens at the start of the prompt that are in the cache already: a shared prefix, or images of an earlier turn.
    batch
        Requests at once.
    images
        Images a request.
    frames
        Video frames a request.
    visual_tokens
        Visual tokens a request, before any reduction: in place of images and frames.
    seconds
        Length of the video, in place of frames.
    text_tokens
        Text a request, all after the visual tokens; or {system, question}.
    new_tokens
        Tokens to generate: the prefill yields the first, each decode step one more.
    newline
        Whether a newline token follows the visual tokens, or each row of them; by default as the model's config says.
    """

    batch: PositiveCount = 1
    images: PositiveCount | None = None
    frames: PositiveCount | None = None
    visual_tokens: PositiveCount | None = None
    image_size: Side | ImageSize | Annotated[list[ImageSize], Bounds(min_length=1, max_length=10_000)] | None = None
    seconds: Positive | None = None
    fps: Positive | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    total_pixels: Pixels | None = None
    min_frames: PositiveCount | None = None
    max_frames: PositiveCount | None = None
    text_tokens: Count | TextTokens | None = None
    # decode is priced step by step: a row a layer and step
    new_tokens: Annotated[int, Bounds(ge=0, le=100_000)] = 0
    newline: bool | Literal["row"] | None = None
    cached_tokens: Count = 0


class WeightsFile(Strict):
    """Bits, or a number format by name, of the weights of each part; parts that are not named stay 16 bit.

    Attributes
    ----------
    decoder
        Linear layers of the language model.
    embedding
        Token embeddings.
    lm_head
        The output layer.
    tower
        The vision tower.
    projector
        The projector.
    """

    decoder: Bits | None = None
    embedding: Bits | None = None
    lm_head: Bits | None = None
    tower: Bits | None = None
    projector: Bits | None = None


class PrecisionFile(Strict):
    """Bits, or a number format by name, for each tensor class.

    Attributes
    ----------
    weights
        Of the language model's linear layers; 16 bits and more are those of all weights. Or by part.
    activations
        Of activations, norms and residuals included.
    kv
        Of the KV cache.
    """

    weights: Bits | WeightsFile = 16
    activations: Bits = 16
    kv: Bits = 16


class ParallelFile(Strict):
    """Devices by kind of parallelism, and what tensor-parallel ranks do with the vision tower.

    Attributes
    ----------
    tp
        Tensor-parallel ranks: each layer is split over them.
    pp
        Pipeline stages: each holds a part of the layers.
    dp
        Replicas, each with requests of its own.
    tower
        Whether every rank runs the whole tower (replicated), a part of each layer (sharded), or a part of the
        images (data).
    """

    tp: PositiveCount = 1
    pp: PositiveCount = 1
    dp: PositiveCount = 1
    tower: Literal["replicated", "sharded", "data"] = "replicated"


class ServingFile(Strict):
    """How an engine divides a card's memory among requests; `concurrent_requests` rests on it.

    Attributes
    ----------
    memory_fraction
        Share of the card's memory for weights, activations and caches.
    prefill_chunk
        Prompt tokens that one step computes on.
    max_model_len
        Tokens that every request is counted with; by default its own.
    """

    memory_fraction: Annotated[float, Bounds(gt=0, le=1)] = 0.9
    prefill_chunk: PositiveCount = 8192
    max_model_len: PositiveCount | None = None


class BudgetsFile(Strict):
    """Limits a run must stay under.

    Attributes
    ----------
    max_ttft_ms
        Time to the first token, ms.
    max_tpot_ms
        Time per output token, ms.
    max_kv_gb
        KV cache after the last token, GB (1e9 bytes).
    max_memory_gb
        Peak memory, GB.
    max_tflops
        FLOPs of what is included, in units of 1e12.
    """

    max_ttft_ms: Positive | None = None
    max_tpot_ms: Positive | None = None
    max_kv_gb: Positive | None = None
    max_memory_gb: Positive | None = None
    max_tflops: Positive | None = None


class RunFile(Strict):
    """A run: model, workload, method, precision, hardware, estimator.

    Attributes
    ----------
    model
        A name in configs/models, a path to an HF config.json or its folder, or an inline HF-style mapping.
    workload
        What is asked, per request.
    method
        The reduction: a name, or a mapping of `name` and the method's parameters.
    precision
        Bits or number formats by tensor class.
    attention
        How attention is computed; by default as the stack does.
    hardware
        A name in hardware_profiles, a path, or an inline profile.
    estimator
        How operations are priced.
    estimator_options
        Options of the estimator.
    include
        Stages that count in the totals; all but preprocess by default.
    stack
        The software: a name in configs/stacks, a path, or an inline stack.
    execution
        The name of a stack before there were stacks.
    implementation
        How the reduction runs: fused kernels, eager as released code drops tokens, masked as it hides them.
    parallel
        Devices by kind of parallelism.
    serving
        How an engine divides the card's memory.
    budgets
        Limits that `aimcost check` and the planner hold the run to.
    price_per_hour
        Of one device, in any currency; a run on tp x pp of them costs as many times.
    confidence
        Probability with which budgets are to hold.
    """

    model: str | dict[str, Any]
    workload: WorkloadFile = made(WorkloadFile)
    method: Method = made(lambda: {"name": "none"})
    precision: PrecisionFile = made(PrecisionFile)
    attention: Literal["flash", "eager"] | None = None
    hardware: str | dict[str, Any] | None = None
    estimator: str | None = None
    estimator_options: dict[str, Any] = made(dict)
    include: list[Stage] | None = None
    stack: str | dict[str, Any] | None = None
    execution: Literal["eager", "compiled", "cuda_graph"] | None = None
    implementation: Literal["fused", "eager", "masked"] | None = None
    parallel: ParallelFile = made(ParallelFile)
    serving: ServingFile = made(ServingFile)
    budgets: BudgetsFile = made(BudgetsFile)
    price_per_hour: Positive | None = None
    confidence: Annotated[float, Bounds(gt=0, lt=1)] = 0.8


class HardwareFile(Strict):
    """A hardware profile. Units are in the keys and decimal.

    Attributes
    ----------
    name
        Name of the profile.
    vendor
        Who makes it.
    architecture
        Generation of the chip: coefficients are inherited inside it first.
    compute_capability
        CUDA compute capability.
    sm_count
        Multiprocessors, or what the vendor calls them.
    boost_clock_mhz
        Highest clock, MHz.
    memory_gb
        Memory, GB (1e9 bytes).
    memory_gb_per_s
        Memory bandwidth of the datasheet, GB/s.
    dense_tflops
        Dense peak by number format, in units of 1e12 a second: no sparsity.
    l2_mb
        Last-level cache, MB.
    onchip_buffer_kb
        Shared memory and registers that LLM-Viewer's tiling uses, kB.
    interconnect
        Name of the link between devices.
    interconnect_gb_per_s
        Both directions of the link, GB/s.
    tdp_w
        Board power, W.
    usable_memory_gb
        Memory that a process can allocate, GB.
    usable_memory_bytes
        The same in bytes, as measured.
    price_per_hour
        Of one device, in any currency.
    hidden
        Left out of listings.
    sources
        Where each number comes from, by key.
    notes
        What a reader should know.
    calibration
        Measured or fitted coefficients.
    attained
        Rates that were attained, by kind.
    """

    name: Annotated[str, Bounds(min_length=1)]
    vendor: str = ""
    architecture: str = ""
    compute_capability: str | None = None
    sm_count: PositiveCount | None = None
    boost_clock_mhz: Positive | None = None
    memory_gb: Positive | None = None
    memory_gb_per_s: Positive
    dense_tflops: Annotated[dict[str, Positive], Bounds(min_length=1)]
    l2_mb: Positive | None = None
    onchip_buffer_kb: Positive | None = None
    interconnect: str | None = None
    interconnect_gb_per_s: Positive | None = None
    tdp_w: Positive | None = None
    usable_memory_gb: Positive | None = None
    usable_memory_bytes: Positive | None = None
    price_per_hour: Positive | None = None
    hidden: bool = False
    sources: dict[str, str] = made(dict)
    notes: list[str] = made(list)
    calibration: dict[str, Any] | None = None
    attained: dict[str, dict[str, Any]] | None = None


class FigureFile(Strict):
    """A number with its 80 % band.

    Attributes
    ----------
    value
        The number.
    low, high
        Its band.
    source
        Where it comes from.
    """

    value: NonNegative
    low: NonNegative | None = None
    high: NonNegative | None = None
    source: str | None = None


class RequestFile(Strict):
    """Milliseconds that a request costs beside its kernels; `low` and `high` are those of `fixed`.

    Attributes
    ----------
    fixed
        A request.
    per_image
        An image of it.
    per_frame
        A video frame of it.
    low, high
        Band of `fixed`.
    at
        The stage that it stands beside.
    source
        Where it comes from.
    """

    fixed: NonNegative = 0.0
    per_image: NonNegative = 0.0
    per_frame: NonNegative = 0.0
    low: NonNegative | None = None
    high: NonNegative | None = None
    at: Literal["vision", "prefill"] = "vision"
    source: str | None = None


class StepFile(Strict):
    """Milliseconds that an engine step costs beside its kernels; `low` and `high` are those of `fixed`.

    Attributes
    ----------
    fixed
        A step.
    per_sequence
        A sequence of its batch.
    low, high
        Band of `fixed`.
    source
        Where it comes from.
    """

    fixed: NonNegative = 0.0
    per_sequence: NonNegative = 0.0
    low: NonNegative | None = None
    high: NonNegative | None = None
    source: str | None = None


class TowerFile(Strict):
    """How the vision tower runs, where it differs from the language model.

    Attributes
    ----------
    layers
        ``all`` of them, or those alone whose output is ``used``: LLaVA takes the features of the last but one.
    attention
        Attention of the tower.
    loop
        Whether attention is launched once, or for each window.
    """

    attention: Literal["flash", "eager"] | None = None
    loop: Literal["none", "window"] = "none"
    layers: Literal["all", "used"] = "used"


class CollectivesFile(Strict):
    """All-reduces: their kind, and a factor on large ones among many ranks.

    Attributes
    ----------
    kind
        Ring of NCCL, or one shot.
    large_mb
        Messages above this many MB take `large_factor`.
    large_ranks
        From this many ranks on.
    large_factor
        Factor on their time.
    """

    kind: Literal["nccl", "one_shot"] = "nccl"
    large_mb: Positive | None = None
    large_ranks: Annotated[int, Bounds(ge=2, le=1024)] = 2
    large_factor: Annotated[float, Bounds(ge=1, le=100)] = 1.0


class SelectionFile(Strict):
    """What selecting tokens costs beside the launches of each scorer.

    Attributes
    ----------
    sync_us
        Microseconds that the host waits for the device to count tokens.
    attention_map_ms
        Milliseconds to read a layer's attention map.
    """

    sync_us: NonNegative = 0.0
    attention_map_ms: NonNegative | FigureFile = 0.0


# what is divided by it stays a number
Factor = Annotated[float, Bounds(ge=1e-6, le=1000)]


class ArchitectureFile(Strict):
    """Keys of a stack that differ on one GPU architecture.

    Attributes
    ----------
    attention
        Attention where a run names none.
    implementation
        How a reduction runs where a run does not say.
    host_us_per_launch
        Microseconds of host time a launch.
    kernels
        Factors on launches, by kind of operation.
    traffic
        Factors on DRAM traffic, by kind of operation.
    products
        The library of matrix products.
    scale
        Factors on kernel times, by kind of operation.
    request_ms
        Beside the kernels of a request.
    step_ms
        Beside the kernels of an engine step.
    """

    attention: Literal["flash", "eager"] | None = None
    implementation: Literal["fused", "eager", "masked"] | None = None
    host_us_per_launch: NonNegative | FigureFile | None = None
    kernels: dict[str, Factor] | None = None
    traffic: dict[str, Factor] | None = None
    products: str | None = None
    scale: dict[str, Factor] | None = None
    request_ms: RequestFile | None = None
    step_ms: StepFile | None = None


class StackFile(Strict):
    """A software stack. Units are in the keys.

    Attributes
    ----------
    name
        Name of the stack.
    summary
        One line for listings.
    sources
        Where the figures come from: sentences, or by key.
    attention
        Attention where a run names none.
    implementation
        How a reduction runs where a run does not say.
    host_us_per_launch
        Microseconds of host time a launch.
    kernels
        Factors on launches, by kind of operation.
    traffic
        Factors on DRAM traffic, by kind of operation.
    products
        The library of matrix products.
    scale
        Factors on kernel times, by kind of operation.
    request_ms
        Beside the kernels of a request.
    step_ms
        Beside the kernels of an engine step.
    elementwise
        Pointwise operations that the stack runs as single kernels.
    fused
        Products and additions that run as one kernel.
    graph
        Whether launches are captured: none, all, or those of decode.
    tower
        How the vision tower runs.
    experts
        Of a model whose transformers class computes every token with ``all`` experts (Llama 4), whether the stack does,
        or computes those alone that a token is ``routed`` to.
    collectives
        All-reduces between ranks.
    selection
        What selecting tokens costs.
    spread
        Factors of the stack's 80 % band.
    architectures
        Keys that differ on a GPU architecture.
    notes
        What a reader should know.
    """

    name: Annotated[str, Bounds(min_length=1)]
    summary: str = ""
    sources: list[str] | dict[str, str] = made(dict)
    implementation: Literal["fused", "eager", "masked"] = "fused"
    attention: Literal["flash", "eager"] | dict[str, Literal["flash", "eager"]] = "flash"
    host_us_per_launch: NonNegative | FigureFile
    kernels: dict[str, Factor] = made(dict)
    traffic: dict[str, Factor] = made(dict)
    elementwise: list[str] = made(list)
    products: str = ""
    fused: list[Literal["qkv", "gate_up", "add_norm"]] = made(list)
    graph: bool | Literal["decode"] = False
    scale: dict[str, Factor] = made(dict)
    request_ms: RequestFile = made(RequestFile)
    step_ms: StepFile = made(StepFile)
    tower: TowerFile = made(TowerFile)
    experts: Literal["all", "routed"] = "routed"
    collectives: Literal["nccl", "one_shot"] | CollectivesFile = "nccl"
    selection: SelectionFile = made(SelectionFile)
    spread: Annotated[list[Factor], Bounds(min_length=2, max_length=2)] | None = None
    architectures: dict[str, ArchitectureFile] = made(dict)
    notes: list[str] = made(list)


Model = TypeVar("Model")


def validate(model: type[Model], data: Mapping[str, Any], *, where: str) -> Model:
    """`data` as `model`, a record or a pydantic model; or the first problem as a one-line error.

    Raises
    ------
    InvalidValueError, UnknownNameError
        Naming the place, the key, what was found and what is allowed.
    """
    declared: Any = model
    ours = issubclass(model, Strict)
    try:
        found: Model = declared.read(data) if ours else declared.model_validate(dict(data))
    except ValueError as error:
        # pydantic's own has `errors`; who raised it has imported pydantic
        if not hasattr(error, "errors"):
            raise
        raise _translate(pydantic_model(declared) if ours else declared, error, where) from None
    return found


# Keys of several shapes, named together rather than as the branches of a union fail.
_SHAPES = {"image_size": f"[width, height], the side of a square, or a list of [width, height]: 1 to {MAX_SIDE} pixels"}


def _translate(model: Any, error: Any, where: str) -> AimcostError:
    details = error.errors(include_url=False)
    # A misspelt key also makes the right one missing: name the misspelling first.
    detail = next((d for d in details if d["type"] == "extra_forbidden"), details[0])
    # Branches of a union add their own name to the location; keys are what a user knows.
    detail = _inside(detail, details)
    # an unknown key stands last, and may be called like a branch
    last = 1 if detail["type"] == "extra_forbidden" else 0
    outer = detail["loc"][: len(detail["loc"]) - last]
    parts = [str(p) for p in outer if not _is_branch(str(p))] + [str(p) for p in detail["loc"][len(outer) :]]
    key = ".".join(parts)
    if detail["type"] == "extra_forbidden":
        owner = _model_at(model, [str(p) for p in detail["loc"][:-1]])
        return UnknownNameError("key", key, _prefixed(parts[:-1], owner), where=where)
    if detail["type"] == "missing":
        close = nearest(parts[-1], [str(name) for name in _fields_found(error)])
        return InvalidValueError(key, "given" + (f" (is {close[0]!r} it?)" if close else ""), None, where=where)
    expected = _SHAPES.get(parts[-1] if parts else "") or _expected(detail, details)
    return InvalidValueError(key or "file", expected, detail.get("input"), where=where)


def _inside(detail: Any, details: list[Any]) -> Any:
    """Of a mapping, where it is one of several shapes that are allowed: what is wrong inside it."""
    place = _keys(detail)
    if not isinstance(detail.get("input"), Mapping) or detail["type"] == "extra_forbidden":
        return detail
    deeper = (each for each in details if len(_keys(each)) > len(place) and _keys(each)[: len(place)] == place)
    return next(deeper, detail)


def _fields_found(error: Any) -> list[str]:
    return [str(d["loc"][-1]) for d in error.errors(include_url=False) if d["type"] == "extra_forbidden"]


def _keys(detail: Any) -> list[str]:
    """Where an error stands, without the branches of unions."""
    return [str(part) for part in detail["loc"] if not _is_branch(str(part))]


# models that are a branch of a union, by the name that pydantic puts into the location
_UNION_MODELS: dict[str, type[Strict]] = {
    model.__name__: model for model in (TextTokens, WeightsFile, FigureFile, CollectivesFile)
}


def _is_branch(part: str) -> bool:
    named = {"int", "str", "float", "bool", "constrained-int", "constrained-float", *_UNION_MODELS}
    return part in named or part.startswith(("literal[", "dict[", "list["))


def _model_at(model: Any, parts: list[str]) -> Any:
    """The pydantic model at a place, or None."""
    current = model
    for part in parts:
        if _is_branch(part):
            current = pydantic_model(_UNION_MODELS[part]) if part in _UNION_MODELS else current
            continue
        if current is None or part not in current.model_fields:
            return None
        annotation = current.model_fields[part].annotation
        options = [annotation, *get_args(annotation)]
        options = [pydantic_model(o) if isinstance(o, type) and issubclass(o, Strict) else o for o in options]
        current = next((o for o in options if isinstance(o, type) and hasattr(o, "model_fields")), None)
    return current


def _prefixed(parents: list[str], owner: Any) -> list[str]:
    prefix = ".".join(parents)
    fields = list(owner.model_fields) if owner is not None else []
    return [f"{prefix}.{name}" if prefix else name for name in fields]


def _expected(detail: Mapping[str, Any], details: list[Any]) -> str:
    """What pydantic wanted, in plain words; several branches of a union are joined."""
    same_key = [d for d in details if d["loc"] and _keys(d) == _keys(detail) and _is_branch(str(d["loc"][-1]))]
    if len(same_key) > 1 and detail["type"] != "extra_forbidden":
        literal = [d for d in same_key if str(d["type"]) == "literal_error"]
        joined: list[str] = []
        if len(literal) > 1:
            # names of several branches are one list, before what else may stand there
            joined = ["one of " + ", ".join(str(d["ctx"]["expected"]).replace(" or ", ", ") for d in literal)]
            same_key = [d for d in same_key if d not in literal]
        joined += dict.fromkeys(map(_wanted, same_key))
        return " or ".join(joined)
    return _wanted(detail)


def _wanted(detail: Mapping[str, Any]) -> str:
    """What one branch wanted."""
    kind, context = str(detail["type"]), detail.get("ctx", {})
    words = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": "text",
        "bool_type": "true or false",
        "dict_type": "a mapping",
        "list_type": "a list",
        "model_type": "a mapping",
        "model_attributes_type": "a mapping",
        "greater_than": f"greater than {context.get('gt')}",
        "greater_than_equal": "above zero" if context.get("ge") == 1e-12 else f"at least {context.get('ge')}",
        "less_than": f"less than {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
        "literal_error": f"one of {context.get('expected')}",
        "string_too_short": "non-empty text",
        "too_short": "not empty",
    }
    return words.get(kind, str(detail["msg"]).removeprefix("Value error, "))
