"""Measure which concepts the units of a layer detect, in the network's own basis and along a path of rotations Q^a.

By default the networks are narrow residual networks with and without ReLU on the outputs of their blocks, trained on
composites of digits, strokes, colors, textures and quadrants. The outputs of the last two blocks are dissected in the
bases Q^0, Q^0.1, ..., Q^1, after a permutation, and after an element of G_ReLU. Missing networks are trained first.
Running the same command again recomputes nothing; more seeds, layers or powers extend the results.
"""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import numpy as np

from experiments import dry_run
from experiments.command import run_command
from experiments.defaults import optional
from experiments.dissect_rows import ROWS, UNITS, Request, sample_bases, to_tables
from experiments.dissect_summary import conclusion, tables
from experiments.features import select_members
from experiments.folders import ACCURACY, ACCURACY_B, RunSettings, clean_accuracy, run_folder
from experiments.registry import Experiment, PublishedTable
from experiments.settings import zoo_folder
from experiments.summary import Summary
from symjax import models, plots
from symjax.checks import integer, short
from symjax.dissection import Broden, SegmentedImages, TopQuantile, composites, dissect
from symjax.dissection.composites import MAX_COUNT
from symjax.dissection.dissect import images_at_a_time
from symjax.errors import InputError
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable
from symjax.zoo import Zoo, ZooConfig

EXPERIMENT = Experiment(
    place=55,
    published={
        "in the basis Q^a from a = 0 to 1, ImageNet networks on Broden": PublishedTable(
            ("unique detectors",),
            {  # the paper has a figure and no counts; the code of neither paper states any
                "ResNet-50 with ReLU": ("fall with a",),
                "ResNet-50 without ReLU on residual outputs": ("fewer at a = 0, flat",),
                "AlexNet conv5, 256 units": ("fall by about 80 % under a random rotation (Bau et al. 2017)",),
            },
        )
    },
    published_on=None,
)
COMPOSITES = "symjax.dissection:load_composites"
DEFAULTS = {"width": 8, "epochs": 8, "learning_rate": 1e-2, "flip": False, "translate": 0}  # on composites


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    dataset: str = COMPOSITES
    """Data set on which the networks are trained: the default, composites with masks of their concepts; or, with
    --concepts, any images, as in python -m experiments.zoo."""
    model: str = "resnet20"
    """A name of symjax.models.MODELS, or package.module:build. For a residual network a second zoo is trained, without
    ReLU on the outputs of its blocks."""
    model_options: Annotated[str, optional("NAME=VALUE,...", "blocks=(1,1,1) for resnet20 on composites")] = ""
    """Options of the model, as in blocks=(1,1,1)."""
    width: Annotated[int | None, optional("INT", "8 on composites, otherwise as for python -m experiments.zoo")] = None
    """Number of channels of the first convolution."""
    epochs: Annotated[int | None, optional("INT", "8 on composites, otherwise as for python -m experiments.zoo")] = None
    """Number of passes over the training images."""
    learning_rate: Annotated[
        float | None, optional("FLOAT", "0.01 on composites, otherwise as for python -m experiments.zoo")
    ] = None
    """Initial learning rate, before the schedule is applied."""
    seeds: str = "5"
    """Seeds of the members: a number of seeds, as in 4 for 0,1,2,3, or a list, as in 3,7,9, or 3, for one seed."""
    layers: Annotated[str | None, optional("NAMES", "outputs of the last two blocks, or the last point")] = None
    """Comma-separated names of stitch points, as in block2.1,block3.1, or all."""
    concepts: Annotated[Path | None, optional("DIR", "composites and their masks")] = None
    """Folder of the images and segmentations that are dissected, in Broden's format, such as broden1_224."""
    examples: int = 1000
    """Number of images that are dissected; all images of --concepts if there are fewer."""
    powers: str = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"
    """Comma-separated powers a of the rotation, from 0 to 1. The power 0 is always added."""
    basis_seed: int = 0
    """Seed of the random matrices; each member has its own."""
    quantile: float = 0.02
    """Fraction of a unit's activations that are above its threshold. NetDissect uses 0.005; the concepts of
    composites are larger."""
    iou: float = 0.04
    """IoU above which a unit detects a concept."""
    zoo: Annotated[Path | None, optional("DIR", "as for python -m experiments.zoo")] = None
    """Folder with a folder for each zoo; missing members are trained."""

    def zoo_config(self) -> ZooConfig:
        """Return the configuration of --model, with the defaults of this experiment on composites."""
        settings = self
        if self.dataset == COMPOSITES:
            values = {name: value for name, value in DEFAULTS.items() if getattr(self, name) is None}
            if self.model == "resnet20" and not self.model_options:
                values["model_options"] = "blocks=(1,1,1)"
            settings = dataclasses.replace(self, **values)
        return super(Settings, settings).zoo_config()

    def variants(self) -> dict[str, ZooConfig]:
        """Return the configurations of the zoos with and without ReLU; only the model if it has no such option."""
        config = self.zoo_config()
        options = dict(config.model_options)
        if (
            "residual_relu" not in getattr(models.MODELS.get(config.model), "defaults", {})
            or "residual_relu" in options
        ):
            return {config.model_name: config}
        without = dataclasses.replace(config, model_options={**options, "residual_relu": False})
        return {"with ReLU": config, "without ReLU": without}

    def variant_path(self, variant: str, config: ZooConfig) -> Path:
        """Return the folder of a variant's zoo."""
        return self.zoo / variant.replace(" ", "_") if self.zoo else zoo_folder(config)

    def parse_powers(self) -> tuple[float, ...]:
        """Return the powers in ascending order, with 0."""
        try:
            powers = {0.0, *(float(f"{float(word):.12g}") for word in self.powers.split(","))}
        except ValueError:
            powers = {np.inf}
        if not all(0 <= power <= 1 for power in powers):
            raise InputError(f"powers: got {short(self.powers)}, expected numbers from 0 to 1, as in 0,0.5,1")
        return tuple(sorted(powers))

    def segmented(self, network) -> SegmentedImages:
        """Return the images that are dissected, with their segmentations."""
        examples = integer("examples", self.examples, 1, MAX_COUNT if self.concepts is None else 2**31 - 1)
        if self.concepts is not None:
            return Broden(self.concepts, limit=examples, channels=network.example.shape[-1])
        if self.dataset != COMPOSITES:
            raise InputError(
                f"concepts: got none, expected a folder in Broden's format, because {self.dataset} has no masks"
            )
        return composites("test", examples, self.split_seed)[0]


def main(settings: Settings) -> Summary:
    variants, dataset = settings.variants(), settings.load_dataset()
    first = next(iter(variants.values()))
    network = first.network(dataset)
    for name in ("quantile", "iou"):
        if not 0 < getattr(settings, name) < 1:
            raise InputError(f"{name}: got {getattr(settings, name)}, expected a number above 0 and under 1")
    integer("basis_seed", settings.basis_seed)
    points = ",".join(last_points(network)) if settings.layers is None else settings.layers
    layers = [network.points[point].name for point in network.parse_points(points)]
    request = Request(variants, settings.parse_seeds(), layers, settings.parse_powers())
    segmented = settings.segmented(network)
    for layer in layers:
        pixels = network.points[network.index(layer)].shape[:-1]
        # Raises an InputError if no activation would exceed the threshold.
        TopQuantile(len(segmented) * math.prod(pixels), settings.quantile)
    document = {"zoo" if not i else "variant": config.identity(dataset) for i, config in enumerate(variants.values())}
    document |= {name: getattr(settings, name) for name in ("examples", "basis_seed", "quantile", "iou")}
    document["concepts"] = str(settings.concepts.resolve()) if settings.concepts else "composites"
    out = run_folder("dissect", zoo_folder(first).name, document, dataset, settings.out)
    dry_run.stop(settings, first, dataset, out.path, lambda: phases(settings, request, dataset, out.path, segmented))
    paths = {name: settings.variant_path(name, config) for name, config in variants.items()}
    zoos = {name: settings.train_zoo(config, dataset, paths[name]) for name, config in variants.items()}
    with out.open() as folder:
        accuracies = {
            name: clean_accuracy(folder, trained, dataset, settings.memory_limit, schema)
            for (name, trained), schema in zip(zoos.items(), (ACCURACY, ACCURACY_B), strict=False)
        }
        table = compute(settings, request, zoos, dataset, folder, segmented)
        plots.detectors(table, folder / "detectors")
        accuracy = ", ".join(f"{name} {values.mean():.2f} %" for name, values in accuracies.items())
        images = f"{len(segmented)} images of {settings.concepts.name if settings.concepts else 'composites'}"
        members = len(request.seeds)
        return Summary(
            folder,
            f"{network.name} on {dataset.name}, dissected on {images}: clean accuracy {accuracy}",
            conclusion(table, request.powers, members),
            tables(table, len(segmented.names), settings.iou, members),
            ("detectors",),
        )


def last_points(network) -> list[str]:
    """Return the names of the outputs of the last two residual blocks; the last point if there are none."""
    blocks = [point.name for point in network.points if not point.starred and point.name.startswith("block")]
    return blocks[-2:] or [network.points[-1].name]


def phases(settings: Settings, request: Request, dataset, folder: Path, segmented) -> list[dry_run.Phase]:
    """Return the phases that a dry run reports."""
    limit, results = settings.memory_limit, []
    images = 2 * len(segmented)  # there are two passes
    for name, config in request.variants.items():
        suffix = f", {name}" if len(request.variants) > 1 else ""
        path = settings.variant_path(name, config)
        results.append(dry_run.zoo_phase(config, dataset, request.seeds, path, limit, name=f"members to train{suffix}"))
        to_do = len(request.missing_seeds(ResultTable(folder, ROWS), name))
        counts = {"to_do": to_do, "done": len(request.seeds) - to_do, "together": to_do, "images": images}
        phase = dry_run.layers_phase(
            f"members to dissect{suffix}", config, dataset, request.layers, **counts, samples="positions", limit=limit
        )
        # Memory holds the features of one batch, and these features in all bases.
        batch = images_at_a_time(segmented) * (1 + len(request.bases))
        results.append(phase._replace(stored=phase.stored * batch // images))
    return results


def compute(settings: Settings, request: Request, zoos: dict[str, Zoo], dataset, folder: Path, segmented):
    """Dissect the members with missing rows, all members of a variant together; return all requested rows."""
    results, units = ResultTable(folder, ROWS), ResultTable(folder, UNITS)
    missing = {name: request.missing_seeds(results, name) for name in zoos}
    steps = 2 * -(-len(segmented) // images_at_a_time(segmented)) * sum(map(bool, missing.values()))
    with progress_bar(desc="dissect", total=steps, unit="batch", disable=not steps) as bar:
        for name, trained in zoos.items():
            if not missing[name]:
                continue
            members = select_members(trained, missing[name])
            indices = [trained.network.index(layer) for layer in request.layers]
            dissections = dissect(
                members.network,
                members.members,
                segmented,
                dataset.mean,
                dataset.std,
                layers=",".join(request.layers),
                bases={
                    layer: sample_bases(
                        request, settings.basis_seed, members.seeds, i, trained.network.points[i].channels
                    )
                    for i, layer in zip(indices, request.layers, strict=True)
                },
                quantile=settings.quantile,
                image_size=trained.network.example.shape[1],
                max_device_memory=settings.memory_limit,
                on_batch=bar.update,
            )
            for layer, dissection in dissections.items():
                unit_rows, rows = to_tables(dissection, settings.iou, request.bases, members.seeds)
                units.add(unit_rows.assign(variant=name, layer=layer))
                results.add(rows.assign(variant=name, layer=layer))
    return results.select(request.keys())


if __name__ == "__main__":
    run_command(main, Settings)
