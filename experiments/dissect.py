"""Which concepts the units of a layer detect, in the network's own basis and along a path of rotations Q^a.

With no argument: narrow residual networks with and without ReLU on the outputs of their blocks, trained on composites
of digits, strokes, colours, textures and quadrants; the outputs of their last two blocks are dissected in the bases
Q^0, Q^0.1, ..., Q^1, after a permutation and after an element of G_ReLU. Zoos are trained where they are missing. The
same command again computes nothing; more seeds, layers or powers extend the results.
"""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.align import select_members
from experiments.command import run_command
from experiments.defaults import optional
from experiments.folders import ACCURACY, ACCURACY_B, clean_accuracy, run_folder
from experiments.registry import Experiment, PublishedTable
from experiments.settings import ZooSettings, zoo_folder
from experiments.summary import Summary
from symjax import plots
from symjax.checks import integer, short
from symjax.dissection import (
    Broden,
    Dissection,
    SegmentedImages,
    TopQuantile,
    composites,
    dissect,
    rotation_powers,
    special_orthogonal,
)
from symjax.dissection.composites import MAX_COUNT
from symjax.dissection.dissect import images_at_a_time
from symjax.errors import InputError
from symjax.models import MODELS
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.rotation import sample_rotation
from symjax.tables import difference_interval, mean, mean_and_deviation, mean_interval
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
EPOCHS, LEARNING_RATE = 8, 1e-2  # of networks on composites
KEY = {"variant": str, "layer": str, "seed": int, "basis": str}
ROWS = Schema("results", KEY, ("exponent", "detectors", "mean_iou"))
UNITS = Schema("units", {**KEY, "unit": int}, ("concept", "iou"))
GROUPS = ("permutation", "g_relu")  # kinds of bases in which units are the same, but for order and scale
OWN = "Q^0"


@dataclasses.dataclass(frozen=True)
class Settings(ZooSettings):
    dataset: str = COMPOSITES
    """What networks are trained on, as in other commands: composites, or with --concepts any other images."""
    model: str = "resnet20"
    """A name of symjax.models.MODELS, or package.module:build; residual networks have a second zoo without ReLU on the
    outputs of blocks."""
    model_options: Annotated[str, optional("NAME=VALUE,...", "blocks=(1,1,1) for resnet20 on composites")] = ""
    """Options of the model, as in blocks=(1,1,1)."""
    seeds: str = "5"
    """A number of seeds, 4 for 0,1,2,3, or the seeds themselves, as in 3,7,9 (one alone: 3,)."""
    layers: Annotated[str | None, optional("NAMES", "outputs of the last two blocks, or the last point")] = None
    """Stitch points by name, as in block2.1,block3.1, or all."""
    concepts: Annotated[Path | None, optional("DIR", "the masks of composites")] = None
    """A folder in Broden's format, such as broden1_224, with the images and segmentations to dissect on."""
    examples: int = 1000
    """How many images to dissect on; all of --concepts where there are fewer."""
    powers: str = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"
    """Powers a of the rotation, from 0 to 1, with commas between; 0 is always among them."""
    basis_seed: int = 0
    """Of the random matrices, of which each member has its own."""
    quantile: float = 0.02
    """The share of a unit's activations above its threshold. NetDissect has 0.005; concepts are larger here."""
    iou: float = 0.04
    """A unit whose best IoU exceeds this detects the concept."""
    zoo: Annotated[Path | None, optional("DIR", "folders as python -m experiments.zoo has them")] = None
    """The folder of the zoos, one a variant; trained there where they are missing."""
    out: Annotated[Path | None, optional("DIR", "runs/dissect/ and a name made from the settings")] = None
    """The folder of the results."""

    def zoo_config(self) -> ZooConfig:
        """Of the model as it is named; defaults are those of composites where the networks are trained on them."""
        chosen = self
        if self.dataset == COMPOSITES:
            defaults = {"width": 8, "epochs": EPOCHS, "learning_rate": LEARNING_RATE, "flip": False, "translate": 0}
            chosen = dataclasses.replace(
                self, **{name: value for name, value in defaults.items() if getattr(self, name) is None}
            )
            if self.model == "resnet20" and not self.model_options:
                chosen = dataclasses.replace(chosen, model_options="blocks=(1,1,1)")
        return super(Settings, chosen).zoo_config()

    def variants(self) -> dict[str, ZooConfig]:
        """The configurations of the zoos: with and without ReLU, or the model alone where it has no such option."""
        config = self.zoo_config()
        options = dict(config.model_options)
        if "residual_relu" not in getattr(MODELS.get(config.model), "defaults", {}) or "residual_relu" in options:
            return {config.model_name: config}
        without = dataclasses.replace(config, model_options={**options, "residual_relu": False})
        return {"with ReLU": config, "without ReLU": without}

    def zoo_path(self, variant: str, config: ZooConfig) -> Path:
        """The folder of a variant's zoo."""
        return self.zoo / variant.replace(" ", "_") if self.zoo else zoo_folder(config)

    def parse_powers(self) -> tuple[float, ...]:
        """The powers in ascending order, with 0."""
        try:
            powers = {0.0, *(float(f"{float(word):.12g}") for word in self.powers.split(","))}
        except ValueError:
            powers = {np.inf}
        if not all(0 <= power <= 1 for power in powers):
            raise InputError(f"powers: got {short(self.powers)}, expected numbers from 0 to 1, as 0,0.5,1")
        return tuple(sorted(powers))

    def segmented(self, network) -> SegmentedImages:
        """The images to dissect on."""
        examples = integer("examples", self.examples, 1, MAX_COUNT if self.concepts is None else 2**31 - 1)
        if self.concepts is not None:
            return Broden(self.concepts, limit=examples, channels=network.example.shape[-1])
        if self.dataset != COMPOSITES:
            raise InputError(
                f"concepts: got none, expected a folder in Broden's format, as {self.dataset} has no masks"
            )
        return composites("test", examples, self.split_seed)[0]


class Case(NamedTuple):
    """What is requested of all variants."""

    variants: dict[str, ZooConfig]
    seeds: tuple[int, ...]
    layers: list[str]
    powers: tuple[float, ...]

    @property
    def bases(self) -> dict[str, float]:
        """The exponents of bases by name, NaN of those that are no powers."""
        return {**{f"Q^{a:.12g}": a for a in self.powers}, **dict.fromkeys(GROUPS, np.nan)}

    def requested(self, variants=None) -> pd.DataFrame:
        """The keys of all rows of these variants, by default of all."""
        values = (variants or list(self.variants), self.layers, self.seeds, list(self.bases))
        return pd.MultiIndex.from_product(values, names=list(KEY)).to_frame(index=False)


def main(settings: Settings) -> Summary:
    variants, dataset = settings.variants(), settings.load_dataset()
    network = next(iter(variants.values())).network(dataset)
    for name in ("quantile", "iou"):
        if not 0 < getattr(settings, name) < 1:
            raise InputError(f"{name}: got {getattr(settings, name)}, expected a number above 0 and under 1")
    integer("basis_seed", settings.basis_seed)
    chosen = ",".join(last_points(network)) if settings.layers is None else settings.layers
    layers = [network.points[point].name for point in network.parse_points(chosen)]
    case = Case(variants, settings.parse_seeds(), layers, settings.parse_powers())
    segmented = settings.segmented(network)
    for layer in layers:
        pixels = network.points[network.index(layer)].shape[:-1]
        TopQuantile(len(segmented) * math.prod(pixels), settings.quantile)  # an InputError where none would exceed it
    document = {"zoo" if not i else "variant": config.identity(dataset) for i, config in enumerate(variants.values())}
    document |= {name: getattr(settings, name) for name in ("examples", "basis_seed", "quantile", "iou")}
    document["concepts"] = str(settings.concepts.resolve()) if settings.concepts else "composites"
    first = next(iter(variants.values()))
    out = run_folder("dissect", zoo_folder(first).name, document, dataset, settings.out)
    dry_run.stop(settings, first, dataset, out.path, lambda: phases(settings, case, dataset, out.path, segmented))
    zoos = {
        name: settings.train_zoo(config, dataset, settings.zoo_path(name, config)) for name, config in variants.items()
    }
    with out.open() as folder:
        accuracies = {
            name: clean_accuracy(folder, trained, dataset, settings.memory_limit, schema)
            for (name, trained), schema in zip(zoos.items(), (ACCURACY, ACCURACY_B), strict=False)
        }
        table = compute(settings, case, zoos, dataset, folder, segmented)
        plots.detectors(table, folder / "detectors")
        accuracy = ", ".join(f"{name} {values.mean():.2f} %" for name, values in accuracies.items())
        images = f"{len(segmented)} images of {settings.concepts.name if settings.concepts else 'composites'}"
        over = f", mean ± deviation over {len(case.seeds)} networks" if len(case.seeds) > 1 else ""
        return Summary(
            folder,
            f"{network.name} on {dataset.name}, dissected on {images}: clean accuracy {accuracy}",
            conclusion(table, case),
            {
                f"unique detectors (of {len(segmented.names)} concepts; IoU over {settings.iou:g}){over}": spelled(
                    table, "detectors", 1
                ),
                f"mean over units of the best IoU{over}": spelled(table, "mean_iou", 3),
            },
            ("detectors",),
        )


def last_points(network) -> list[str]:
    """The outputs of the last two residual blocks, or the last point."""
    blocks = [point.name for point in network.points if not point.starred and point.name.startswith("block")]
    return blocks[-2:] or [network.points[-1].name]


def phases(settings: Settings, case: Case, dataset, folder: Path, segmented) -> list[dry_run.Phase]:
    """What a dry run reports."""
    limit, parts = settings.memory_limit, []
    for name, config in case.variants.items():
        suffix = f", {name}" if len(case.variants) > 1 else ""
        path, named = settings.zoo_path(name, config), {"name": f"members to train{suffix}"}
        parts.append(dry_run.zoo_phase(config, dataset, case.seeds, path, limit, **named))
        to_do, passes = len(missing_seeds(ResultTable(folder, ROWS), case, name)), 2 * len(segmented)
        counts = {"to_do": to_do, "there": len(case.seeds) - to_do, "together": to_do, "images": passes}
        looked = dry_run.layers_phase(
            f"members to dissect{suffix}", config, dataset, case.layers, **counts, pool=False, limit=limit
        )
        # In memory are a batch in all bases, and the batch itself.
        batch = images_at_a_time(segmented) * (1 + len(case.bases))
        parts.append(looked._replace(stored=looked.stored * batch // passes))
    return parts


def missing_seeds(results: ResultTable, case: Case, variant: str) -> list[int]:
    """The members that lack a row."""
    return sorted(set(results.missing(case.requested([variant])).seed))


def compute(settings: Settings, case: Case, zoos: dict[str, Zoo], dataset, folder: Path, segmented) -> pd.DataFrame:
    """Dissect the members that lack rows, all of a variant together; return all rows that are requested."""
    results, units = ResultTable(folder, ROWS), ResultTable(folder, UNITS)
    missing = {name: missing_seeds(results, case, name) for name in zoos}
    steps = 2 * -(-len(segmented) // images_at_a_time(segmented)) * sum(map(bool, missing.values()))
    with progress_bar(desc="dissect", total=steps, unit="batch", disable=not steps) as bar:
        for name, trained in zoos.items():
            if not missing[name]:
                continue
            members = select_members(trained, missing[name])
            channels = {layer: trained.network.points[trained.network.index(layer)].channels for layer in case.layers}
            dissected = dissect(
                members.network,
                members.members,
                segmented,
                dataset.mean,
                dataset.std,
                layers=",".join(case.layers),
                bases={
                    layer: bases(settings, case, members.seeds, i, channels[layer]) for i, layer in enumerate(channels)
                },
                quantile=settings.quantile,
                image_size=trained.network.example.shape[1],
                max_device_memory=settings.memory_limit,
                on_batch=bar.update,
            )
            for layer, result in dissected.items():
                of_units, rows = tables(result, settings.iou, case.bases, members.seeds)
                units.add(of_units.assign(variant=name, layer=layer))
                results.add(rows.assign(variant=name, layer=layer))
    return results.select(case.requested())


def bases(settings: Settings, case: Case, seeds, layer: int, channels: int) -> np.ndarray:
    """The matrices (members, bases, channels, channels) in the order of `Case.bases`; each member has its own."""
    matrices = []
    for seed in seeds:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.basis_seed), seed), layer)
        path, *kinds = jax.random.split(key, 1 + len(GROUPS))
        powers = rotation_powers(special_orthogonal(path, channels), case.powers)
        others = [np.asarray(sample_rotation(k, kind, channels)) for k, kind in zip(kinds, GROUPS, strict=True)]
        matrices.append([*powers, *others])
    return np.array(matrices)


def tables(
    result: Dissection, threshold: float, exponents: dict[str, float], seeds
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the labels of units, and the rows of results.csv, without variant and layer."""
    (labels, best), counts = result.labels(threshold), result.detectors(threshold)
    members, bases, number = labels.shape
    index = pd.MultiIndex.from_product([seeds, list(exponents), range(number)], names=["seed", "basis", "unit"])
    names = np.array([*result.names, "none"])  # -1 is the last
    units = pd.DataFrame({"concept": names[labels.ravel()], "iou": best.ravel()}, index).reset_index()
    rows = pd.DataFrame(
        {
            "seed": np.repeat(seeds, bases),
            "basis": [*exponents] * members,
            "exponent": [*exponents.values()] * members,
            "detectors": counts.ravel(),
            "mean_iou": best.mean(axis=-1).ravel(),
        }
    )
    return units, rows


def spelled(table: pd.DataFrame, value: str, digits: int) -> pd.DataFrame:
    """Variants and layers down, bases across."""
    text = mean_and_deviation(table.groupby(["variant", "layer", "basis"], sort=False)[value], digits)
    text = text.unstack("basis")[list(table.basis.unique())]
    text.index = [", ".join(names) for names in text.index]
    return text.rename_axis(columns=None)


def changes(rows: pd.DataFrame, value: str, basis: str) -> np.ndarray:
    """By how much a value in this basis exceeds that in the own basis, member by member."""
    wide = rows.pivot(index="seed", columns="basis", values=value)
    return (wide[basis] - wide[OWN]).to_numpy(float)


VERDICTS = {True: "falls", False: "rises", None: "no change is shown"}


def falls(low: float, high: float, members: int) -> bool | None:
    """Whether a change is below 0 by its interval; None where the interval has 0, or is of fewer than 3 members."""
    return None if members < 3 else True if high < 0 else False if low > 0 else None


def conclusion(table: pd.DataFrame, case: Case) -> str:
    """Whether interpretability falls along the path with ReLU and stays without; and whether groups leave it."""
    lines, last = [], f"Q^{case.powers[-1]:.12g}"
    if table[["detectors", "mean_iou"]].isna().any().any():
        lost = sorted(
            {f"{v} {s}" for v, s in table[table.detectors.isna()][["variant", "seed"]].itertuples(index=False)}
        )
        return f"activations that are not finite, of {', '.join(lost)}: nothing is concluded"
    for layer, of_layer in table.groupby("layer", sort=False):
        moved = {}
        for variant, rows in of_layer.groupby("variant", sort=False):
            own = rows[rows.basis == OWN]
            moved[variant] = {value: changes(rows, value, last) for value in plots.dissection.VALUES}
            parts = []
            for value, digits in (("detectors", 1), ("mean_iou", 3)):
                centre, low, high = mean_interval(moved[variant][value])
                name = plots.dissection.VALUES[value]
                parts.append(
                    f"{name} {mean(own[value]):.{digits}f}, change {centre:+.{digits}f} "
                    f"[{low:.{digits}f}, {high:.{digits}f}] ({VERDICTS[falls(low, high, len(case.seeds))]})"
                )
            lines.append(f"{layer} {variant}, from {OWN} to {last}: {'; '.join(parts)}.")
        if len(moved) == 2 and len(case.seeds) > 1:
            with_relu, without = moved.values()
            parts = []
            for value, digits in (("detectors", 1), ("mean_iou", 3)):
                centre, low, high = difference_interval(with_relu[value], without[value])
                parts.append(
                    f"{plots.dissection.VALUES[value]} {centre:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
                )
            lines.append(f"{layer}, change with ReLU less change without: {'; '.join(parts)}.")
    moved = [
        abs(changes(rows, value, kind)).max()
        for _, rows in table.groupby(["variant", "layer"])
        for value in ("detectors", "mean_iou")
        for kind in GROUPS
    ]
    lines.append(f"Permutations and elements of G_ReLU change these by {max(moved):.1g} at most.")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, Settings)
