"""Streams that equal a function on the whole data, shared by tests."""

import pytest

from symjax import similarity

# Stream, one-shot function: the same arguments.
EXACT = {
    "cca": (similarity.cca_stream, similarity.cca, {}),
    "pwcca": (similarity.pwcca_stream, similarity.pwcca, {}),
    "svcca": (similarity.svcca_stream, similarity.svcca, {"variance": 0.9, "full_output": True}),
    "pls": (similarity.pls_stream, similarity.pls, {}),
    "procrustes": (similarity.procrustes_stream, similarity.procrustes, {"full_output": True}),
    "procrustes_centered": (
        similarity.procrustes_stream,
        similarity.procrustes,
        {"center": True, "full_output": True},
    ),
    "permutation": (
        similarity.permutation_procrustes_stream,
        similarity.permutation_procrustes,
        {"full_output": True},
    ),
    "permutation_centered": (
        similarity.permutation_procrustes_stream,
        similarity.permutation_procrustes,
        {"center": True, "full_output": True},
    ),
    "wreath": (similarity.wreath_procrustes_stream, similarity.wreath_procrustes, {"full_output": True}),
}
each = pytest.mark.parametrize("name", EXACT)
