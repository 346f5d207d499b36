"""Check that the members of a zoo can be trained on a data set."""

from collections.abc import Iterable

from symjax.data import Dataset, describe_shapes
from symjax.errors import InputError
from symjax.network import Network
from symjax.ops import hosts
from symjax.ops.parallel import Execution
from symjax.spelling import listed
from symjax.zoo.config import ZooConfig
from symjax.zoo.jobs import training_program


def check(config: ZooConfig, dataset: Dataset, execution: Execution) -> Network:
    """Return the network of a zoo; raise an InputError if it cannot be trained on these images."""
    _check_sizes(config, dataset)
    config.check_for(describe_shapes(dataset))
    network = config.network(dataset).with_form(execution.conv)
    if len(config.schedule) > len(network.points):
        most = f"{len(network.points)}, the number of stitch points"
        raise InputError(f"freeze: got {len(config.schedule)} epochs, expected at most {most}")
    return network


def check_rule(
    config: ZooConfig,
    seeds: Iterable[int],
    dataset: Dataset,
    execution: Execution,
    devices: int,
    max_device_memory: float | None,
) -> None:
    """Raise an InputError if the configuration has a freeze rule and the members cannot train together."""
    if config.rule is None:
        return
    seeds, expected = sorted(seeds), list(config.rule.seeds)
    if seeds != expected:
        raise InputError(f"seeds: got {listed(seeds)}, expected {listed(expected)}, on which the freeze rule depends")
    if hosts.count() > 1:
        raise InputError(f"freeze: got a rule for {hosts.count()} processes, expected one process or a given schedule")
    if max_device_memory is not None:
        program = training_program(config, dataset, execution, config.labels != "true")
        most = devices * program.memory.max_members(max_device_memory)
        if most < len(seeds):
            raise InputError(
                f"max_device_memory: got memory for {most} of {len(seeds)} members, expected it for all, since they "
                "have a freeze rule; give fewer seeds, or a schedule"
            )


def _check_sizes(config: ZooConfig, dataset: Dataset) -> None:
    """Raise an InputError if there are too few images, or if they are too small."""
    recipe = config.recipe
    if not len(dataset.validation):
        raise InputError("validation: got a data set without validation images, expected a fraction over 0")
    if recipe.batch_size > len(dataset.train):
        size, most = recipe.batch_size, len(dataset.train)
        raise InputError(f"batch_size: got {size}, expected at most {most}, the number of training examples")
    if recipe.translate and recipe.translate >= min(dataset.example_shape[:2]):
        size = min(dataset.example_shape[:2])
        raise InputError(f"translate: got {recipe.translate}, expected less than the images' {size} pixels")
