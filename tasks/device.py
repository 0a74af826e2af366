"""Which torch device an attempt computes on."""

from __future__ import annotations


def choose_device(gpus: float) -> str:
    """Name the device for an attempt that was given `gpus` GPUs (a fraction shares one).

    Ray makes the granted ones visible to the process, so the first visible one is ours. A logical
    GPU, without hardware behind it, computes on the CPU.
    """
    if gpus <= 0:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
