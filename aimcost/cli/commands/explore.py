"""``aimcost explore``: write a page in which a run can be explored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import (
    AttentionFlag,
    BatchFlag,
    EstimatorFlag,
    FramesFlag,
    ImagesFlag,
    ImplementationFlag,
    MethodFlag,
    ModelFlag,
    NewTokensFlag,
    PipelineFlag,
    ReplicasFlag,
    RunArgument,
    SettingsOption,
    TensorFlag,
    TextTokensFlag,
    VisualTokensFlag,
    app,
    names_in,
    progress_bar,
    require_apart,
    resolve_flags,
    say,
)
from ..options import Context, Option


@app.command()
def explore(
    context: Context,
    run: RunArgument = None,
    hardware: Annotated[
        str | None, Option(help="Profiles to show beside the run's, comma-separated.", complete=("hardware",))
    ] = None,
    stack: Annotated[
        str | None, Option(help="Stacks to show beside the run's, comma-separated.", complete=("stack",))
    ] = None,
    model: ModelFlag = None,
    estimator: EstimatorFlag = None,
    method: MethodFlag = None,
    attention: AttentionFlag = None,
    frames: FramesFlag = None,
    images: ImagesFlag = None,
    visual_tokens: VisualTokensFlag = None,
    text_tokens: TextTokensFlag = None,
    new_tokens: NewTokensFlag = None,
    batch: BatchFlag = None,
    implementation: ImplementationFlag = None,
    tp: TensorFlag = None,
    pp: PipelineFlag = None,
    dp: ReplicasFlag = None,
    settings: SettingsOption = None,
    output: Annotated[Path, Option("-o", "--output", metavar="FILE", help="Write the page there.")] = Path(
        "explore.html"
    ),
) -> None:
    """Write an interactive page of a run.

    One file that needs no network: tokens, time, FLOPs and KV cache by layer, every op, sliders for the method and
    the workload.
    """
    from ...inputs.files import write_atomically
    from ...report.web.explore import explore_page

    require_apart([("RUN", run)], output=output)
    resolved = resolve_flags(context, stack=None)
    with progress_bar() as progress:
        page = explore_page(
            [(run or "", resolved)],
            progress,
            hardware=names_in("--hardware", hardware),
            stacks=names_in("--stack", stack),
        )
    write_atomically(output, page)
    say(f"written: {output}")
