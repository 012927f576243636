"""The three device kernels of token reduction: merge, importance, select.

Each is a package of ``reference.py`` (plain PyTorch: the specification), ``triton_impl.py`` and a
dispatcher, its ``__init__``. The dispatcher validates before any work; ``path="auto"`` takes Triton
for CUDA tensors that it supports and PyTorch otherwise; ``path_for`` tells beforehand, without side
effects, which of the two "auto" takes. This module imports nothing, so that a build without PyTorch
can import it.
"""
