"""The native forward allocates nothing after the first at its size: counted by a preloaded allocator.

It counts for the calling thread. Workers run the same code, but one that comes back to an ended forward leaves it by an
exception, which has memory of its own for that long.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/mman.h>
static _Thread_local long count;
long allocations(void) { return count; }
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
void* malloc(size_t n) { ++count; return __libc_malloc(n); }
void* calloc(size_t n, size_t m) { ++count; return __libc_calloc(n, m); }
void* realloc(void* p, size_t n) { ++count; return __libc_realloc(p, n); }
void* memalign(size_t a, size_t n) { ++count; return __libc_memalign(a, n); }
void* aligned_alloc(size_t a, size_t n) { ++count; return __libc_memalign(a, n); }
int posix_memalign(void** p, size_t a, size_t n) { ++count; *p = __libc_memalign(a, n); return *p ? 0 : 12; }
void* mmap(void* a, size_t n, int p, int f, int d, off_t o) {
  static void* (*real)(void*, size_t, int, int, int, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "mmap");
  ++count;
  return real(a, n, p, f, d, o);
}
"""

SCRIPT = r"""
import ctypes
import numpy as np
from distilrt.backends.cpu import CpuBackend
from distilrt.batch import pack
from distilrt.checkpoint.weights import random_weights
from distilrt.model.config import DistilBertConfig

config = DistilBertConfig(dim=64, n_heads=2, n_layers=3, hidden_dim=128, vocab_size=99)
backend = CpuBackend(config, random_weights(config, "DistilBertModel"), num_threads=2)
batch = pack(config, [np.arange(n) % 99 for n in (200, 3, 77)])
nothing = pack(config, [])  # the same call, but the native side returns at once
allocations = ctypes.PyDLL(None).allocations


def cost(batch):
    backend.forward(batch)
    before = allocations()
    for _ in range(20):
        backend.forward(batch)
    return allocations() - before


costs = cost(nothing), cost(batch)
# The result's own memory, which NumPy takes from its cache when it is as small as nothing's.
assert costs[1] - costs[0] <= 20, costs
print("ok", costs)
"""


def test_forward_allocates_only_its_result(tmp_path: Path) -> None:
    source, library = tmp_path / "count.c", tmp_path / "count.so"
    source.write_text(COUNTER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONMALLOC": "pymalloc", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok"), done.stdout
