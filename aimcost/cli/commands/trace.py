"""``aimcost trace``: trace any transformers model into a model file."""

from __future__ import annotations

from typing import Annotated

from ..common import app, progress_bar, require_apart, say
from ..options import Argument, Option


@app.command()
def trace(
    config: Annotated[str, Argument(help="A config.json, its folder, or a model's name.")],
    output: Annotated[
        str | None, Option("--output", "-o", metavar="FILE", help="Model file to write. Default: print.")
    ] = None,
) -> None:
    """Trace any transformers model into a model file."""
    require_apart([("CONFIG", config)], output=output)
    from ...extras import torch_module
    from ...inputs.files import write_atomically
    from ...inputs.model import load_model, model_config
    from ...report.export import to_json

    with progress_bar() as step:
        step(0, 3, "loading torch and transformers")
        tracer = torch_module("aimcost.tracing.trace", "tracing a model")
        step(1, 3, f"tracing {config}")
        traced = tracer.trace(model_config(config))
        step(3, 3, "traced")
    text = to_json(traced) + "\n"
    if output is None:
        say(text, end="")
        return
    write_atomically(output, text)
    decoder = load_model(output).decoder
    kinds = len(decoder.traced.kinds) if decoder.traced is not None else 0
    say(
        f"{output}: {traced['architecture']}, {traced['parameters']:,.0f} parameters, "
        f"{decoder.layers} layers of {kinds} {'kind' if kinds == 1 else 'kinds'}"
    )
