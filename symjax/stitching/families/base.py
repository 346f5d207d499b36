"""The interface of stitch families: from parameters to a matrix, and operations on the parameters."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from symjax.errors import InputError
from symjax.stitching.junction import Junction

PyTree = Any


@dataclass(frozen=True)
class Family:
    """A family of stitch matrices W (d_b, d_a), which act on channels as y_i = sum_j W_ij x_j.

    d_a is the number of channels of the front's features, d_b that of the features that the tail reads. A family is a
    static description: hashable, without arrays. Its methods are pure functions of the parameters of one stitch, a
    pytree. Subclasses override the methods that differ. A family with a hyperparameter is a frozen dataclass whose
    first field is the hyperparameter, with a default: `float`, or `int` for a family that is named as in "rank4". A
    field that redefines a class attribute is not the hyperparameter.

    Class attributes, which `register_family` sets:
      name: the name in results and on the command line; by default that of the class.
      description: one line for help texts.
      title: the name in figures.
      color: the color in figures, or {hyperparameter: color}; None for one of a neutral palette.
      grid: the hyperparameters to choose from by validation; empty if they must be given.

    Class attributes:
      start: the default start matrix: "identity", "random", "matched" or "least_squares".
      trains: whether the family has trainable parameters. Otherwise the start matrix is the stitch.
      square: whether d_a and d_b must be equal.
      min_epochs: the smallest number of epochs with which all parameters are trained.
    """

    start: ClassVar[str] = "least_squares"
    trains: ClassVar[bool] = True
    square: ClassVar[bool] = False
    min_epochs: ClassVar[int] = 1
    name: ClassVar[str] = ""
    description: ClassVar[str] = ""
    title: ClassVar[str] = ""
    color: ClassVar[str | Mapping[float, str] | None] = None
    grid: ClassVar[tuple[float, ...]] = ()

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.name = cls.__name__  # instead of the name of a registered parent

    def __post_init__(self):
        """Check that the hyperparameter is positive; override this for another range."""
        if (field := self.parameter()) is not None:
            kind = Integral if self.is_counted() else Real
            if not (isinstance(self.hyperparameter, kind) and 0 < self.hyperparameter < float("inf")):
                raise InputError(f"{field.name}: got {self.hyperparameter!r}, expected a positive number")

    @classmethod
    def parameter(cls) -> dataclasses.Field | None:
        """Return the field of the hyperparameter; None for a family without one."""
        for base in reversed(cls.__mro__[:-1]):  # parents first: a subclass can make their class attributes fields
            for field in dataclasses.fields(base) if issubclass(base, Family) else ():
                if field.name not in Family.__annotations__:
                    return cls.__dataclass_fields__[field.name]
        return None

    @classmethod
    def is_counted(cls) -> bool:
        """Return whether the hyperparameter is an integer."""
        field = cls.parameter()
        return field is not None and field.type in (int, "int")

    @classmethod
    def default(cls) -> Any:
        """Return the default of the hyperparameter; None for a family without one."""
        field = cls.parameter()
        return None if field is None else field.default

    @property
    def hyperparameter(self) -> float | None:
        """The rank, the weight of a penalty or the temperature; None for a family without one."""
        field = self.parameter()
        return None if field is None else getattr(self, field.name)

    @property
    def label(self) -> str:
        """The name in results and on the command line, with the hyperparameter unless it has its default."""
        if self.is_counted():
            return f"{self.name}{self.hyperparameter}"
        return self.name if self.hyperparameter == self.default() else f"{self.name}:{self.hyperparameter:g}"

    def misfit(self, junction: Junction) -> str:
        """Return a message if no matrix of the family has `junction.shape`, (d_b, d_a); otherwise ""."""
        unequal = self.square and len(set(junction.shape)) > 1
        return f"got {junction.widths}, expected equal widths for {self.label}" if unequal else ""

    def random(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Return a random start matrix of `shape`, (d_b, d_a)."""
        return jax.random.normal(key, shape, jnp.float32) / shape[1] ** 0.5

    def init(self, start: jax.Array) -> PyTree:
        """Return parameters whose matrix is the start matrix (d_b, d_a), or the nearest one in the family."""
        return {"matrix": start}

    def matrix(self, params: PyTree, progress: jax.Array) -> jax.Array:
        """Return the matrix (d_b, d_a). `progress` in [0, 1) is the completed share of the training."""
        return params["matrix"]

    def factors(self, params: PyTree) -> tuple[jax.Array, jax.Array] | None:
        """Return factors (d_b, r) and (r, d_a) of the matrix, rounded or not; None if the family has none."""
        return None

    def penalty(self, params: PyTree, progress: jax.Array) -> jax.Array:
        """Return the term that is added to the loss."""
        return jnp.float32(0)

    def project(self, params: PyTree, previous: PyTree, progress: jax.Array, length: jax.Array | float = 0.0) -> PyTree:
        """Return parameters that satisfy the constraints, after an optimizer step of `length` from `previous`."""
        return params

    def residual(self, params: PyTree) -> jax.Array:
        """Return the largest violation of the constraint of `project`; reported at the end of each epoch."""
        return jnp.float32(0)

    def halfway(self, params: PyTree) -> PyTree:
        """Return new parameters once half of the epochs are done; from then on `progress` is at least 1/2."""
        return params

    def round(self, params: PyTree) -> jax.Array:
        """Return the matrix that is evaluated and saved."""
        return self.matrix(params, jnp.float32(1))
