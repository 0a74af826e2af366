"""Functions of bits: PARITY, MAJORITY, FIRST, MEAN, random ones, and ones given by a truth table.

Values are in {0, 1}, of MEAN in [0, 1]. The row of a truth table is the number that the bits spell,
the first bit being the highest. Definitions as in Hahn and Rofin (ACL 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sensweep.tasks.api import TaskError

# Longest string whose truth table is written out: 2^20 rows.
LONGEST_TABLE = 20
_MASK, _WORD = 0x7FFF_FFFF_FFFF_FFFF, 62


class Target(NamedTuple):
    """A function of bits, as a checkpoint keeps it.

    Attributes:
        function: ``parity`` (is the number of ones odd), ``majority`` (are more than half of the
            bits ones; no on a tie), ``first`` (the first bit), ``mean`` (the fraction of ones),
            ``random`` (a coin thrown for each string), or ``table``.
        function_seed: which of the random functions.
        table: of ``table``, float32 [2^n]; else None.
    """

    function: str
    function_seed: int = 0
    table: Tensor | None = None

    def values(self, bits: Tensor) -> Tensor:
        """Give the values, float32 [N], at strings int64 [N, n]."""
        if self.table is not None:
            return self.table[rows(bits)]
        if self.function == "random":
            return _coins(bits, self.function_seed)
        ones, n = bits.sum(1), bits.shape[1]
        if self.function == "parity":
            return (ones % 2).float()
        if self.function == "majority":
            return (2 * ones > n).float()
        return bits[:, 0].float() if self.function == "first" else ones / n

    def prefix_values(self, bits: Tensor) -> Tensor:
        """Give the values at every prefix, float32 [N, n]; the last column is `values`."""
        lengths = range(1, bits.shape[1] + 1)
        return torch.stack([self.values(bits[:, :length]) for length in lengths], dim=1)

    def tolerance(self, n: int) -> float:
        """Half the least distance of two values: an answer nearer than this is the right one."""
        return 0.5 / n if self.function == "mean" else 0.5


def all_strings(n: int) -> Tensor:
    """Give every string of n bits in the order of the truth table, int64 [2^n, n].

    Raises:
        TaskError: n is above LONGEST_TABLE.
    """
    if n > LONGEST_TABLE:
        raise TaskError(f"the truth table of {n} bits is too long; wanted at most {LONGEST_TABLE}")
    return strings(torch.arange(2**n), n)


def strings(numbers: Tensor, n: int) -> Tensor:
    """Write numbers [N] as strings of n bits, int64 [N, n]; the inverse of `rows`."""
    return numbers[:, None] >> torch.arange(n - 1, -1, -1, device=numbers.device) & 1


def rows(bits: Tensor) -> Tensor:
    """Give the rows of a truth table, int64 [N], at which strings [N, n] stand."""
    n = bits.shape[1]
    return (bits << torch.arange(n - 1, -1, -1, device=bits.device)).sum(1)


def random_strings(count: int, n: int, generator: Generator) -> Tensor:
    """Draw strings of fair, independent bits, int64 [count, n], from a CPU generator."""
    return torch.randint(2, (count, n), generator=generator)


def random_completion(table: Tensor, known: Tensor, generator: Generator) -> Tensor:
    """Keep a truth table [2^n] at the rows `known`, and throw a coin for every other row."""
    completed = torch.randint(2, table.shape, generator=generator).to(table)
    completed[known] = table[known]
    return completed


def _coins(bits: Tensor, seed: int) -> Tensor:
    """Throw the coin of a string: the lowest bit of a hash of its length, its bits and the seed.

    So a random function of any length needs no table. The mixing step is that of splitmix64
    (Steele, Lea and Flood, 2014).
    """
    state = torch.full((len(bits),), seed, dtype=torch.int64, device=bits.device)
    state = _mix(state) + bits.shape[1]
    for word in bits.split(_WORD, dim=1):
        state = _mix(state ^ rows(word))
    return (_mix(state) & 1).float()


def _mix(x: Tensor) -> Tensor:
    """Mix the bits of int64 numbers; products wrap, and shifts are of unsigned numbers."""
    x = x + -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift & (_MASK >> (shift - 1)))) * factor
    return x ^ (x >> 31 & (_MASK >> 30))
