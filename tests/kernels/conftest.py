"""Tests of what runs in Triton's interpreter need TRITON_INTERPRET=1 before Triton is imported.

`test_kernel_interpreter.py` runs the folder ``interpreted`` so, in a process of its own; elsewhere it
is not collected, and the rest of the suite sees an unchanged environment.
"""

import os
import sys
from pathlib import Path

# pytest's importlib mode leaves sys.path alone; the helpers kernel_*.py lie beside the tests.
sys.path.append(str(Path(__file__).parent))

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
