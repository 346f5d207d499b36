"""Compare the time of training a zoo of recurrent language models with PyTorch, which trains them one at a time.

    python -m benchmarks.recurrent                          # 8 LSTMs of 2 layers of 128 units
    python -m benchmarks.recurrent --model gru --members 4

Both run in one process, in alternating turns. Printed are the wall time and the processor time of all cores for the
training steps of all members, without compilation, validation and reading, and the ratios: medians over the turns.
Processor time is more reliable if other programs run at the same time. Tokens are random, since the time does not
depend on them. PyTorch must be installed (`pip install torch`).
"""

import dataclasses
import statistics
import time
from typing import Literal

import jax
import numpy as np
import tyro

from symjax import models
from symjax.data import Dataset, Split
from symjax.ops import parallel
from symjax.training import Recipe, create_state
from symjax.training.loop import device_data
from symjax.zoo.jobs import epochs_program


@dataclasses.dataclass(frozen=True)
class Settings:
    model: Literal["lstm", "gru", "rnn"] = "lstm"
    members: int = 8
    layers: int = 2
    width: int = 128
    vocabulary: int = 100
    length: int = 64
    """Number of tokens in a window."""
    batch_size: int = 32
    steps: int = 20
    """Number of training steps in a turn."""
    turns: int = 5
    """Number of turns that are measured; one more turn before them compiles."""
    threads: int | None = None
    """Number of threads of PyTorch; by default its own choice."""


def main(settings: Settings) -> None:
    import torch

    parallel.use_cores()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    tokens = np.random.default_rng(0).integers(
        0, settings.vocabulary, (settings.steps * settings.batch_size, settings.length + 1)
    )
    runs = {"symjax": symjax_run(settings, tokens), "PyTorch": torch_run(settings, tokens)}
    clocks = {"seconds": time.perf_counter, "processor seconds": time.process_time}
    times = {clock: {name: [] for name in runs} for clock in clocks}
    for turn in range(settings.turns + 1):
        for name, run in runs.items():
            begin = {clock: now() for clock, now in clocks.items()}
            run()
            for clock, now in clocks.items() if turn else ():  # the first turn compiles
                times[clock][name].append(now() - begin[clock])
    print(
        f"{settings.members} x {settings.model}, {settings.steps} steps; PyTorch with {torch.get_num_threads()} threads"
    )
    for clock, of_clock in times.items():
        ratios = [torch_time / time_here for time_here, torch_time in zip(*of_clock.values(), strict=True)]
        for name, values in {**of_clock, "PyTorch / symjax": ratios}.items():
            print(f"{clock}, {name}: {statistics.median(values):.2f} (from {min(values):.2f} to {max(values):.2f})")


def symjax_run(settings: Settings, tokens: np.ndarray):
    """Return a function that trains all members for the steps of a turn."""
    split = Split(tokens[:, :-1], tokens[:, 1:])
    names = tuple(map(str, range(settings.vocabulary)))
    dataset = Dataset("random", split, split, split, names, None, None)
    options = {"width": settings.width, "classes": settings.vocabulary, "layers": settings.layers}
    network = models.create(settings.model, example=jax.ShapeDtypeStruct((2, settings.length), np.int32), **options)
    recipe = Recipe(epochs=1, batch_size=settings.batch_size, weight_decay=0.0, flip=False, translate=0)
    states = [create_state(network, recipe, settings.steps, seed) for seed in range(settings.members)]
    states = parallel.stack([jax.device_get(state) for state in states])
    shared = parallel.replicate(device_data(dataset, None))
    program = epochs_program(network, recipe, parallel.default_execution(), tuple(jax.local_devices()))
    return lambda: jax.block_until_ready(program(states, shared))


def torch_run(settings: Settings, tokens: np.ndarray):
    """Return a function that does the same in PyTorch, member by member."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(settings.vocabulary, settings.width)
            recurrent = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[settings.model]
            self.recurrent = recurrent(settings.width, settings.width, settings.layers, batch_first=True)
            self.decoder = torch.nn.Linear(settings.width, settings.vocabulary)

        def forward(self, x):
            return self.decoder(self.recurrent(self.embedding(x))[0])

    trained = [Model() for _ in range(settings.members)]
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3) for model in trained]
    batches = torch.from_numpy(tokens).reshape(settings.steps, settings.batch_size, -1)

    def run():
        for model, optimizer in zip(trained, optimizers, strict=True):
            for batch in batches:
                optimizer.zero_grad(set_to_none=True)
                logits = model(batch[:, :-1]).flatten(0, 1)
                torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten()).backward()
                optimizer.step()

    return run


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
