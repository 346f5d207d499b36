"""Run the examples in docstrings; every public function of the packages listed here has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import symjax

PACKAGES = tuple(f"symjax.{name}" for name in "birkhoff dissection groups similarity stitching training".split())


def modules():
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            yield importlib.import_module(module.name)


EXAMPLES = {test.name: test for module in modules() for test in doctest.DocTestFinder().find(module) if test.examples}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name):
    output = []
    failed, _ = doctest.DocTestRunner().run(EXAMPLES[name], out=output.append)
    assert not failed, "".join(output)


def test_every_public_function_has_an_example():
    public = {*map(symjax.__dict__.get, symjax.__all__), symjax.groups.discover}
    functions = [fn for fn in public if inspect.isfunction(fn) and fn.__module__.startswith(PACKAGES)]
    assert len(functions) > 40
    assert {f"{fn.__module__}.{fn.__name__}" for fn in functions} <= EXAMPLES.keys()
