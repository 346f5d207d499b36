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
      seeds: different integers.
      ordered: whether (a, b) and (b, a) are different pairs; otherwise each pair occurs once, the smaller seed first.
      seeds_b: seeds of another zoo; the pairs are then all combinations of a seed of `seeds` and one of `seeds_b`.

    Raises:
      InputError: seeds are not different integers, or there are more than `MAX_PAIRS` pairs.

    Example:
      >>> from symjax.pairs import all_pairs
      >>> all_pairs((0, 1, 2), ordered=False)
      [(0, 1), (0, 2), (1, 2)]
    """
    seeds = checks.seeds(seeds)
    if seeds_b is not None:
        seeds_b = checks.seeds(seeds_b)
    if len(seeds) * (len(seeds) - 1 if seeds_b is None else len(seeds_b)) > MAX_PAIRS:
        raise InputError(f"seeds: got {len(seeds)}, expected seeds that make at most {MAX_PAIRS} ordered pairs")
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
    """Draw pairs without replacement. The pairs of a smaller `count` are the first ones of a larger `count`.

    Args:
      seeds: seeds of the members, each once.
      count: number of pairs, as an integer or its digits; or "all" for all pairs in the order of `all_pairs`.
      seed: seed of the random order.
      ordered, seeds_b: as in `all_pairs`.

    Returns:
      Pairs of seeds.

    Raises:
      InputError: there are fewer than two members or fewer than `count` pairs, or a seed is out of range.

    Example:
      >>> from symjax.pairs import draw_pairs
      >>> draw_pairs((0, 1, 2), 2), draw_pairs((0, 1, 2), 3)[:2]
      ([(2, 1), (1, 0)], [(2, 1), (1, 0)])
    """
    seed = checks.integer("pair_seed", seed, 0, 2**32 - 1)
    pairs = all_pairs(seeds, ordered=ordered, seeds_b=seeds_b)
    if not pairs:
        raise InputError(f"seeds: got {len(seeds)} member, expected two or more")
    if isinstance(count, str) and count == "all":
        return pairs
    number = int(count) if isinstance(count, str) and count.isdecimal() and len(count) <= 20 else count
    if not checks.is_integer(number) or not 1 <= number <= len(pairs):
        given = checks.short(count)
        raise InputError(f"pairs: got {given}, expected 1 to {len(pairs)} with {len(seeds)} members, or all")
    order = np.random.RandomState(seed).permutation(len(pairs))
    return [pairs[i] for i in order[:number]]
