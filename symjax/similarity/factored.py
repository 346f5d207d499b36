"""Measures in two parts: the work on one representation, done once, and the work on a pair, which is small.

What most measures need of a pair is one product of matrices, X' Y, of what was made of each side before: an orthonormal
basis for CCA, channels at unit norm for Procrustes, the centred kernel matrix as one long vector for CKA. So the pairs
of many representations are a few large products (`symjax.similarity.pairwise`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax import lax

from symjax.similarity.meeting import MAPS, Meeting, Part, common_size, flat, grown


@dataclass(frozen=True)
class Factored:
    """A measure as fn(x, y) = compare(prepare(x), prepare(y)), at options that are settled.

    prepare: of a representation, its `Part`.
    finish: of X' Y (p, q), or what else `meeting` makes of both, and the `rest` of both sides, the value, 0-d.
    exact: of two `Part`s whose maps are of one size, the value again, where `finish` has lost digits of it: a small
        distance from an inner product near 1 is the root of a difference that cancels. None where it never does.
    doubtful: of a value, whether it is one of these.
    width: of a `rest`, how many directions are compared, where the data and not the shapes say so.
    meeting: how the data of both sides come together.
    """

    prepare: Callable[[Any], Part]
    finish: Callable
    exact: Callable | None = None
    doubtful: Callable | None = None
    width: Callable | None = None
    meeting: Meeting = MAPS

    def compare(self, a: Part, b: Part):
        """The value for two `Part`s; the sizes of their maps must divide each other (see `meeting_size`)."""
        size = self.meeting.size(a, b)
        a_data, b_data = (self.meeting.shrunk(part.data, size)[None] for part in (a, b))
        value = self.finish(self.meeting.product(a_data, b_data)[0, 0], a.rest, b.rest)
        if self.exact is None:
            return value
        return lax.cond(self.doubtful(value), lambda: self.directly(a, b), lambda: value)

    def directly(self, a: Part, b: Part):
        """`exact` of two `Part`s after the smaller map is enlarged."""
        size = common_size(a.data.shape, b.data.shape)
        return self.exact(*(part._replace(data=flat(grown(part.data, size))) for part in (a, b)))
