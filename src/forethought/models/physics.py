"""A user's own equations of motion with parameters to be fitted, and a model of what they do not explain.

def swing(x, u, theta):                       # plain jax.numpy, one point
    ...
    return jnp.stack([...])                   # the next state

PhysicsLearner(swing, {"mass": 1.0, "length": 0.5}, positive=("mass", "length"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PyTree

from forethought.core import (
    AbstractAveraged,
    AbstractDynamics,
    AbstractFitted,
    AbstractLearner,
    AbstractPrediction,
    AbstractSized,
)
from forethought.math.angles import wrap_components
from forethought.math.finite import need_x64
from forethought.math.gaussian import DiagonalGaussian, Wrapped, wrapped
from forethought.math.rollout import copies
from forethought.models.physics_fit import Found, Law, Options, find, theta_of
from forethought.models.table import need_sizes, usable
from forethought.types import Action, Array, Dataset, Metrics, RandomKey, Scalar, Spec, State, Time, UserError


class Shifted(AbstractPrediction):
    """A prediction moved by a known vector.  Made by `moved`."""

    mean: Float[Array, " k"]
    inner: AbstractPrediction
    shift: Float[Array, " k"]

    @property
    def std(self) -> Array:
        """Of the inner prediction, which must have one."""
        return self.inner.std  # pyright: ignore[reportAttributeAccessIssue]

    def sample(self, key: RandomKey) -> Float[Array, " k"]:
        """A sample of the inner prediction, moved."""
        return self.inner.sample(key) + self.shift

    def log_prob(self, y: Float[Array, " k"]) -> Scalar:
        """log p of the inner prediction where y came from."""
        return self.inner.log_prob((y - self.shift).astype(self.inner.mean.dtype))


def moved(inner: AbstractPrediction, shift: Float[Array, " k"], angles: tuple[int, ...]) -> AbstractPrediction:
    """The prediction moved by a vector: one Gaussian is one still, which is what planners ask."""
    bare = inner.unwrapped if isinstance(inner, Wrapped) else inner
    if isinstance(bare, DiagonalGaussian):
        return wrapped(DiagonalGaussian(bare.mean + shift, bare.std.astype(shift.dtype)), angles)
    return wrapped(Shifted(inner.mean + shift, inner, shift), angles)


class PhysicsBelief(AbstractDynamics):
    """y = f(x, u, theta) + what the residual model says, or noise if there is none; float64."""

    law: Law
    theta: PyTree
    noise: Float[Array, " n"]
    residual: AbstractDynamics | None
    spec: Spec

    def change(self, x: State, u: Action, theta: PyTree) -> Float[Array, " n"]:
        """f(x, u, theta) - x, angles the short way round."""
        return wrap_components(self.law(x, jnp.asarray(u, jnp.float64), theta) - x, self.spec.angles)

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """N(f, noise^2), or the residual model's prediction moved by what f says."""
        x = jnp.asarray(x, jnp.float64)
        change = self.change(x, u, self.theta)
        if self.residual is None:
            return wrapped(DiagonalGaussian(x + change, self.noise), self.spec.angles)
        inner = self.residual.predict(x, u, t)
        shift = jnp.concatenate([change, jnp.zeros((self.spec.extras,), jnp.float64)])
        return moved(inner, shift, self.spec.angles)

    def draw(self, key: RandomKey, particles: int) -> PhysicsBelief:
        """The same equations, with beliefs of the residual model."""
        same = copies((self.law, self.theta, self.noise), particles)
        drawn = eqx.tree_at(lambda b: (b.law, b.theta, b.noise), self, same)
        if self.residual is None:
            return drawn
        return eqx.tree_at(lambda b: b.residual, drawn, self.residual.draw(key, particles))


class Physics(AbstractAveraged):
    """The fitted equations with a Gaussian posterior of their parameters: N(p, root root^T), where p are the
    parameters, or the logarithms of those that are positive."""

    belief: PhysicsBelief
    p: Float[Array, " q"]
    root: Float[Array, "q q"]
    positive: tuple[bool, ...] = eqx.field(static=True)

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """The belief at the fitted parameters.  Without a residual model its variance is widened by what the doubt
        about the parameters makes of f, to first order."""
        it = self.belief
        if it.residual is not None:
            return it.predict(x, u, t)
        x = jnp.asarray(x, jnp.float64)
        along = lambda p: it.change(x, u, theta_of(it.theta, self.positive, p))
        change, moves = jax.linearize(along, self.p)
        doubt = jnp.sum(jax.vmap(moves)(self.root.T) ** 2, axis=0)
        return wrapped(DiagonalGaussian(x + change, jnp.sqrt(it.noise**2 + doubt)), it.spec.angles)

    def average(self) -> Physics:
        """With the average of the residual model, if that has one; itself otherwise, whose mean costs no more."""
        it = self.belief
        if not isinstance(it.residual, AbstractAveraged):
            return self
        return dataclasses.replace(self, belief=dataclasses.replace(it, residual=it.residual.average()))

    def draw(self, key: RandomKey, particles: int) -> PhysicsBelief:
        """Parameters from their posterior, each with a belief of the residual model."""
        k_theta, k_residual = jr.split(key)
        noise = jr.normal(k_theta, (particles, self.p.shape[0]), jnp.float64)
        each = jax.vmap(lambda p: theta_of(self.belief.theta, self.positive, p))(self.p + noise @ self.root.T)
        return eqx.tree_at(lambda b: b.theta, self.belief.draw(k_residual, particles), each)


class FittedPhysics(AbstractSized):
    """The equations, and the fitted state of the residual learner."""

    alone: Physics
    """Without the residual model."""
    residual: AbstractFitted | None

    @property
    def model(self) -> Physics:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Both together."""
        if self.residual is None:
            return self.alone
        belief = dataclasses.replace(self.alone.belief, residual=self.residual.model)
        return dataclasses.replace(self.alone, belief=belief)

    def resized(self, shapes: Mapping[str, tuple[int, ...]]) -> FittedPhysics:
        """With room for the rows that the residual model keeps, if it keeps any."""
        if not isinstance(self.residual, AbstractSized):
            return self
        own = {n.removeprefix("residual."): shape for n, shape in shapes.items() if n.startswith("residual.")}
        return dataclasses.replace(self, residual=self.residual.resized(own))


class PhysicsLearner(AbstractLearner[FittedPhysics]):
    """Parameters of a user's f(x, u, theta) by least squares, one step ahead or several, and a model of the rest.

    The objective is sum ((y - f)/noise)^2 over states and, with a horizon H > 1, over the 1, ..., H steps from every
    row on within its episode, divided by H because these stretches overlap; plus the prior.  The noise is that of the
    residuals, for each number of steps, found by turns with theta.

    The posterior is Laplace's, and with H > 1 widened to what noise at one row does to all stretches that pass there.
    """

    f: Callable[..., Any]
    """x [n], u [m], theta -> the next state [n]: a jax function of one point, or an equinox module with such a call."""
    theta: PyTree
    """The initial guess: numbers by name, {"mass": 1.0, "length": 0.5}.  It is the centre of the prior."""
    positive: tuple[str, ...] = ()
    """Names of parameters that cannot be 0 or less: their logarithms are fitted."""
    horizon: int = 1
    """Steps ahead that are compared.  More than one helps where observations are noisy: what a parameter does grows
    with the steps, their noise does not."""
    residual: AbstractLearner | None = None
    """A learner of what f does not explain, y - f(x, u, theta): a Gaussian process or a network."""
    doubt: float = 1.0
    """Prior standard deviation of a parameter in units of its guess (of 1 where that is 0), or of its logarithm."""
    rounds: int = 100
    """The most evaluations per descent."""

    def init(self, spec: Spec, key: RandomKey) -> FittedPhysics:
        """The equations with the initial guess.  Raises `UserError` where they cannot be a model of such a system."""
        need_x64("The physics model")
        if spec.extras and self.residual is None:
            raise UserError(
                f"the cost has to be learned from data ({spec.extras} extra outputs), and f(x, u, theta) predicts the "
                "next state only: give the physics model a residual learner, which predicts the others, or choose a "
                "task with a known cost."
            )
        theta, positive = _guess(self)
        law = _law(self, spec, theta)
        p, _ = _unpacked(theta, positive)
        belief = PhysicsBelief(law, theta, jnp.ones((spec.n,), jnp.float64), None, spec)
        zero = jnp.zeros((p.shape[0], p.shape[0]), jnp.float64)
        residual = None if self.residual is None else self.residual.init(spec, key)
        return FittedPhysics(Physics(belief, jnp.asarray(p), zero, positive), residual)  # pyright: ignore[reportCallIssue]

    def fit(self, fitted: FittedPhysics, data: Dataset, key: RandomKey) -> tuple[FittedPhysics, Metrics]:
        """Fit theta from the better of the last fit and the initial guess, then the residual learner to what is left.

        With fewer than two usable rows, or if the residual learner fails, the fit has `failed`, and the model from
        before is kept: new equations with what the old ones left over would be neither.  Raises `UserError` if f gives
        nothing finite for any row.
        """
        model = fitted.alone
        spec, law = model.belief.spec, model.belief.law
        need_sizes(spec, data)
        theta, positive = _guess(self)
        guess, sigma = _unpacked(theta, positive)
        options = Options(guess, self.doubt * sigma, positive, self.horizon, self.rounds)
        use = usable(data, spec.extras)
        found = find(law, spec, data, use, (theta, np.asarray(model.p)), options)
        left_out = int(data.count) - (int(found.use.sum()) if found else int(use.sum()))
        if found is None or not found.ok:
            says = found.says if found else "A physics model needs two rows of credible numbers where f is finite."
            return fitted, {"failed": True, "left_out": left_out, "says": says}
        p = jnp.asarray(found.p)
        belief = dataclasses.replace(model.belief, theta=theta_of(theta, positive, p), noise=jnp.asarray(found.noise))
        alone = Physics(belief, p, jnp.asarray(found.root), positive)
        residual, extra = self._rest(fitted, alone, data, found, key)
        if extra.get("failed"):
            return fitted, {"left_out": left_out} | extra
        metrics = {"failed": False, "left_out": left_out} | _named(belief.theta) | {"noise": found.noise} | extra
        return FittedPhysics(alone, residual), metrics  # pyright: ignore[reportCallIssue]

    def _rest(
        self, fitted: FittedPhysics, alone: Physics, data: Dataset, found: Found, key: RandomKey
    ) -> tuple[AbstractFitted | None, Metrics]:
        """The residual learner fitted to rows that lead to x + (y - f): its change of state is then the residual."""
        if self.residual is None:
            return None, {}
        left = _left_over(alone.belief, np.asarray(data.x), np.asarray(data.u), np.asarray(data.y))
        rows = _compact(dataclasses.replace(data, y=np.asarray(left)), found.use)
        residual, metrics = self.residual.fit(fitted.residual, rows, key)
        extra = {f"residual_{name}": value for name, value in metrics.items() if name not in ("failed", "says")}
        extra["failed"] = bool(np.asarray(metrics.get("failed", False)))
        if "says" in metrics:  # by the name under which a run shows it
            extra["says"] = f"Residual model: {str(metrics['says']).removeprefix('Model: ')}"
        return residual, extra


@eqx.filter_jit
def _left_over(belief: PhysicsBelief, x: Array, u: Array, y: Array) -> Float[Array, "C n"]:
    """x + (y - f), row by row."""
    return jax.vmap(lambda x, u, y: x + wrap_components(y - x - belief.change(x, u, belief.theta), belief.spec.angles))(
        jnp.asarray(x, jnp.float64), jnp.asarray(u, jnp.float64), y
    )


def _compact(data: Dataset, use: np.ndarray) -> Dataset:
    """The dataset with the rows in use only, its capacity the same."""
    index = np.flatnonzero(use)

    def moved(column: Array) -> np.ndarray:
        out = np.zeros_like(np.asarray(column))
        out[: len(index)] = np.asarray(column)[index]
        return out

    columns = {f.name: moved(getattr(data, f.name)) for f in dataclasses.fields(data) if f.name != "count"}
    return Dataset(**columns, count=np.asarray(len(index), np.int64))


def _named(theta: PyTree) -> Metrics:
    """Parameters by name, for metrics."""
    return {f"theta_{name}": np.asarray(value).tolist() for name, value in _leaves(theta)}


def _leaves(theta: PyTree) -> list[tuple[str, Any]]:
    """Name and value of every parameter: "mass", or "arm.mass" where dicts lie within each other."""
    flat, _ = jax.tree_util.tree_flatten_with_path(theta)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), value) for path, value in flat]


def _guess(learner: PhysicsLearner) -> tuple[PyTree, tuple[bool, ...]]:
    """The initial guess as float64 arrays, and which of its numbers are positive.  Raises `UserError` for no guess."""
    names = [name for name, _ in _leaves(learner.theta)]
    if not names:
        raise UserError("theta of the physics model is empty; name the parameters to fit, as in {'mass': 1.0}.")
    for name in learner.positive:
        if name not in names:
            raise UserError(f"positive names {name!r}, which is not in theta; theta has {', '.join(names)}.")
    for name, value in _leaves(learner.theta):
        array = np.asarray(value)
        if array.dtype.kind not in "fiu" or not np.isfinite(array.astype(np.float64)).all():
            raise UserError(f"theta's {name!r} is {str(value)[:80]}; it must be a finite number, or an array of them.")
        if name in learner.positive and not (array > 0).all():
            raise UserError(f"theta's {name!r} is {str(value)[:80]}; it is said to be positive.")
    if learner.horizon < 1:
        raise UserError(f"the horizon of the physics model is {learner.horizon}; it must be at least 1.")
    if not (np.isfinite(learner.doubt) and learner.doubt > 0.0):
        raise UserError(f"doubt of the physics model is {learner.doubt}; it must be a positive number.")
    with jax.ensure_compile_time_eval():  # who only asks for shapes gets numbers, too: the guess is known
        theta = jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float64)), learner.theta)
    flags = [flag for name, v in _leaves(theta) for flag in [name in learner.positive] * v.size]
    return theta, tuple(flags)


def _unpacked(theta: PyTree, positive: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The free parameters p of theta, and the scales that the prior's width is a multiple of."""
    values, mask = np.concatenate([np.ravel(value) for _, value in _leaves(theta)]), np.asarray(positive)
    p = np.where(mask, np.log(np.where(mask, values, 1.0)), values)
    return p, np.where(mask | (values == 0.0), 1.0, np.abs(values))


def _law(learner: PhysicsLearner, spec: Spec, theta: PyTree) -> Law:
    """The user's function in a form that programs and files can hold.  Raises `UserError` if it is no such function."""
    if not callable(learner.f):
        raise UserError(f"f of the physics model is {learner.f!r}; it must be a function of x, u and theta.")
    arrays, rest = eqx.partition(learner.f, eqx.is_array)
    law = Law(arrays, rest)
    sizes = [jax.ShapeDtypeStruct((size,), jnp.float64) for size in (spec.n, spec.m)]
    what = f"f(x, u, theta) of the physics model, with x of size {spec.n} and u of size {spec.m},"
    try:
        hash(rest)
        made = eqx.filter_eval_shape(eqx.combine(arrays, rest), *sizes, theta)
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(f"{what} failed: {type(error).__name__}: {said}") from error
    if not (hasattr(made, "shape") and made.shape == (spec.n,) and made.dtype.kind in "fiu"):
        shown = f"an array of shape {made.shape} and dtype {made.dtype}" if hasattr(made, "shape") else f"{made!r:.80}"
        raise UserError(f"{what} returned {shown}; expected the next state, an array of shape ({spec.n},).")
    return law
