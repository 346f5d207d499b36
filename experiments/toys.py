"""Compute similarities of artificial representations whose relation is known (Morcos et al. 2018, figure 2 and A2).

signal: two representations share some directions and have independent noise in the others; PWCCA, which weights
directions by their share of the representation, is more robust to the noise than SVCCA and the mean of CCA.
rotation: states of recurrent networks h' = W h + a sigmoid(V h) + b, with a rotation W, compared with the last state.
For small a the states of all steps are linear functions of each other: CCA is 1 through time, the cosine is not.

By default the command takes half a minute. Running the same command again recomputes nothing; more runs, numbers of
shared directions or scales extend the results.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import pandas as pd

from experiments.command import run_command
from experiments.defaults import optional
from experiments.registry import Experiment, PublishedTable
from experiments.summary import Summary
from symjax import plots
from symjax.checks import integer_fields
from symjax.errors import InputError
from symjax.ops import files, runs
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import cca_similarity, pwcca, svcca
from symjax.tables import interval_text

ROWS = Schema("results", {"toy": str, "parameter": float, "run": int, "step": int, "measure": str}, ("value",))
EXPERIMENT = Experiment(
    place=130,
    published={
        "Morcos et al. 2018, figure 2 and appendix A2 (figures without numbers in the text)": PublishedTable(
            ("published",),
            {
                "signal": ("PWCCA is more robust to noise than SVCCA, and SVCCA than the mean CCA",),
                "rotation": ("by CCA states are equal through time, by cosine and Euclidean distance not",),
            },
        )
    },
    published_on=None,
)
SIGNAL_MEASURES = {"mean CCA": cca_similarity, "SVCCA": svcca, "PWCCA": pwcca}


@dataclasses.dataclass(frozen=True)
class Settings:
    shared: tuple[int, ...] = (0, 20, 50, 80, 110, 140, 170, 199)
    """Numbers of shared directions of the toy `signal`, separated by spaces."""
    neurons: int = 200
    """Neurons of each representation of the toy `signal`."""
    samples: int = 2000
    """Samples of each representation of the toy `signal`."""
    noise: float = 0.1
    """Standard deviation of the directions that are not shared; that of shared directions is 1."""
    signal_runs: int = 4
    """Random draws for each number of shared directions."""
    scales: tuple[float, ...] = (0.0, 0.1, 1.0, 10.0, 100.0)
    """Scales a of the nonlinear term of the toy `rotation`, separated by spaces."""
    units: int = 32
    """Units of the recurrent networks."""
    sequences: int = 256
    """Sequences, with random initial states."""
    steps: int = 10
    """Steps of the recurrent networks."""
    rotation_runs: int = 50
    """Random recurrent networks for each scale. Published: 1,000."""
    seed: int = 0
    """Seed of all random draws."""
    out: Annotated[Path | None, optional("DIR", "runs/toys/ and a name made from the settings")] = None
    """The folder of the results."""


def main(settings: Settings) -> Summary:
    check(settings)
    names = ("neurons", "samples", "noise", "units", "sequences", "steps", "seed")
    document = {name: getattr(settings, name) for name in names}
    path = settings.out or Path("runs", "toys", files.fingerprint(document))
    with runs.open_folder(path, "toys", document) as folder:
        table = compute(folder, settings)
        signal, rotation = (table[table.toy == toy] for toy in ("signal", "rotation"))
        plots.mean_curves(
            signal.assign(panel=f"{settings.neurons} neurons, noise {settings.noise:g}"),
            folder / "signal",
            x="parameter",
            line="measure",
            panel="panel",
            xlabel="shared directions",
            ylabel="similarity",
        )
        plots.mean_curves(
            rotation.assign(scale=rotation.parameter.map("a = {:g}".format)),
            folder / "rotation",
            x="step",
            line="scale",
            panel="measure",
            ylabel="with the last step",
            ordered=True,
            sharey=False,
        )
        first = rotation[rotation.step == 0]
        return Summary(
            folder,
            f"{settings.neurons} neurons and {settings.samples} samples; networks of {settings.units} units",
            conclusion(signal, first),
            {
                "toy signal: similarity by number of shared directions, mean and 95 % interval over runs": grid(signal),
                "toy rotation: first state with the last state by scale a, mean and 95 % interval over runs": grid(
                    first
                ),
            },
            ("signal", "rotation"),
        )


def check(settings: Settings) -> None:
    """Raise an InputError for a setting out of its range."""
    counts = {"neurons": 1, "samples": 2, "signal_runs": 1, "units": 2, "sequences": 2, "steps": 1, "rotation_runs": 1}
    integer_fields(settings, seed=(0, 2**31 - 1), **{name: (low, 10**5) for name, low in counts.items()})
    for name, of in {"samples": "neurons", "sequences": "units"}.items():
        low = 2 * getattr(settings, of) + 1
        if getattr(settings, name) < low:
            raise InputError(f"{name}: got {getattr(settings, name)}, expected {low} or more, over twice the {of}")
    if not 0 < settings.noise < float("inf"):
        raise InputError(f"noise: got {settings.noise}, expected a positive number")
    for name, (high, what) in {"shared": (settings.neurons, ", the neurons"), "scales": (1e6, "")}.items():
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values) or not all(0 <= value <= high for value in values):
            raise InputError(f"{name}: got {values}, expected different numbers from 0 to {high:g}{what}")


def shared_signal(key: jax.Array, shared: int | jax.Array, *, neurons: int, samples: int, noise: float):
    """Return two representations (samples, neurons) that share `shared` directions, each in a random orthonormal basis.

    x = [S, N_x] Q_x and y = [S, N_y] Q_y, with standard normal S (samples, shared), independent N_x, N_y of standard
    deviation `noise`, and orthogonal Q_x, Q_y from the Haar measure.
    """
    signal_key, *keys = jax.random.split(key, 5)
    signal = jax.random.normal(signal_key, (samples, neurons))
    is_shared = jnp.arange(neurons) < shared

    def representation(noise_key, basis_key):
        data = jnp.where(is_shared, signal, noise * jax.random.normal(noise_key, signal.shape))
        return data @ jax.random.orthogonal(basis_key, neurons)

    return representation(*keys[:2]), representation(*keys[2:])


def rotating_states(key: jax.Array, scale: float | jax.Array, *, units: int, sequences: int, steps: int) -> jax.Array:
    """Return the states (steps + 1, sequences, units) of a network h' = W h + scale sigmoid(V h) + b.

    W is orthogonal from the Haar measure; V, b and the initial states are standard normal.
    """
    w_key, v_key, b_key, state_key = jax.random.split(key, 4)
    w, v = jax.random.orthogonal(w_key, units), jax.random.normal(v_key, (units, units))
    b, state = jax.random.normal(b_key, (units,)), jax.random.normal(state_key, (sequences, units))

    def step(h, _):
        h = h @ w.T + scale * jax.nn.sigmoid(h @ v.T) + b
        return h, h

    return jnp.concatenate([state[None], jax.lax.scan(step, state, None, steps)[1]])


def mean_cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean over rows of the cosine between a row of x and the same row of y."""
    return ((x * y).sum(-1) / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1))).mean()


def relative_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean Euclidean distance of rows of x and y, divided by the mean norm of the rows of y."""
    return jnp.linalg.norm(x - y, axis=-1).mean() / jnp.linalg.norm(y, axis=-1).mean()


STATE_MEASURES = {"mean CCA": cca_similarity, "cosine": mean_cosine, "Euclidean distance": relative_distance}


@partial(jax.jit, static_argnames=("neurons", "samples"))
def signal_values(key, shared, *, neurons, samples, noise):
    """Return the value (1, measures) of each measure of `SIGNAL_MEASURES`."""
    x, y = shared_signal(key, shared, neurons=neurons, samples=samples, noise=noise)
    return jnp.stack([measure(x, y) for measure in SIGNAL_MEASURES.values()])[None]


@partial(jax.jit, static_argnames=("units", "sequences", "steps"))
def rotation_values(key, scale, *, units, sequences, steps):
    """Return values (steps + 1, measures) of `STATE_MEASURES` between the state of each step and the last one."""
    states = rotating_states(key, scale, units=units, sequences=sequences, steps=steps)
    return jax.lax.map(lambda h: jnp.stack([measure(h, states[-1]) for measure in STATE_MEASURES.values()]), states)


def compute(folder: Path, settings: Settings) -> pd.DataFrame:
    """Return the rows of both toys; compute the missing ones, in groups of one parameter."""

    def of(names: str, fn: Callable) -> Callable:
        return partial(fn, **{name: getattr(settings, name) for name in names.split()})

    toys = {
        "signal": (
            of("neurons samples noise", signal_values),
            settings.shared,
            settings.signal_runs,
            1,
            SIGNAL_MEASURES,
        ),
        "rotation": (
            of("units sequences steps", rotation_values),
            settings.scales,
            settings.rotation_runs,
            settings.steps + 1,
            STATE_MEASURES,
        ),
    }
    requested = pd.concat(
        pd.MultiIndex.from_product(
            [[toy], map(float, parameters), range(count), range(steps), measures], names=list(ROWS.key)
        ).to_frame(index=False)
        for toy, (_, parameters, count, steps, measures) in toys.items()
    )
    results = ResultTable(folder, ROWS)
    missing = results.missing(requested)[["toy", "parameter", "run"]].drop_duplicates()
    with progress_bar(desc="toys", unit="run", total=len(missing), disable=missing.empty) as bar:
        for (toy, parameter), group in missing.groupby(["toy", "parameter"], sort=False):
            values, *_, measures = toys[toy]
            rows = []
            for run in group.run:
                # One key for a run of a toy, so that parameters are compared on the same draws.
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), list(toys).index(toy)), run)
                table = pd.DataFrame(values(key, parameter), columns=list(measures)).rename_axis("step").reset_index()
                table = table.melt("step", var_name="measure").assign(toy=toy, parameter=parameter, run=run)
                rows.append(table)
                bar.update()
            results.add(pd.concat(rows))
    return results.select(requested)


def grid(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and interval of each measure (down) by parameter (across)."""
    text = table.groupby(["measure", "parameter"], sort=False).value.agg(interval_text).unstack()
    return text.rename(columns="{:g}".format).rename_axis(index=None, columns=None)


def conclusion(signal: pd.DataFrame, first: pd.DataFrame) -> str:
    """Return the similarities at half of the shared directions, and of the first state with the last one."""
    middle = sorted(signal.parameter.unique())[(signal.parameter.nunique() - 1) // 2]
    lines = [f"With {middle:g} shared directions: {by_measure(signal[signal.parameter == middle])}."]
    for scale, group in first.groupby("parameter"):
        lines.append(f"First and last state, a = {scale:g}: {by_measure(group)}.")
    return "\n".join(lines)


def by_measure(table: pd.DataFrame) -> str:
    """Return mean and interval of each measure as text."""
    text = table.groupby("measure", sort=False).value.agg(interval_text)
    return ", ".join(f"{name} {values}" for name, values in text.items())


if __name__ == "__main__":
    run_command(main, Settings)
