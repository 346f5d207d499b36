"""Stitch families. Each is a class in a module of this package that is decorated by `register_family`.

On the command line a family is `name` or `name:value`, a low rank `rank4`, and one of your own `package.module:Name`:
full, rank1, lasso:1e-3, birkhoff, birkhoff:0.01, softsort, orthogonal, identity, matched, least_squares.
"""

import importlib
import pkgutil

from symjax.stitching.families.base import Family as Family
from symjax.stitching.families.registry import FAMILIES as FAMILIES
from symjax.stitching.families.registry import family_help as family_help
from symjax.stitching.families.registry import family_names as family_names
from symjax.stitching.families.registry import find_family as find_family
from symjax.stitching.families.registry import parse_families as parse_families
from symjax.stitching.families.registry import parse_family as parse_family
from symjax.stitching.families.registry import register_family as register_family

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
