"""A profile's ``calibration`` block → time models; a card without one inherits a relative's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CalibrationError, FileFormatError
from ..frozen import dataclass
from ..inputs.discover import not_shipped
from ..inputs.files import Stamp, read_json, stamp_of
from ..inputs.hardware import load_hardware
from ..types import HardwareSpec
from .attained import Attained, attained_of
from .inheritance import BUS_PARENT, kinship_of, parent_of, widening
from .timemodels.attention import AttentionModel
from .timemodels.collective import CollectiveModel
from .timemodels.gemm import GemmModel
from .timemodels.measured import FORM, AttentionGrid, CurveSet, GemmGrid
from .timemodels.memory_bound import KernelModel, Machine
from .timemodels.tables import Provenance, number

__all__ = ["FP32_FILE", "MEMORY_BOUND_FILE", "Calibration", "calibration_of", "timed_kinds"]

MEMORY_BOUND_FILE = "tables/memory_bound.json"
FP32_FILE = "tables/products_fp32.json"
ATTENTIONS = ("attention", "encoder_attention", "decode_attention")
# Blackwell cards without a printed clock: another of the same chip family.
CLOCK_OF = {
    "nvidia_b300_sxm": "nvidia_b200_sxm",
    "nvidia_gb300": "nvidia_gb200",
    "nvidia_rtx_pro_6000_blackwell_server": "nvidia_rtx_5090",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Time models of a machine.

    Attributes
    ----------
    gemm
        By number format.
    attention, encoder_attention, decode_attention
        By head width, of the kernel that the profile names as its default.
    memory_bound, machine
        Memory-bound kernels by kind of operation, and what they know of the card.
    measured
        What was timed on this card: ``gemm <format>``, ``attention``, ``encoder_attention``, ``decode_attention``,
        ``collective``, and kinds of memory-bound kernels.
    encoder_lender
        The card whose encoder attention a measured card without such tables takes; empty: none.
    collective, collective_link
        What ranks exchange, or None where it was not measured; bytes/s of the link of its curves.
    inherited_from
        The card whose coefficients these are, if not its own.
    widen
        (low, high) factors on the band where inherited, 1 otherwise.
    lenders
        Names of the cards that lend it coefficients, and of those that lend to them.
    """

    gemm: Mapping[str, GemmModel | GemmGrid]
    attention: Mapping[int, AttentionModel | AttentionGrid]
    encoder_attention: Mapping[int, AttentionModel | AttentionGrid]
    decode_attention: Mapping[int, AttentionModel | AttentionGrid]
    memory_bound: Mapping[str, KernelModel | CurveSet]
    machine: Machine
    scale: Mapping[str, float]
    source: str
    measured: frozenset[str] = frozenset()
    encoder_lender: str = ""
    collective: CollectiveModel | None = None
    collective_link: float = 0.0
    inherited_from: str | None = None
    widen: tuple[float, float] = (1.0, 1.0)
    lenders: frozenset[str] = frozenset()

    def shadowing_lenders(self) -> dict[str, Path]:
        """Path by lender, of those for which a file of the user takes the place of a shipped one of that name."""
        found = {name: not_shipped("hardware", name) for name in sorted(self.lenders)}
        return {name: file[0] for name, file in found.items() if file is not None and file[1]}


# By identity of the profile's block: the block, the stamp of its tables file, and what they hold.
_parsed: dict[int, tuple[Mapping[str, Any], Stamp | None, Calibration]] = {}


def calibration_of(hardware: HardwareSpec) -> Calibration:
    """The time models of a machine, its own or inherited.

    Raises
    ------
    CalibrationError
        Coefficients that cannot be true, or that name no source.
    """
    if not hardware.calibration:
        return _inherited(hardware)
    held, stamp = _parsed.get(id(hardware.calibration)), _tables_stamp(hardware)
    if held is None or held[0] is not hardware.calibration or held[1] != stamp:
        held = (hardware.calibration, stamp, _parse(hardware))
        _parsed[id(hardware.calibration)] = held
    return held[2]


def _tables_stamp(hardware: HardwareSpec) -> Stamp | None:
    """Of the correction tables beside the profile; None without such a file."""
    given = (hardware.calibration or {}).get("tables")
    try:
        return stamp_of(f"{hardware.folder}/{given}") if isinstance(given, str) else None
    except OSError:
        return None  # reading it says what is wrong


class _Lent(NamedTuple):
    """What a card inherits, and what it was worked out from."""

    hardware: HardwareSpec
    own: Calibration
    links: Calibration
    widen: tuple[float, float]
    calibration: Calibration

    def holds(self, *given: Any) -> bool:
        """Whether these are what it was worked out from: the same machine and coefficients, and an equal band."""
        return all(one is other for one, other in zip(self[:3], given[:3], strict=True)) and self.widen == given[3]


# By identity of a machine.
_lent: dict[int, _Lent] = {}
_MOST_LENT = 64


def _inherited(hardware: HardwareSpec) -> Calibration:
    """A relative's coefficients, carried by the shares of their datasheets that both cards attain; once a machine."""
    parent = load_hardware(parent_of(hardware))
    own, widen = calibration_of(parent), widening(parent, kinship_of(hardware, parent))
    # a switchless bus is no slow NVLink: its curves come from a card on such a bus
    alike = hardware.interconnect.startswith("pcie") == parent.interconnect.startswith("pcie")
    links = own if alike or not hardware.interconnect else calibration_of(load_hardware(BUS_PARENT))
    held = _lent.get(id(hardware))
    if held is None or not held.holds(hardware, own, links, widen):
        if len(_lent) >= _MOST_LENT:
            _lent.clear()
        held = _Lent(hardware, own, links, widen, _carried_over(hardware, parent, own, links, widen))
        _lent[id(hardware)] = held
    return held.calibration


def _carried_over(
    hardware: HardwareSpec, parent: HardwareSpec, own: Calibration, links: Calibration, widen: tuple[float, float]
) -> Calibration:
    theirs, mine = attained_of(parent), attained_of(hardware)
    rate = _ratio(mine, theirs, "tensor")
    # a mean over cards of the design tells its boards apart no better than one of them does
    own_memory = mine.memory is not None and (
        mine.memory.basis == "timed" or hardware.architecture != parent.architecture
    )
    memory = _ratio(mine, theirs, "memory") if own_memory else 1.0
    prefill = {width: _carried(model, rate, memory) for width, model in own.attention.items()}
    if _without_flash(hardware):
        prefill = {width: _memory_efficient(model, own.attention[width]) for width, model in prefill.items()}
    return replace(
        own,
        gemm={
            dtype: _carried(model, _ratio(mine, theirs, "fp32") if dtype == "fp32" else rate, memory)
            for dtype, model in own.gemm.items()
        },
        attention=prefill,
        encoder_attention={width: _carried(model, rate, memory) for width, model in own.encoder_attention.items()}
        if not _without_flash(hardware)
        else prefill,
        decode_attention={width: _carried(model, 1.0, memory) for width, model in own.decode_attention.items()},
        machine=_machine(hardware, parent, own.machine.reuse),
        inherited_from=parent.name,
        widen=widen,
        measured=_timed(hardware),
        lenders=frozenset((parent.name,)) | own.lenders | (links.lenders if links is own else {BUS_PARENT}),
        collective=links.collective,
        collective_link=links.collective_link,
    )


def _ratio(mine: Attained, theirs: Attained, name: str) -> float:
    first, second = getattr(mine, name), getattr(theirs, name)
    return float(first.share / second.share) if first is not None and second is not None else 1.0


def _carried(model: Any, rate: float, memory: float) -> Any:
    return model.carried(rate, memory) if isinstance(model, GemmModel | AttentionModel) else model


# FlashAttention needs compute capability 8.0. Below it PyTorch's memory-efficient kernel runs: about 0.3 of the tensor
# peak on the pairs that the mask lets through. Assumed: no table holds it; InfoMerge's V100 prefill is what it was held
# against.
MEMORY_EFFICIENT, MEMORY_EFFICIENT_BAND = 0.30, (0.6, 1.7)


def _without_flash(hardware: HardwareSpec) -> bool:
    major = hardware.compute_capability.split(".")[0]
    return hardware.architecture in ("volta", "turing") or (major.isdigit() and int(major) < 8)


def _memory_efficient(model: Any, parent: Any) -> Any:
    if not isinstance(model, AttentionModel):
        return model
    low, high = MEMORY_EFFICIENT_BAND
    evidence = Provenance("assumed: PyTorch's memory-efficient attention", "", low, high, 0.0)
    return replace(model, efficiency=MEMORY_EFFICIENT, provenance=evidence)


def _machine(hardware: HardwareSpec, parent: HardwareSpec | None, reuse: float) -> Machine:
    """What memory-bound kernels know of a card; clock and multiprocessors of its relative where it states none."""
    memory = attained_of(hardware).memory
    # a profile without a calibration attains the shares of the card it inherits from
    if memory is None and parent is not None:
        memory = attained_of(parent).memory
    clock = hardware.boost_clock_hz or (parent.boost_clock_hz if parent is not None else 0.0) or 1.8e9
    return Machine(
        bandwidth=hardware.memory_bytes_per_s * (memory.share if memory is not None else 1.0),
        cycles_per_s=clock,
        sm_count=hardware.sm_count or (parent.sm_count if parent is not None else 0) or 1,
        l2_bytes=hardware.l2_bytes,
        reuse=reuse,
    )


def _parse(hardware: HardwareSpec) -> Calibration:
    block, where = hardware.calibration or {}, f"{hardware.name}: calibration"
    if not str(block.get("source", "")).strip():
        raise CalibrationError(f"{where}: has no 'source'")
    tables = _tables(hardware, block, where)

    def section(name: str) -> Mapping[str, Any]:
        value = block.get(name, {})
        if not isinstance(value, Mapping):
            raise CalibrationError(f"{where}.{name}: must be a mapping")
        return value

    def attention(name: str) -> dict[int, AttentionModel | AttentionGrid]:
        kernels = section(name)
        if "inherits" in kernels:
            return _borrowed_encoder(kernels, where=f"{where}.{name}")
        chosen = kernels.get("default")
        widths = kernels.get(chosen, {}) if chosen is not None else {}
        if chosen is not None and not isinstance(widths, Mapping):
            raise CalibrationError(f"{where}.{name}: default {chosen!r} is not among its kernels")
        return {
            int(width): _form(values, AttentionGrid, AttentionModel).of(
                values, tables.get(f"{name}/{chosen}/{width}", {}), where=f"{where}.{name}.{chosen}.{width}"
            )
            for width, values in widths.items()
        }

    exchanges = section("collective")
    shared = _read_shared(_beside(hardware, MEMORY_BOUND_FILE), "kinds") if hardware.architecture != "cpu" else {}
    machine = _machine(hardware, _relative(hardware), float(shared.get("reuse", 0.0)))
    kernels = section("bandwidth")
    place = f"{where}.bandwidth" if kernels else MEMORY_BOUND_FILE
    memory_bound: dict[str, KernelModel | CurveSet] = {
        kind: CurveSet.of(values, where=f"{place}.{kind}")
        if _form(values, True, False)
        else KernelModel.of(values, where=f"{place}.{kind}", clock_hz=machine.cycles_per_s)
        for kind, values in (kernels or shared.get("kinds", {})).items()
    }
    gemm = {
        dtype: _form(values, GemmGrid, GemmModel).of(
            values, tables.get(f"gemm/{dtype}", {}), where=f"{where}.gemm.{dtype}"
        )
        for dtype, values in section("gemm").items()
    }
    cuda_cores = attained_of(hardware).fp32
    if gemm and "fp32" not in gemm and cuda_cores is not None:
        formula = _read_shared(_beside(hardware, FP32_FILE), "products")
        model = GemmModel.of(formula["products"], {}, where=FP32_FILE)
        gemm["fp32"] = model.carried(cuda_cores.share / number(formula, "share", 0.01, 1.05, where=FP32_FILE), 1.0)
    return Calibration(
        gemm=gemm,
        attention=attention("attention"),
        encoder_attention=attention("encoder_attention"),
        decode_attention=attention("decode_attention"),
        memory_bound=memory_bound,
        machine=machine,
        measured=_measured(hardware, section, memory_bound),
        encoder_lender=str(section("encoder_attention").get("inherits", "")),
        scale={str(kind): float(value) for kind, value in section("scale").items()},
        source=str(block["source"]),
        collective=CollectiveModel.of(exchanges, where=f"{where}.collective") if exchanges else None,
        collective_link=hardware.interconnect_bytes_per_s,
        lenders=_lenders(section),
    )


def _lenders(section: Callable[[str], Mapping[str, Any]]) -> frozenset[str]:
    """The cards whose attention a measured card takes, and those that lend to them."""
    names = frozenset(str(section(name)["inherits"]) for name in ATTENTIONS if "inherits" in section(name))
    return names.union(*(calibration_of(load_hardware(name)).lenders for name in names))


def _borrowed_encoder(data: Mapping[str, Any], *, where: str) -> dict[int, AttentionModel | AttentionGrid]:
    """Encoder attention of a card that ran the same kernel, times the ratio of that kernel's causal rate."""
    rate = number(data, "rate", 0.1, 10.0, where=where)
    evidence = Provenance.of(data, where=where)
    lender = calibration_of(load_hardware(str(data["inherits"])))
    return {
        width: replace(model.carried(rate, 1.0), provenance=evidence)
        for width, model in lender.encoder_attention.items()
        if isinstance(model, AttentionModel)
    }


def _relative(hardware: HardwareSpec) -> HardwareSpec | None:
    """A card that lends a clock where the profile states none; none to itself, none to other makers' cards."""
    if hardware.boost_clock_hz or hardware.vendor != "nvidia":
        return None
    parent = parent_of(hardware)
    return load_hardware(CLOCK_OF.get(hardware.name, parent)) if parent != hardware.name else None


def _measured(
    hardware: HardwareSpec, section: Any, memory_bound: Mapping[str, KernelModel | CurveSet]
) -> frozenset[str]:
    """What was timed on this card: formats of products, stages of attention, kinds of kernels."""
    found = {f"gemm {dtype}" for dtype in section("gemm")}
    for name in ATTENTIONS:
        if section(name) and "inherits" not in section(name):
            found.add(name)
    if section("collective"):
        found.add("collective")
    found |= {kind for kind, model in memory_bound.items() if isinstance(model, CurveSet)}
    return frozenset(found) | _timed(hardware)


def _timed(hardware: HardwareSpec) -> frozenset[str]:
    """What published kernels timed on this card, beside any tables."""
    cuda_cores = attained_of(hardware).fp32
    return frozenset(timed_kinds(hardware)) | (
        {"gemm fp32"} if cuda_cores is not None and cuda_cores.basis == "timed" else frozenset()
    )


def timed_kinds(hardware: HardwareSpec) -> list[str]:
    """Kinds of memory-bound kernels that were timed on this card."""
    return [str(kind) for kind in ((hardware.attained or {}).get("memory") or {}).get("kinds", [])]


def _beside(hardware: HardwareSpec, name: str) -> str:
    """A file that all cards share: beside the profile, else beside the shipped ones."""
    own = Path(hardware.folder) / name
    return str(own if hardware.folder and own.is_file() else Path(load_hardware(BUS_PARENT).folder) / name)


@lru_cache(maxsize=8)
def _read_shared(path: str, key: str) -> Mapping[str, Any]:
    data = read_json(Path(path))
    if not isinstance(data.get(key), Mapping):
        raise FileFormatError(f"{path}: holds no {key!r}")
    return data


def _form(values: Any, grid: Any, formula: Any) -> Any:
    """The class that reads an entry: a measured grid, or the formula with its corrections."""
    return grid if isinstance(values, Mapping) and values.get("form") == FORM else formula


def _tables(hardware: HardwareSpec, block: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Correction tables, inline or in a JSON file beside the profile."""
    given = block.get("tables", {})
    if isinstance(given, Mapping):
        return given
    try:
        return read_json(Path(hardware.folder) / str(given))
    except FileFormatError as error:
        raise FileFormatError(f"{where}: {error}") from None
