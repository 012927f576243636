"""Ops of a forward pass, recorded under a dispatch mode: sites, sizes, and what is alive.

A *site* is a place in the modeling code: the module (relative to its layer) and the instructions of the
frames between the layer and the op. Ops of one site at different counts are one op of the model file;
a loop runs its sites several times.

Control values (masks, positions) are real CPU tensors while weights and states lie on ``meta``: what is
computed from both becomes ``meta``, and a decision that needs the value of a ``meta`` tensor is refused.
"""

from __future__ import annotations

import dis
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from transformers import modeling_utils
from transformers.cache_utils import Cache
from transformers.integrations import moe
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ..errors import UnsupportedModelError
from .aten import activation_flops, describe

__all__ = ["IMPLEMENTATION", "Event", "Recorder", "replaced"]

aten = torch.ops.aten

# The name under which attention, its masks and experts are registered with transformers while recording.
IMPLEMENTATION = "aimcost_trace"
# Sizes are counted in elements of the traced format, so that an fp32 tensor is two elements an entry.
FORMAT = torch.bfloat16
ELEMENT_BYTES = 2.0
# Less is a scalar that control flow holds: no part of what is alive.
_LEAST_BYTES = 64

_PRECALL = dis.opmap.get("PRECALL")
_ANGLES = re.compile(r"Rotary|RotaryEmb|RoPE|Rope")
_ROTATE = re.compile(r"^_?(apply_.*(rot|rope)|apply_multimodal_rotary)")


@dataclass(slots=True)
class Event:
    """One op at one count.

    Attributes
    ----------
    site
        Module path relative to its layer, and a key of the calling instructions.
    name
        The aten op, or what a collapsed module or function is.
    dims
        Sizes by name; `flags` are properties that must not change with counts.
    read, write, read_kv, write_kv
        Elements, weights excluded. Tensors of the cache are told apart.
    weights
        Parameters that it reads, by identity.
    reads, writes
        Storages, by number.
    alive
        Elements alive after it, parameters and cache excluded.
    order
        Position in its layer.
    """

    site: tuple[str, int]
    name: str
    kind: str
    dims: dict[str, float]
    flags: tuple[tuple[str, Any], ...] = ()
    read: float = 0.0
    write: float = 0.0
    read_kv: float = 0.0
    write_kv: float = 0.0
    weights: dict[int, tuple[str, float]] = field(default_factory=dict)
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    alive: float = 0.0
    flops: float = 0.0
    order: int = 0


@dataclass(slots=True)
class _Scope:
    """A module or function recorded as one op."""

    name: str
    kind: str
    silent: bool
    reads: dict[int, float] = field(default_factory=dict)
    made: set[int] = field(default_factory=set)
    weights: dict[int, tuple[str, float]] = field(default_factory=dict)


def _size(tensor: torch.Tensor) -> float:
    """Entries that lie in memory (an expanded dimension has one), in elements of the traced format."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if stride or length <= 1:
            count *= length
    return count * tensor.element_size() / ELEMENT_BYTES


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the ops of a model's forward passes, layer by layer.

    Parameters
    ----------
    model
        On the ``meta`` device.
    layers
        The modules that are its layers, in order.
    like
        A recorder of a model of the same code: their sites are the same.
    """

    def __init__(self, model: nn.Module, layers: list[nn.Module], like: Recorder | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {id(module): name for name, module in model.named_modules()}
        self._modules = {id(module) for module in model.modules()}
        self._layer_of = {id(layer): index for index, layer in enumerate(layers)}
        self._parameters: dict[int, tuple[str, float]] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            weight = float(tensor.numel()) if isinstance(tensor, nn.Parameter) else 0.0
            self._parameters.setdefault(tensor.untyped_storage()._cdata, (name, weight))
        self._held = [model]
        # Whether ranges of numbers are real wherever a model makes them: some select by them what is no padding.
        self.real_ranges = False
        self.events: dict[int | str, list[Event]] = {}
        self._stack: list[nn.Module] = []
        self._scopes: list[_Scope | None] = []
        self._scope: _Scope | None = None
        self._layer: int | str = "before"
        self._path: list[str] = []
        self._code: dict[tuple[Any, ...], int] = {} if like is None else like._code
        self._storages: dict[int, int] = {}
        self._sizes: dict[int, float] = {}
        self._next = 0
        self._alive = 0.0
        self._cached: set[int] = set()
        self._masks: dict[tuple[int, int], float] = {}
        self._pinned: list[torch.Tensor] = []
        self._writer: dict[int, Event] = {}

    # -- context -------------------------------------------------------------------------------------

    @contextmanager
    def recording(self, cached: Iterable[torch.Tensor] = ()) -> Iterator[Recorder]:
        """Record what runs inside; `events` starts empty. `cached`: tensors of the cache that it begins with."""
        self.events = {}
        self._stack, self._scopes, self._scope, self._layer, self._path = [], [], None, "before", []
        self._masks, self._writer, self._pinned = {}, {}, []
        self._cached = {self._number(tensor) for tensor in cached}
        modules = nn.modules.module
        with ExitStack() as stack:
            before = modules.register_module_forward_pre_hook(self._enter)
            after = modules.register_module_forward_hook(self._leave, always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
            stack.enter_context(replaced(Cache, "update", self._cache_update))
            for name in ("update_conv_state", "update_recurrent_state"):
                stack.enter_context(replaced(Cache, name, self._state_update))
            for namespace in self._namespaces():
                for name, value in list(vars(namespace).items()):
                    if _ROTATE.match(name) and callable(value):
                        stack.enter_context(replaced(namespace, name, self._rotation))
            stack.enter_context(_registered(modeling_utils.ALL_ATTENTION_FUNCTIONS, self._attention))
            stack.enter_context(_registered(ALL_MASK_ATTENTION_FUNCTIONS, self._mask))
            stack.enter_context(_registered(moe.ALL_EXPERTS_FUNCTIONS, self._experts))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            yield self

    def _namespaces(self) -> list[Any]:
        names = {type(module).__module__ for root in self._held for module in root.modules()}
        return [sys.modules[name] for name in sorted(names) if name.startswith("transformers.models.")]

    # -- modules -------------------------------------------------------------------------------------

    def _enter(self, module: nn.Module, _: Any) -> None:
        if id(module) not in self._modules:
            return
        self._stack.append(module)
        if id(module) in self._layer_of:
            self._layer = self._layer_of[id(module)]
        self._open(*_scope_of(module))

    def _leave(self, module: nn.Module, _: Any, output: Any) -> None:
        if not self._stack or self._stack[-1] is not module:
            return
        self._close(output)
        self._stack.pop()
        if id(module) in self._layer_of:
            index = self._layer_of[id(module)]
            last = index == len(self._layer_of) - 1
            self._layer = "after" if last else index

    def _open(self, name: str, kind: str, silent: bool) -> None:
        self._scopes.append(self._scope)
        if kind and self._scope is None:
            self._scope = _Scope(name, kind, silent)

    def _close(self, output: Any) -> None:
        scope, self._scope = self._scope, self._scopes.pop()
        if scope is None or self._scope is not None:
            return
        if scope.silent:
            return
        made = [t for t in _tensors(output) if self._number(t) in scope.made]
        if not made:
            return
        dims = self._scope_dims(scope, made)
        self._add(
            scope.name,
            scope.kind,
            dims,
            read=sum(scope.reads.values()),
            outputs=made,
            weights=scope.weights,
            reads=tuple(scope.reads),
            flops=activation_flops(scope.name) * sum(t.numel() for t in made) if scope.kind == "activation" else 0.0,
        )

    def _scope_dims(self, scope: _Scope, made: list[torch.Tensor]) -> dict[str, float]:
        if scope.kind in ("rms_norm", "layer_norm"):
            width = made[0].shape[-1]
            return {"rows": made[0].numel() / width, "width": width}
        if scope.kind == "rope" and len(made) == 2 and all(t.ndim == 4 for t in made):
            q, k = made
            # (batch, heads, tokens, width) in most models; Llama 4 rotates before it transposes
            heads, tokens = (2, 1) if q.shape[1] == k.shape[1] and q.shape[2] != k.shape[2] else (1, 2)
            return {
                "batch": q.shape[0],
                "q_len": q.shape[tokens],
                "heads": q.shape[heads],
                "kv_heads": k.shape[heads],
                "head_dim": q.shape[3],
            }
        if scope.kind == "rope":
            scope.kind, scope.name = "pointwise", "rotate"
        return {"elements": float(sum(t.numel() for t in made))}

    # -- functions of transformers that are one op ---------------------------------------------------

    def _rotation(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def rotate(*args: Any, **kwargs: Any) -> Any:
            self._open("rope", "rope", False)
            output: Any = None
            try:
                output = original(*args, **kwargs)
            finally:
                self._close(output)
            return output

        return rotate

    def _cache_update(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(cache: Any, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self._to_cache(key)
            self._to_cache(value)
            self._open("cache", "cache", True)
            try:
                result = original(cache, key, value, *args, **kwargs)
            finally:
                self._scope = self._scopes.pop()
            for tensor in _tensors(result):
                self._cached.add(self._number(tensor))
            return result

        return update

    def _state_update(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(cache: Any, *args: Any, **kwargs: Any) -> Any:
            for tensor in _tensors((args, kwargs)):
                self._to_cache(tensor)
            self._open("cache", "cache", True)
            try:
                result = original(cache, *args, **kwargs)
            finally:
                self._scope = self._scopes.pop()
            for tensor in _tensors(result):
                self._cached.add(self._number(tensor))
            return result

        return update

    def _to_cache(self, tensor: torch.Tensor) -> None:
        """The op that wrote `tensor` wrote it to the cache."""
        event = self._writer.get(self._number(tensor))
        if event is not None:
            moved = min(_size(tensor), event.write)
            event.write -= moved
            event.write_kv += moved

    def _mask(self, _: Any) -> Callable[..., Any]:
        def mask(
            batch_size: int,
            q_length: int,
            kv_length: int,
            q_offset: Any = 0,
            kv_offset: Any = 0,
            mask_function: Any = None,
            **kwargs: Any,
        ) -> torch.Tensor:
            with _disable_current_modes():
                zero = torch.zeros((), dtype=torch.long)
                q = torch.arange(q_length)[:, None] + int(q_offset)
                kv = torch.arange(kv_length)[None, :] + int(kv_offset)
                visible = torch.as_tensor(mask_function(zero, zero, q, kv)).expand(q_length, kv_length)
                pairs = float(visible.sum())
                # attention is told its mask by this tensor, which takes no memory
                made = torch.empty(1, 1, 1, 1, dtype=torch.bool, device="meta")
                made = made.expand(batch_size, 1, q_length, kv_length)
            self._masks[self._number(made), kv_length] = pairs
            self._pinned.append(made)
            return made

        return mask

    def _attention(self, _: Any) -> Callable[..., Any]:
        def attention(
            module: nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: torch.Tensor | None,
            **kwargs: Any,
        ) -> tuple[torch.Tensor, None]:
            batch, heads, q_len, width = query.shape
            kv_heads, kv_len = key.shape[1], key.shape[2]
            value_width = value.shape[-1]
            causal = kwargs.get("is_causal")
            causal = getattr(module, "is_causal", True) if causal is None else causal
            pairs = float(q_len * kv_len)
            if attention_mask is not None and (self._number(attention_mask), kv_len) in self._masks:
                pairs = self._masks[self._number(attention_mask), kv_len]
            elif causal and q_len > 1:
                pairs = q_len * (kv_len - q_len) + q_len * (q_len + 1) / 2
            output = torch.empty(batch, q_len, heads, value_width, dtype=query.dtype, device="meta")
            keys = [key] if value is key else [key, value]
            cached = any(self._number(t) in self._cached for t in keys)
            moved = sum(_size(t) for t in keys)
            weights = {}
            sinks = kwargs.get("s_aux")
            if isinstance(sinks, torch.Tensor):
                weights = self._weights([sinks])
            self._add(
                "fused_attention",
                "attention",
                {
                    "batch": batch,
                    "heads": heads,
                    "kv_heads": kv_heads,
                    "head_dim": (width + value_width) / 2,
                    "q_len": q_len,
                    "kv_len": kv_len,
                    "pairs": pairs,
                },
                read=_size(query) + (0.0 if cached else moved),
                read_kv=moved if cached else 0.0,
                outputs=[output],
                weights=weights,
                reads=tuple(self._number(t) for t in (query, *keys)),
                flags=(("cached", cached),),
            )
            return output, None

        return attention

    def _experts(self, _: Any) -> Callable[..., Any]:
        def experts(
            module: Any, states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
        ) -> torch.Tensor:
            rows, active = states.shape[0], top_k_index.shape[-1]
            x = states.new_empty(rows * active, states.shape[-1])
            self._add("dispatch", "gather", _rows(x), read=_size(x), outputs=[x], reads=(self._number(states),))
            first = module.gate_up_proj if module.has_gate else module.up_proj
            bias = getattr(module, "gate_up_proj_bias" if module.has_gate else "up_proj_bias", None)
            y = self._grouped("experts_up", module, x, first, bias, rows, active)
            y = module._apply_gate(y) if module.has_gate else module.act_fn(y)
            bias = getattr(module, "down_proj_bias", None)
            y = self._grouped("experts_down", module, y, module.down_proj, bias, rows, active)
            if module.has_post_expert_norm:
                y = module.post_expert_norm(y)
            # as transformers' grouped experts: weighted copies, brought back to the tokens' order
            weighted = torch.empty(y.shape, dtype=torch.promote_types(y.dtype, top_k_weights.dtype), device="meta")
            ordered = torch.empty_like(weighted)
            output = states.new_empty(rows, y.shape[-1])
            self._add(
                "combine",
                "weighted_sum",
                {"rows": rows, "active": active, "width": y.shape[-1]},
                read=_size(y),
                outputs=[output],
                reads=tuple(self._number(t) for t in (y, weighted, ordered)),
            )
            return output

        return experts

    def _grouped(
        self, name: str, module: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, rows: int, active: int
    ) -> torch.Tensor:
        out = weight.shape[-1] if module.is_transposed else weight.shape[-2]
        given = bias if module.has_bias and isinstance(bias, torch.Tensor) else None
        made = x.new_empty(x.shape[0], out)
        self._add(
            name,
            "experts",
            {"tokens": rows, "n": out, "k": x.shape[-1], "experts": weight.shape[0], "active": active},
            read=_size(x),
            outputs=[made],
            weights=self._weights([weight] if given is None else [weight, given]),
            reads=(self._number(x),),
        )
        return made

    # -- aten ops ------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            raise UnsupportedModelError(f"{self._where()}: needs the value of a tensor (.item())")
        if self.real_ranges and func.overloadpacket is aten.arange:
            kwargs["device"] = "cpu"
        if func is aten._to_copy.default and not args[0].is_meta:
            kwargs.pop("device", None)  # control values stay real wherever they are sent
        given = _tensors((args, kwargs))
        on_meta = any(t.is_meta for t in given)
        if on_meta and not all(t.is_meta for t in given):
            if func is aten.copy_.default and not args[0].is_meta:
                raise UnsupportedModelError(f"{self._where()}: copies a computed value to where control flow reads it")
            if func is aten.index.Tensor:
                args = (args[0], _positions(args[1]))  # how many a mask chooses is known here alone
            numbers = {id(t): self._number(t) for t in given}
            args, kwargs = tree_map(lambda v: self._to_meta(v, numbers), (args, kwargs))
            given = _tensors((args, kwargs))
        try:
            output = func(*args, **kwargs)
        except UnsupportedModelError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            if on_meta and "meta" in str(error).lower():
                raise UnsupportedModelError(f"{self._where()}: {func} does not run on the meta device") from error
            raise
        made = [t for t in _tensors(output) if t.is_meta]
        if on_meta or made:
            self._record(func, args, kwargs, given, made)
        return output

    def _to_meta(self, value: Any, numbers: dict[int, int]) -> Any:
        if not isinstance(value, torch.Tensor) or value.is_meta:
            return value
        return value.to("meta")

    def _number(self, tensor: torch.Tensor) -> int:
        """Number of the tensor's storage: one for all of its views, and never used again."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._next += 1
            self._storages[key] = self._next
            if tensor.is_meta and key not in self._parameters:
                size = storage.nbytes() / ELEMENT_BYTES if storage.nbytes() >= _LEAST_BYTES else 0.0
                self._sizes[self._next] = size
                self._alive += size
            weakref.finalize(storage, self._freed, key, self._next)
        return self._storages[key]

    def _freed(self, key: int, number: int) -> None:
        if self._storages.get(key) == number:
            del self._storages[key]
        self._alive -= self._sizes.pop(number, 0.0)

    def _weights(self, given: list[torch.Tensor]) -> dict[int, tuple[str, float]]:
        keys = (t.untyped_storage()._cdata for t in given)
        return {key: self._parameters[key] for key in keys if key in self._parameters}

    def _where(self) -> str:
        path = self._names.get(id(self._stack[-1]), "") if self._stack else ""
        return path or "model"

    def _site(self) -> tuple[str, int]:
        """The module that calls, relative to its layer, and the instructions that lead to the op."""
        path = ""
        for module in reversed(self._stack):
            if id(module) in self._layer_of:
                root = self._names[id(module)]
                inner = self._names[id(self._stack[-1])]
                path = inner[len(root) + 1 :]
                break
        else:
            path = self._names.get(id(self._stack[-1]), "") if self._stack else ""
        frames = []
        frame = sys._getframe(2)
        boundary = _forward_code(next((m for m in reversed(self._stack) if id(m) in self._layer_of), None))
        while frame is not None:
            code = frame.f_code
            if "transformers/" in code.co_filename:
                frames.append((code, _call(code, frame.f_lasti)))
            if code is boundary:
                break
            frame = frame.f_back  # type: ignore[assignment]
        key = tuple(frames)
        return path, self._code.setdefault(key, len(self._code))

    def _record(self, func: Any, args: Any, kwargs: Any, given: list[torch.Tensor], made: list[torch.Tensor]) -> None:
        numbers = [self._number(t) for t in given]
        mutable = func._schema.is_mutable
        if made and not mutable and all(self._number(t) in numbers for t in made):
            return  # a view
        scope = self._scope
        weights = self._weights(given)
        reads = {
            number: _size(t)
            for number, t in zip(numbers, given, strict=True)
            if t.is_meta and t.untyped_storage()._cdata not in self._parameters
        }
        if scope is not None:
            for number, size in reads.items():
                if number not in scope.made:
                    scope.reads[number] = max(size, scope.reads.get(number, 0.0))
            scope.weights.update(weights)
            scope.made.update(self._number(t) for t in made)
            return
        if not reads and not weights:
            for t in made:
                self._number(t)
            return  # a new tensor of no content
        found = describe(func, args, kwargs, made, is_weight=lambda t: t.untyped_storage()._cdata in self._parameters)
        if found is None:
            return
        name, kind, dims, flops = found
        cached = sum(size for number, size in reads.items() if number in self._cached)
        self._add(
            name,
            kind,
            dims,
            read=sum(reads.values()) - cached,
            read_kv=cached,
            outputs=made,
            weights=weights,
            reads=tuple(reads),
            flops=flops,
        )

    def _add(
        self,
        name: str,
        kind: str,
        dims: dict[str, float],
        *,
        read: float,
        outputs: list[torch.Tensor],
        weights: dict[int, tuple[str, float]] | None = None,
        reads: tuple[int, ...] = (),
        read_kv: float = 0.0,
        flags: tuple[tuple[str, Any], ...] = (),
        flops: float = 0.0,
    ) -> None:
        if self._scope is not None:  # an op of ours inside a collapsed module
            for number in reads:
                if number not in self._scope.made:
                    self._scope.reads.setdefault(number, 0.0)
            self._scope.made.update(self._number(t) for t in outputs)
            return
        writes = tuple(dict.fromkeys(self._number(t) for t in outputs))
        event = Event(
            site=self._site(),
            name=name,
            kind=kind,
            dims=dims,
            flags=flags,
            read=read,
            write=sum(_size(t) for t in outputs),
            read_kv=read_kv,
            weights=weights or {},
            reads=reads,
            writes=writes,
            flops=flops,
        )
        event.alive = self._alive - sum(self._sizes.get(number, 0.0) for number in self._cached)
        for number in writes:
            self._writer[number] = event
        events = self.events.setdefault(self._layer, [])
        event.order = len(events)
        events.append(event)


@lru_cache(maxsize=8192)
def _call(code: CodeType, instruction: int) -> int:
    """Where a call begins: Python 3.11 makes some from PRECALL once it has specialised them, from CALL before."""
    before = instruction - 4
    if _PRECALL is not None and before >= 0 and code.co_code[before] == _PRECALL:
        return before
    return instruction


def _positions(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices whose masks are positions."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype is torch.bool and not index.is_meta
        found += list(index.nonzero(as_tuple=True)) if index is not None and is_mask else [index]
    return found


def _rows(x: torch.Tensor) -> dict[str, float]:
    return {"rows": x.numel() / x.shape[-1], "width": x.shape[-1]}


def _forward_code(module: nn.Module | None) -> Any:
    if module is None:
        return None
    forward: Any = type(module).forward
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    return getattr(forward, "__code__", None)


def _scope_of(module: nn.Module) -> tuple[str, str, bool]:
    """(name, kind, whether it is left out) of a module recorded as one op; an empty kind for any other."""
    name = type(module).__name__
    if _ANGLES.search(name) and "Attention" not in name:
        return "angles", "angles", True
    children = list(module.children())
    if not children and "Norm" in name and "Gated" not in name:
        layer_norm = isinstance(module, nn.LayerNorm) or ("LayerNorm" in name and hasattr(module, "bias"))
        return "norm", "layer_norm" if layer_norm else "rms_norm", False
    place = type(module).__module__
    if place == "transformers.activations" or place.startswith("torch.nn.modules.activation"):
        if isinstance(module, nn.Identity) or name in ("Softmax", "MultiheadAttention"):
            return "", "", False
        return "act:" + name, "activation", False
    return "", "", False


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def _registered(interface: Any, make: Callable[[Any], Any]) -> Iterator[None]:
    """A function of ours under `IMPLEMENTATION`, for as long as the context lasts."""
    interface.register(IMPLEMENTATION, make(None))
    try:
        yield
    finally:
        interface._global_mapping.pop(IMPLEMENTATION, None)
