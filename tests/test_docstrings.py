"""Run the examples in docstrings; every public function, and every class that users make, has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import symjax

PUBLIC = (
    "birkhoff data dissection dynamics flops freezing groups models network ops.memory ops.parallel pairs plots "
    "projections representations rotation similarity stitching training zoo"
).split()
CLASSES = (  # others are results, or records that have no methods
    "data.Dataset data.Split freezing.Saturation network.Member network.Network network.StitchPoint "
    "ops.memory.MemoryEstimate ops.parallel.Execution rotation.Retraining rotation.RotatedTail rotation.RotationCase "
    "rotation.RotationPlan stitching.Plan stitching.Sweep training.Recipe zoo.ZooConfig"
).split()


def modules(name):
    module = importlib.import_module(f"symjax.{name}")
    yield module
    for part in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        yield importlib.import_module(part.name)


FINDER = doctest.DocTestFinder()
EXAMPLES = {
    test.name: test for name in PUBLIC for module in modules(name) for test in FINDER.find(module) if test.examples
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.few(35)
def test_example_runs(name):
    output = []
    failed, _ = doctest.DocTestRunner().run(EXAMPLES[name], out=output.append)
    assert not failed, "".join(output)


def public(name):
    module = importlib.import_module(f"symjax.{name}")
    return {public_name: getattr(module, public_name) for public_name in module.__all__}


def test_every_public_function_has_an_example():
    functions = [value for name in PUBLIC for value in public(name).values() if inspect.isfunction(value)]
    functions += [value for value in map(symjax.__dict__.get, symjax.__all__) if inspect.isfunction(value)]
    functions += [public(name)[class_name] for name, _, class_name in (text.rpartition(".") for text in CLASSES)]
    assert len(functions) > 140
    assert {f"{value.__module__}.{value.__name__}" for value in functions} <= EXAMPLES.keys()
