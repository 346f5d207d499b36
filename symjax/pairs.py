"""Pairs of members, given by their seeds."""

import itertools
from collections.abc import Sequence

import numpy as np

from symjax import checks
from symjax.errors import InputError

__all__ = ["all_pairs", "draw_pairs"]

MAX_PAIRS = 10**7  # all pairs are in memory


def all_pairs(
    seeds: Sequence[int], *, ordered: bool = True, seeds_b: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Return all pairs of two different seeds.

    Args:
      seeds: of the members, each once.
      ordered: whether (a, b) and (b, a) are different pairs. Otherwise the smaller seed is first.
      seeds_b: of the members of another zoo. With it, return all pairs (seed, seed_b).

    Raises:
      InputError: seeds that are not distinct integers from 0, or more than `MAX_PAIRS` pairs.

    Example:
        >>> from symjax.pairs import all_pairs
        >>> all_pairs([0, 1, 2], ordered=False)
        [(0, 1), (0, 2), (1, 2)]
    """
    seeds = checks.seeds(seeds)
    if seeds_b is not None:
        seeds_b = checks.seeds(seeds_b)
    if len(seeds) * (len(seeds) - 1 if seeds_b is None else len(seeds_b)) > MAX_PAIRS:
        raise InputError(f"seeds: got {len(seeds)}, expected so few that there are at most {MAX_PAIRS} ordered pairs")
    if seeds_b is not None:
        return list(itertools.product(seeds, seeds_b))
    if checks.flag("ordered", ordered):
        return list(itertools.permutations(seeds, 2))
    return list(itertools.combinations(sorted(seeds), 2))


def draw_pairs(
    seeds: Sequence[int],
    count: int | str,
    seed: int = 0,
    *,
    ordered: bool = True,
    seeds_b: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """Draw `count` pairs without replacement. For one seed, a longer draw begins with the pairs of a shorter one.

    Args:
      seeds: of the members, each once.
      count: the number of pairs, an integer or its digits; "all" returns all pairs in the order of `all_pairs`.
      seed: of the random numbers.
      ordered, seeds_b: see `all_pairs`.

    Raises:
      InputError: fewer than two members, more pairs than exist, or an invalid seed.

    Example:
        >>> from symjax.pairs import draw_pairs
        >>> len(draw_pairs(range(4), 5))
        5
    """
    seed = checks.integer("pair_seed", seed, 0, 2**32 - 1)
    pairs = all_pairs(seeds, ordered=ordered, seeds_b=seeds_b)
    if not pairs:
        raise InputError(f"seeds: got {len(seeds)} member, expected two or more for a pair")
    if isinstance(count, str) and count == "all":
        return pairs
    number = int(count) if isinstance(count, str) and count.isdecimal() and len(count) <= 20 else count
    if not checks.is_integer(number) or not 1 <= number <= len(pairs):
        expected = f"1 to {len(pairs)} with {len(seeds)} members, or all"
        raise InputError(f"pairs: got {checks.short(count)}, expected {expected}")
    order = np.random.RandomState(seed).permutation(len(pairs))
    return [pairs[i] for i in order[:number]]
