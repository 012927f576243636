"""FLOPs of a prompt by the formulas of papers on token reduction: what they print, beside what is executed.

Of a layer with n tokens, hidden size d and an MLP of width m they count

    4·n·d² + 2·n²·d + 2·n·d·m        queries, keys, values and output; scores and values; two MLP matrices

or a third MLP matrix. All of them count a multiply-add once, take as many key and value heads as query heads, attend to
the full square, and leave out tower, projector, lm_head and what chooses tokens. They differ in which tokens n counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidValueError, UnknownNameError
from ..frozen import dataclass
from ..inputs.run import Run

__all__ = ["FORMULAS", "Formula", "flops_by_formula", "formulas_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """One paper's formula.

    Attributes
    ----------
    name, source
        Of the paper; where the formula stands.
    mlp_matrices
        Matrices of width m that it counts.
    text_counts
        Whether n is the whole sequence; otherwise the visual tokens, newlines among them.
    """

    name: str
    source: str
    mlp_matrices: int = 2
    text_counts: bool = True

    @property
    def stated(self) -> str:
        """The formula in one line, with what n is."""
        n = "all tokens of the layer" if self.text_counts else "the layer's visual tokens alone"
        return f"Σ 4nd² + 2n²d + {self.mlp_matrices}ndm over layers, n {n}, a multiply-add counted once"

    def flops(self, run: Run) -> float:
        """Of all prompts of a run, by the schedule's tokens of each layer.

        Raises
        ------
        InvalidValueError
            The run has a cached prefix: papers count whole prompts.
        """
        if run.workload.cached_tokens:
            what = f"omitted with the formula of {self.name}, which counts whole prompts"
            raise InvalidValueError("workload.cached_tokens", what, run.workload.cached_tokens)
        decoder, schedule = run.model.decoder, run.schedule
        d, m = float(decoder.hidden), float(decoder.intermediate)
        left_out = 0 if self.text_counts else schedule.text_tokens
        tokens = [float(tokens - left_out) for tokens in schedule.tokens]
        return run.workload.batch * sum(4 * n * d**2 + 2 * n**2 * d + self.mlp_matrices * n * d * m for n in tokens)


FORMULAS = {
    formula.name: formula
    for formula in (
        Formula(name="fastv", source="arXiv 2403.06764, equation 5"),
        Formula(name="divprune", source="arXiv 2503.02175; github.com/vbdi/divprune at 799e2d9, tflops.py"),
        Formula(
            name="sparsevlm",
            source="arXiv 2410.04417; github.com/Gumpest/SparseVLMs at 14cb5a9, modelling_sparse_llama.py",
            mlp_matrices=3,
        ),
        # its 40.8 T are of 32 · 196 visual tokens; decoding is a figure apart there
        Formula(
            name="holitom",
            source="arXiv 2505.21334; github.com/cokeshao/HoliTom issue 2, the prefilling figure",
            text_counts=False,
        ),
    )
}


def formulas_of(names: Iterable[str]) -> list[Formula]:
    """The formulas of these names, each once.

    Raises
    ------
    UnknownNameError
        No paper of that name.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in FORMULAS:
            raise UnknownNameError("formula", name, list(FORMULAS))
    return [FORMULAS[name] for name in wanted]


def flops_by_formula(run: Run, names: Iterable[str] = tuple(FORMULAS)) -> dict[str, float]:
    """FLOPs of a run's prompts by the formula of each paper named."""
    return {formula.name: formula.flops(run) for formula in formulas_of(names)}
