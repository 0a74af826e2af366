"""A trial must leave the process as it found it, and must not depend on what it found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated(device: str, threads: int, seed: int) -> Iterator[None]:
    """Give a stretch of a trial a global state of its own, and put the process's back after it.

    Inside: the global generators of torch, numpy and Python start from `seed` (dropout and
    initialisers draw from torch's), algorithms are deterministic, gradients are on, new tensors
    are float32, and `threads` CPU threads are used. A task leaves the stretch before it yields,
    so that its caller never runs in a trial's state.

    Args:
        device: the trial's torch device string.
        threads: CPU threads of torch's operations.
        seed: from `Context.stream`.
    """
    before = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
    )
    # numpy's generator is exchanged, not rewound: a hundred times faster, and this is done each
    # epoch. For the same reason torch's is seeded directly; `torch.manual_seed` seeks other devices.
    numpy_generator, python_state = np.random.get_bit_generator(), random.getstate()
    on_cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []), torch.enable_grad():
        try:
            torch.default_generator.manual_seed(seed)
            if on_cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            np.random.set_bit_generator(np.random.MT19937(seed))
            random.seed(seed)
            torch.set_num_threads(threads)
            torch.set_default_dtype(torch.float32)
            # On CUDA some operations have no deterministic form: these warn instead of raising.
            # (`use_deterministic_algorithms` says the same, and imports the compiler to do so.)
            torch.set_deterministic_debug_mode("warn" if on_cuda else "error")
            # It costs time, and nothing here reads uninitialised memory.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            threads_before, dtype, deterministic, fill, benchmark = before
            torch.set_num_threads(threads_before)
            torch.set_default_dtype(dtype)
            torch.set_deterministic_debug_mode(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = benchmark
            np.random.set_bit_generator(numpy_generator)
            random.setstate(python_state)
