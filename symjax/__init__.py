"""symjax: symmetries of neural networks and of their internal representations, in JAX.

The mathematics is importable from here; the rest by module: `symjax.models`, `symjax.zoo`, `symjax.stitching`,
`symjax.data`, `symjax.training`, `symjax.parallel`, `symjax.runs`, `symjax.plots`.
"""

from symjax.birkhoff import ProjectionInfo as ProjectionInfo
from symjax.birkhoff import nearest_permutation as nearest_permutation
from symjax.birkhoff import permutation_matrix as permutation_matrix
from symjax.birkhoff import projection_birkhoff as projection_birkhoff
from symjax.birkhoff import sinkhorn as sinkhorn
from symjax.birkhoff import softsort as softsort
from symjax.errors import InputError as InputError

__version__ = "0.1.0"
