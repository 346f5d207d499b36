"""What is public, and that every public function and class accepts right arguments.

Public is what `symjax` and the modules right under it list in `__all__`."""

import inspect
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from public_helpers import COSTLY, FUNCTIONS, MAKES, METHODS, MODULES, PUBLIC, called

import symjax
from symjax import InputError, similarity

pytestmark = [
    pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning"),
    pytest.mark.filterwarnings("ignore:constrained_layout not applied"),  # matplotlib's, for numbers of 300 digits
]

CLASSES = [name for name, value in PUBLIC.items() if inspect.isclass(value)]
MADE = (  # classes that the library makes, or that hold whatever they are given
    *(
        "alignment.Barrier",
        "alignment.MatchInfo",
        "alignment.MergeInfo",
        "birkhoff.ProjectionInfo",
        "birkhoff.SinkhornInfo",
        "comparison.Comparison",
        "groups.Decision",
        "groups.Intertwiner",
        "groups.MatrixGroup",
        "ops.memory.MemoryEstimate",
    ),
    *("dissection.Broden", "dissection.Dissection", "dissection.SegmentedArrays", "dissection.SegmentedBatch"),
    *("dissection.SegmentedImages", "dissection.TopQuantile", "projections.Projection"),
    *("groups.Axis", "groups.Symmetry", "groups.Space", "models.Model", "network.Member", "network.Network"),
    *("network.StitchPoint", "rotation.RotationCase", "rotation.CaseResult"),
    *("rotation.RotatedTail", "stitching.Family", "stitching.Pair", "stitching.PairResult", "stitching.Stitch"),
    "stitching.StitchResult",
    *("training.TrainData", "training.TrainState", "zoo.Group", "zoo.Zoo"),
    *(name for name in CLASSES if name.startswith("similarity.")),
)


def test_the_docstring_says_what_is_public():
    assert set(re.findall(r"`symjax\.([\w.]+)`", symjax.__doc__)) == set(MODULES)
    for name, value in vars(symjax).items():
        if name in symjax.__all__ and name != "InputError":
            assert value in (getattr(similarity, name, None), getattr(symjax.birkhoff, name, None))
    for module in (symjax, *MODULES.values()):
        assert len(set(module.__all__)) == len(module.__all__) and not [n for n in module.__all__ if n[0] == "_"]
        assert all(hasattr(module, name) for name in module.__all__)


def test_every_class_is_known():
    assert sorted({*MAKES, *MADE}) == sorted(CLASSES), "a new class belongs to MAKES or to MADE"


QUICK = [name for name in (*FUNCTIONS, *MAKES, *METHODS) if name.split(".")[0] not in ("similarity", "birkhoff")]


@pytest.mark.parametrize("name", [name for name in QUICK if name not in COSTLY])
@pytest.mark.few(35)
def test_right_arguments_do(name, monkeypatch):
    """So that what is refused below is refused for what is thrown; those left out have tests of their values."""
    function, arguments = called(name)
    function(**arguments)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith("plots.")])
def test_figures_go_on_axes_that_are_there_and_into_files_where_asked(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, arguments = called(name)
    arguments.pop("path")
    if (own := function(**arguments)) is None:  # nothing to draw
        assert function(**arguments, ax=Figure().subplots()) is None
        return
    with pytest.raises(InputError, match="ax: got .*, expected [1-9] axes, one for each panel") as caught:
        function(**arguments, ax=[])
    count = int(re.search("expected ([0-9])", str(caught.value))[1])
    whole = Figure(layout="constrained")
    axes = whole.subfigures(2)[1].subplots(1, count)  # one alone where there is one panel
    written = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: written.append(figure))
    assert function(**arguments, ax=axes) is whole and not written
    assert whole.get_suptitle() == "" and not whole.legends
    for new, there in zip((axes for axes in own.axes if axes.get_visible()), np.ravel(axes), strict=False):
        for kind in ("lines", "patches", "collections", "texts"):
            assert len(getattr(new, kind)) == len(getattr(there, kind))
        for a, b in zip(new.lines, there.lines, strict=True):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())
        assert new.get_title() == there.get_title() and new.get_title("left") == there.get_title("left")
    if own.legends:
        labels = [text.get_text() for text in own.legends[0].get_texts()]
        assert [text.get_text() for text in whole.axes[count - 1].get_legend().get_texts()] == labels
    function(**arguments, ax=axes, path=tmp_path / "given")
    assert written == [whole] * 2  # PNG and PDF
