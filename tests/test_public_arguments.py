"""Wrong arguments of every public function: an InputError that names them.

Every function that `symjax` and the modules right under it list in `__all__` is called with each of its arguments
replaced by what no caller can have meant; library objects, keys, functions and truth values stay as they are."""

import inspect
import math
import re
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from campaign import some
from public_helpers import FUNCTIONS, MAKES, METHODS, NAMED, PYTREES, called, kind_of

from symjax import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning"),
    pytest.mark.filterwarnings("ignore:constrained_layout not applied"),  # matplotlib's, for numbers of 300 digits
]

NOTHING = [None, {}, object()]
WORDS = ("label", "title", "xlabel", "ylabel")  # which any text may be
SIZES = [math.inf, -math.inf, -1]
TAKEN = {  # what is right after all
    "activations.align.ids": [{}, {"a": None}],
    "alignment.cycle_error.maps": [{}],  # of a single network
    "alignment.interpolate.t": [-1, [], [1, 2]],
    "birkhoff.softsort.scores": [[]],
    "birkhoff.softsort.tau": [math.inf],  # uniform rows
    "data.Dataset.name": ["x"],
    "data.augment.fill": [math.nan, *SIZES],
    "data.load.cache_dir": ["file/below"],  # which this set does not need
    "data.load.data_dir": ["file/below"],
    "data.normalize.images": [[math.nan]],  # NaN
    "dynamics.epoch_above.level": SIZES,
    "freezing.Saturation.threshold": [-1],
    "groups.homogeneity_defect.scales": [[]],
    "ops.parallel.default_execution.backend": ["x"],  # one of tomorrow
    "plots.curves.table": [pd.DataFrame()],  # no figure
    "plots.homogeneity.slope": [-1],
    "similarity.pairwise.pairs": [[]],
    "zoo.ZooConfig.dataset": ["x"],  # asked for when it is loaded
    "zoo.train.save_every_seconds": [math.inf],
    "zoo.train_together.save_every_seconds": [math.inf],
    "models.create.classes": [None],  # targets that are not classes
    "network.stitch_point.name": ["x"],
    "stitching.register_family.description": ["x", ""],
    "stitching.register_family.name": ["x"],
    "zoo.train.seeds": [[1, 2]],
}
WRONG = {
    "flag": [*NOTHING, "no", 0, math.nan, [], np.ones(2)],
    "number": [*NOTHING, "x", "", math.nan, math.inf, -math.inf, -1, 1j, [], [1, 2], 10**400],
    "name": [*NOTHING, "x", "", -1, math.nan, [], ["x"], np.ones(2)],
    "path": [*NOTHING, "", -1, math.nan, [], "\0", "\ud800", "x" * 300, "file/below"],
    "array": [*NOTHING, "x", -1, math.nan, [], [[1, 2], [3]], [None], [math.nan], ["x"], [1j]],
    "sequence": [*NOTHING, "x", -1, math.nan, [None], [math.nan], [[1, 2], [3]], [object()]],
    "mapping": [*NOTHING, "x", -1, math.nan, [], {"a": None}, {"a": "x"}, {"a": object()}],
    "table": [*NOTHING, "x", -1, math.nan, [], pd.DataFrame()],
}
EITHER = {  # what some may take and others not, as it comes: with InputError or without, and nothing else
    "number": [
        *(-0.0, 0.0, 2**31, 2**63, -(2**63), 10**30, 10**5000, np.int64(2**40), 1e-45, 1e300, np.float64(0.5)),
        *(Fraction(1, 2), np.complex64(1), np.datetime64(1, "s"), np.array(3), np.array([3]), jnp.asarray(3)),
    ],
    "array": [2**63, 10**400, [2**40], [2**63], [10**400], -0.0, np.array(1e300), np.array([np.datetime64(1, "s")])],
    "sequence": [[2**63], [10**400], [10**5000], [-0.0], [np.float32(1e-45)], range(0), [np.complex64(1)]],
}


def thrown(name, folder):
    """(argument, what is thrown, whether it is right after all or None where it may be) of a function."""
    function, arguments = called(name)
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    for argument, good in arguments.items():
        kind = None if argument in PYTREES else kind_of(good)
        for bad in some(WRONG.get(kind, []), name + argument):
            if (bad is None and defaults[argument] is None) or (isinstance(bad, str) and argument in WORDS):
                continue
            right = taken(name, argument, bad)
            yield argument, folder / bad if isinstance(bad, str) and bad == "file/below" else bad, right
        for odd in some(EITHER.get(kind, []), name + argument):
            yield argument, odd, None
        if kind == "table" and name != "plots.curves":
            yield argument, good.head(0), False
            yield argument, good.drop(columns=good.columns), False
            yield argument, good.astype(str), False


def spelled(value):
    return f"10**{math.log10(value):.0f}" if isinstance(value, int) and value > 10**40 else repr(value)[:40]


def taken(name, argument, value):
    if argument == "mean" and value == -1:  # of any size, for all channels alike
        return name != "data.Dataset"
    return any(value is right or repr(value) == repr(right) for right in TAKEN.get(f"{name}.{argument}", []))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", [*FUNCTIONS, *MAKES, *METHODS])
@pytest.mark.few(30)
def test_what_is_wrong_is_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    function, arguments = called(name)
    failed = []
    for argument, bad, right in thrown(name, tmp_path):
        try:
            function(**{**arguments, argument: bad})
        except InputError as error:
            if right:
                failed.append((argument, spelled(bad), f"was refused: {str(error)[:80]}"))
            named = NAMED.get(f"{name}.{argument}", argument)
            a_path = isinstance(bad, Path) and str(bad) in str(error)
            if not re.search(rf"\b({named})\b", str(error)) and not a_path:
                failed.append((argument, spelled(bad), f"does not name it: {str(error)[:80]}"))
        except Exception as error:
            failed.append((argument, spelled(bad), repr(error)[:100]))
        else:
            if right is False:
                failed.append((argument, spelled(bad), "was taken"))
    assert not failed, "\n" + "\n".join(map(str, failed))
