"""``aimcost compare``: compare GPUs and software stacks on one run."""

from __future__ import annotations

from itertools import product
from typing import Annotated

from ..common import (
    AttentionFlag,
    BatchFlag,
    CsvOption,
    EstimatorFlag,
    FormatFlag,
    FramesFlag,
    ImagesFlag,
    ImplementationFlag,
    JsonOption,
    MethodFlag,
    ModelFlag,
    NewTokensFlag,
    PipelineFlag,
    ReplicasFlag,
    ReportOption,
    RunArgument,
    SettingsOption,
    TensorFlag,
    TextTokensFlag,
    VisualTokensFlag,
    app,
    flag_of,
    format_asked,
    names_in,
    number_in,
    require_apart,
    resolve_flags,
    write_report,
)
from ..options import Context, Option

# Flags that take several values here.
_VARIED = ("frames", "images", "visual_tokens", "text_tokens", "new_tokens", "batch")


@app.command()
def compare(
    context: Context,
    run: RunArgument = None,
    hardware: Annotated[
        str | None, Option(help="Hardware profiles, comma-separated. Default: the run's.", complete=("hardware",))
    ] = None,
    stack: Annotated[
        str | None, Option(help="Software stacks, comma-separated. Default: the run's.", complete=("stack",))
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
    price: Annotated[
        str | None, Option("--price", metavar="MACHINE=PRICE,...", help="Price of a device an hour, by machine.")
    ] = None,
    currency: Annotated[str | None, Option("--currency", metavar="NAME", help="Currency of prices, e.g. USD.")] = None,
    as_csv: CsvOption = False,
    as_json: JsonOption = False,
    form: FormatFlag = None,
    output: ReportOption = None,
) -> None:
    """Compare GPUs, software stacks and workloads on one run.

    Time to first token with its band, bound, MFU, gain over no reduction, memory and cost. --frames, --images,
    --visual-tokens, --text-tokens, --new-tokens and --batch take several values, comma-separated.
    """
    from ...errors import InvalidValueError
    from ...pricing.comparison import compare_run
    from ...report.compare import compare_text
    from ...report.format import Report

    written = format_asked(form, as_json=as_json, as_csv=as_csv, output=output)
    require_apart([("RUN", run)], output=output)
    names, stacks = names_in("--hardware", hardware), names_in("--stack", stack)
    several = {key: names_in(flag_of(key), value) for key in _VARIED if "," in (value := context.params[key] or "")}
    workloads = (
        [
            {key: number_in(key, value) for key, value in zip(several, values, strict=True)}
            for values in product(*several.values())
        ]
        if several
        else []
    )
    if not names and not stacks and not workloads:
        raise InvalidValueError("--hardware", "given: comma-separated profiles (or --stack)", None)
    first = Context({**context.params, **{key: values[0] for key, values in several.items()}})
    resolved = resolve_flags(first, stack=stacks[0] if len(stacks) == 1 else None)
    rows = compare_run(resolved, names, stacks, workloads=workloads, prices=_prices(price), currency=currency or "")
    report = Report(text=lambda: compare_text(resolved, rows), data=lambda: rows, rows=lambda: rows)
    write_report(report, written, output)


def _prices(given: str | None) -> dict[str, float]:
    from ...errors import InvalidValueError

    prices = {}
    for part in names_in("--price", given):
        machine, equals, price = part.partition("=")
        try:
            prices[machine.strip()] = float(price) if equals else float("nan")
        except ValueError:
            prices[machine.strip()] = float("nan")
        if not prices[machine.strip()] > 0:
            raise InvalidValueError("--price", "MACHINE=PRICE, such as nvidia_l4=0.71", part)
    return prices
