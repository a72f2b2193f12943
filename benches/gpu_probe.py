"""What a GPU can do, whatever the model: `python benches/gpu_probe.py [--out DIR] [--self-test]`, at most 3 minutes.

Needs what `gpu_suite.py` beside it needs, and behaves as that does without a device. What it measures:
`distilrt.bench.gpu.probe`.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

SUITE = Path(__file__).resolve().with_name("gpu_suite.py")

if __name__ == "__main__":
    if "--self-test" in sys.argv:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton looks when the kernels are defined
    with runpy.run_path(str(SUITE))["package"]():
        from distilrt.bench.gpu import probe

        sys.exit(probe.main())
