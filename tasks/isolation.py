"""A trial must leave the process as it found it, and must not depend on what it found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from numpy.random import MT19937
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from sensweep.tasks.api import Context


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
    # This is done each epoch, so it must cost little: numpy's generator is exchanged, not rewound,
    # and torch's is seeded directly, for `torch.manual_seed` looks at every kind of device.
    numpy_generator, python_state = get_bit_generator(), random.getstate()
    on_cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []), torch.enable_grad():
        try:
            torch.default_generator.manual_seed(seed)
            if on_cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            set_bit_generator(MT19937(seed))
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
            set_bit_generator(numpy_generator)
            random.setstate(python_state)


def stream(context: Context, purpose: str, device: str) -> torch.Generator:
    """Make the generator of one purpose (`Context.stream`), at the start of its stream."""
    return torch.Generator(device).manual_seed(context.stream(purpose))
