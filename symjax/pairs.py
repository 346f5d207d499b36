"""Pairs of members, by their seeds."""

import itertools
from collections.abc import Sequence

import numpy as np

from symjax import checks
from symjax.errors import InputError

__all__ = ["all_pairs", "draw_pairs"]

MOST = 10**7  # pairs, all of which lie in memory


def all_pairs(
    seeds: Sequence[int], *, ordered: bool = True, seeds_b: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Every pair of two different seeds; where the order does not matter, once, the smaller first.

    With `seeds_b`, of members of another zoo, every pair of a seed and one of these.

    Raises:
      InputError: bad seeds, or so many that there are more than `MOST` pairs.
    """
    seeds = checks.seeds(seeds)
    if seeds_b is not None:
        seeds_b = checks.seeds(seeds_b)
    if len(seeds) * (len(seeds) - 1 if seeds_b is None else len(seeds_b)) > MOST:
        raise InputError(f"seeds: got {len(seeds)}, wanted so few that they make at most {MOST} ordered pairs")
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
    """`count` pairs, drawn without replacement by a seeded key; more pairs extend fewer.

    Args:
      seeds: of the members, each once.
      count: how many, as a number or its digits; or "all", in the order of `all_pairs`.
      seed: of the draw.
      ordered, seeds_b: of `all_pairs`.

    Raises:
      InputError: for fewer than two members, more pairs than there are, or a bad seed.
    """
    seed = checks.integer("pair_seed", seed, 0, 2**32 - 1)
    pairs = all_pairs(seeds, ordered=ordered, seeds_b=seeds_b)
    if not pairs:
        raise InputError(f"seeds: {len(seeds)} member; a pair needs two different ones")
    if isinstance(count, str) and count == "all":
        return pairs
    wanted = int(count) if isinstance(count, str) and count.isdecimal() and len(count) <= 20 else count
    if not checks.is_integer(wanted) or not 1 <= wanted <= len(pairs):
        given = checks.short(count)
        raise InputError(f"pairs: got {given}, wanted 1 to {len(pairs)} with {len(seeds)} members, or all")
    order = np.random.RandomState(seed).permutation(len(pairs))
    return [pairs[i] for i in order[:wanted]]
