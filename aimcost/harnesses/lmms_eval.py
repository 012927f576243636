"""lmms-eval plug-in: ``--model aimcost`` runs one of its transformers models with visual tokens dropped.

    lmms-eval --model aimcost --tasks mme --batch_size 1 \\
        --model_args pretrained=llava-hf/llava-1.5-7b-hf,method=aim,method.l1=14,method.l2=22

``method`` and ``method.KEY`` are those of a run file; without them the model is unreduced. ``base`` names the model of
lmms-eval that is wrapped, by default the one for the checkpoint's ``model_type``; it is given every other argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.utils import simple_parse_args_string
from transformers import AutoConfig

from ..errors import InvalidValueError, UnknownNameError
from ..inputs.method_arguments import method_in
from .reducing import reduced

__all__ = ["MANIFEST", "AimcostChat", "AimcostSimple"]

BASES = {
    "internvl": "internvl_hf",
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen2_vl": "qwen2_vl",
    "qwen3_vl": "qwen3_vl",
}
_REQUESTS = ("generate_until", "generate_until_multi_round", "loglikelihood")


class AimcostSimple(lmms):
    """Makes another model's instance, reduced; never instantiated itself."""

    is_simple = True

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """The wrapped model, whose requests run inside `reduced`.

        Raises
        ------
        InvalidValueError, UnknownNameError
            No ``pretrained``, a ``model_type`` without a base, or a method that cannot be read.
        """
        from lmms_eval.models import get_model  # which reads the entry points, and so this module, while it is imported

        arguments = simple_parse_args_string(arg_string)
        method = method_in(arguments)
        if method is not None and not isinstance(method.get("name"), str):
            raise InvalidValueError("method", "given with its name", method)
        rest = {key: value for key, value in arguments.items() if key.partition(".")[0] != "method"}
        base = rest.pop("base", None) or _base_of(rest)
        more = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if base == "llava_hf" and "device" in more:
            # its default, an empty text, is refused by transformers 5
            rest.setdefault("device_map", more["device"])
        model = get_model(base, force_simple=cls.is_simple)(**rest, **more)
        for name in _REQUESTS:
            setattr(model, name, _inside(model, getattr(model, name), method))
        return model

    # What the abstract base asks for; the wrapped model has its own.

    def loglikelihood(self, requests: list[Any]) -> Any:
        """Of the wrapped model."""
        raise NotImplementedError

    generate_until = generate_until_multi_round = loglikelihood


class AimcostChat(AimcostSimple):
    """The same for models that take chat messages."""

    is_simple = False


def _base_of(arguments: Mapping[str, Any]) -> str:
    pretrained = arguments.get("pretrained")
    if not isinstance(pretrained, str):
        raise InvalidValueError("pretrained", "given: a checkpoint's name or folder", pretrained)
    kind = AutoConfig.from_pretrained(pretrained).model_type
    if kind not in BASES:
        raise UnknownNameError("model_type", kind, BASES, remedy="base=NAME names a model of lmms-eval's")
    return BASES[kind]


def _inside(model: Any, requests: Callable[..., Any], method: Mapping[str, Any] | None) -> Callable[..., Any]:
    @wraps(requests)
    def run(*args: Any, **kwargs: Any) -> Any:
        with reduced(model.model, method):
            return requests(*args, **kwargs)

    return run


MANIFEST = ModelManifest(
    model_id="aimcost",
    simple_class_path=f"{__name__}.{AimcostSimple.__name__}",
    chat_class_path=f"{__name__}.{AimcostChat.__name__}",
)
