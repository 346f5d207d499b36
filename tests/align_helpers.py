"""Features of the tiny zoo, shared by the tests of representations and of the align command."""

from stitch_helpers import trained

from symjax.representations import representations

EXAMPLES = 24


def features():
    dataset, zoo = trained()
    return representations(zoo, dataset.test.images[:EXAMPLES], dataset.mean, dataset.std)
