from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Float
from scipy.stats import multivariate_normal

from fakes import as_dataset, as_trajectory
from forethought.core import AbstractDynamics, AbstractPrediction
from forethought.math.em import Joint
from forethought.math.linearise import linearise
from forethought.math.local_fit import fit_bayesian, fit_regression
from forethought.math.scaling import Scaler
from forethought.models.ensemble import EnsembleLearner
from forethought.models.gmm import GMMLearner, conditioned
from forethought.models.gp_learner import GPLearner
from forethought.models.known import KnownDynamics
from forethought.models.local_prior import prior_from, prior_from_mixture, prior_from_model
from forethought.models.mdn import MDNLearner
from forethought.types import Array, Spec, UserError

PLAIN, ANGLE = Spec(2, 1), Spec(2, 1, angles=(0,))
STEPS, ROWS = 5, 8
regression = jax.jit(fit_regression)
bayesian = jax.jit(fit_bayesian)
prior_of = eqx.filter_jit(lambda model, z, y, weight, **more: prior_from(model, z, y, weight, **more))


def push(x, u, gravity: float = 1.0, torque: float = 1.0):
    """A pendulum by jax or NumPy; a model of it with other constants is a wrong prior."""
    xp = np if isinstance(x, np.ndarray) else jnp
    rate = 9.8 * gravity * xp.sin(x[..., 0]) + 3.0 * torque * u[..., 0] - 0.3 * x[..., 1]
    return xp.stack([x[..., 0] + 0.05 * x[..., 1], x[..., 1] + 0.05 * rate], axis=-1)


def swings(seed: int, rows: int, centre: float = 1.0, steps: int = STEPS, noise: float = 0.01):
    """Local rows [T, N, ...] around one place, and the slope there."""
    random = np.random.default_rng(seed)
    x = np.array([centre, 0.5]) + random.normal(size=(steps, rows, 2)) * [0.1, 0.3]
    u = 0.5 * random.normal(size=(steps, rows, 1))
    y = push(x, u) + noise * random.normal(size=x.shape)
    slope = np.array([[1.0, 0.05, 0.0], [0.49 * np.cos(centre), 1.0 - 0.015, 0.15]])
    return np.concatenate([x, u], axis=2), y, slope


def many(spec: Spec, rows: int = 300, near: bool = False):
    """Data of a global model, from all over the place or from where local rollouts are, angles on [-pi, pi)."""
    random = np.random.default_rng(1)
    x, u = random.uniform([-3.1, -3.0], [3.1, 3.0], (rows, 2)), random.uniform(-2, 2, (rows, 1))
    if near:
        x, u = np.array([1.0, 0.5]) + x * [0.1, 0.3], 0.4 * u
    y = push(x, u) + 0.01 * random.normal(size=x.shape)
    if spec.angles:
        y[:, 0] = (y[:, 0] + np.pi) % (2 * np.pi) - np.pi
    return as_dataset(spec, as_trajectory(x, u, y))


def learned(learner, spec: Spec = PLAIN, near: bool = False):
    after, _ = learner.fit(learner.init(spec, jr.key(0)), many(spec, near=near), jr.key(1))
    return after.model


@pytest.fixture(scope="module")
def models():
    learners = {
        "mixture": GMMLearner(),
        "ensemble": EnsembleLearner(members=3, width=32, gradient_steps=1500),
        "gp": GPLearner(functions=2, waves=4, restarts=0, evaluations=60),
    }
    return {name: learned(learner, near=name == "mixture") for name, learner in learners.items()}


def conditional(prior):
    """Slope, offset and noise that a prior stands for, densely."""
    d = prior.mean.shape[1] - 2
    mean, cov = np.asarray(prior.mean), np.asarray(prior.cov)
    slope = np.linalg.solve(cov[:, :d, :d], cov[:, :d, d:]).transpose(0, 2, 1)
    return slope, mean[:, d:] - np.einsum("tij,tj->ti", slope, mean[:, :d]), cov[:, d:, d:] - slope @ cov[:, :d, d:]


def close(a, b, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-7, atol=atol)


def is_sound(prior) -> None:
    assert all(np.isfinite(leaf).all() and leaf.dtype == np.float64 for leaf in jax.tree.leaves(prior))
    assert not np.any(np.asarray(prior.cov) - np.asarray(prior.cov).transpose(0, 2, 1))
    spread = np.sqrt(np.diagonal(prior.cov, axis1=1, axis2=2))
    assert np.linalg.eigvalsh(prior.cov / spread[:, :, None] / spread[:, None, :]).min() > -1e-12


# --- the mixture ------------------------------------------------------------------------------------------------------


def random_mixture(components: int, room: int, spec: Spec = PLAIN, scalers: bool = True):
    """Any joint over [features; change], with units of its own."""
    random = np.random.default_rng(2)
    f, k = spec.n + spec.m, spec.outputs
    half = random.normal(size=(components, f + k, f + k))
    covs = half @ half.transpose(0, 2, 1) / 4.0 + 0.1 * np.eye(f + k)
    joint = Joint(np.log(random.dirichlet(np.ones(components))), random.normal(size=(components, f + k)), covs)
    of = lambda size: Scaler(random.normal(size=size), 0.5 + random.uniform(size=size))
    return conditioned(joint, spec, (of(f), of(k)), room)


@pytest.mark.parametrize("extras", [0, 2])
def test_a_mixture_gives_its_moments_weighted_by_responsibilities(extras: int) -> None:
    """By SciPy's densities, component by component in units of the data; extras are not part of it."""
    spec = Spec(2, 1, extras)
    model = random_mixture(3, 6, spec)
    z, y, _ = swings(3, ROWS)
    weight = np.ones((STEPS, ROWS))
    weight[1, 5:] = 0.0
    prior = prior_of(model, z, y, weight, strength_mean=0.5, strength_cov=2.0)
    # [z; change] in units of the data, then [z; x + change].
    units = np.concatenate([model.inputs.std, model.outputs.std[:2]])
    shift = np.concatenate([model.inputs.mean, model.outputs.mean[:2]])
    to_y = np.eye(5)
    to_y[3:, :2] = np.eye(2)
    covs = [to_y @ (np.asarray(c)[:5, :5] * units[:, None] * units) @ to_y.T for c in model.covs[:3]]
    means = [to_y @ (shift + units * np.asarray(m)[:5]) for m in model.means[:3]]
    for t in range(STEPS):
        rows = np.concatenate([z[t], y[t]], axis=1)[weight[t] > 0]
        density = [
            np.exp(float(w)) * multivariate_normal(m, c).pdf(rows)
            for w, m, c in zip(model.log_weights[:3], means, covs, strict=True)
        ]
        share = (density / np.sum(density, axis=0)).mean(axis=1)
        mean = sum(w * m for w, m in zip(share, means, strict=True))
        cov = sum(w * (c + np.outer(m - mean, m - mean)) for w, m, c in zip(share, means, covs, strict=True))
        close(prior.mean[t], mean)
        close(prior.cov[t], cov)
    assert (np.asarray(prior.strength_mean) == 0.5).all()
    assert (np.asarray(prior.strength_cov) == 2.0).all()


def test_one_component_is_its_own_conditional() -> None:
    model = random_mixture(1, 1)
    z, y, _ = swings(4, ROWS)
    slope, offset, noise = conditional(prior_of(model, z, y, np.ones(ROWS)))
    at = linearise(model, z[0, 0, :2], z[0, 0, 2:], jnp.zeros((), jnp.int32))
    close(slope[0], np.concatenate([at.a, at.b], axis=1))
    close(offset[0], at.mean - slope[0] @ z[0, 0])
    said = model.predict(z[0, 0, :2], z[0, 0, 2:], jnp.zeros((), jnp.int32))
    close(noise[0], said.covariance)


@pytest.mark.parametrize("turns", [0, 2])
def test_a_mixture_of_sines_gives_a_prior_for_angles(turns: int) -> None:
    """Rows near an angle, in whatever turn they are: slopes of the true system, in the same turn."""
    model = learned(GMMLearner(components=16), ANGLE)
    z, y, true = swings(5, 20, centre=2.8)
    z[:, :, 0] += 2 * np.pi * turns
    y[:, :, 0] = (y[:, :, 0] + np.pi) % (2 * np.pi) - np.pi
    prior = prior_of(model, z, y, np.ones(20), angles=(0,))
    is_sound(prior)
    slope, offset, _ = conditional(prior)
    assert np.abs(slope - true).max() < 0.25
    centre = z.mean(axis=1)
    moved = np.einsum("tij,tj->ti", slope, centre) + offset - centre[:, :2]
    close(moved, np.mean(push(z[:, :, :2], z[:, :, 2:]) - z[:, :, :2], axis=1), atol=0.1)


# --- any other model --------------------------------------------------------------------------------------------------


def test_a_known_linear_system_is_its_own_prior() -> None:
    A = np.random.default_rng(6).normal(size=(2, 3))
    model = KnownDynamics(lambda x, u: A @ jnp.concatenate([x, u]) + 1.0)
    z, y, _ = swings(7, ROWS)
    slope, offset, noise = conditional(prior_from(model, z, y, np.ones(ROWS)))
    close(slope, np.broadcast_to(A, (STEPS, 2, 3)), atol=1e-7)
    close(offset, np.ones((STEPS, 2)), atol=1e-7)
    close(noise, np.zeros((STEPS, 2, 2)), atol=1e-12)


def test_a_model_gives_mean_slope_and_variance_over_the_rows(models) -> None:
    """Of the ensemble, whose variance has the members' disagreement in it; and the bend of the mean itself."""
    model, now = models["ensemble"], jnp.zeros((), jnp.int32)
    z, y, _ = swings(8, ROWS)
    weight = np.ones((STEPS, ROWS))
    weight[2, 3:] = 0.0
    prior = prior_of(model, z, y, weight)
    slope, _, noise = conditional(prior)
    ask = eqx.filter_jit(jax.vmap(lambda z: (linearise(model, z[:2], z[2:], now), model.predict(z[:2], z[2:], now))))
    for t in (0, 2):
        rows = z[t][weight[t] > 0]
        at, said = ask(rows)
        mean = np.asarray(jnp.concatenate([at.a, at.b], axis=2), np.float64).mean(axis=0)
        close(slope[t], mean, atol=1e-6)
        close(prior.mean[t], np.concatenate([rows.mean(axis=0), np.asarray(at.mean, np.float64).mean(axis=0)]), 1e-6)
        bent = np.asarray(at.mean - at.mean.mean(axis=0)) - (rows - rows.mean(axis=0)) @ mean.T
        expected = np.diag(np.mean(np.asarray(said.std, np.float64) ** 2, axis=0)) + bent.T @ bent / len(rows)
        close(noise[t], expected, atol=1e-7)
    each = jax.vmap(lambda member: member.said(z[0, 0, :2], z[0, 0, 2:]).mean)(model.members)
    alone = jax.vmap(lambda member: member.said(z[0, 0, :2], z[0, 0, 2:]).std)(model.members)
    whole = model.predict(z[0, 0, :2], z[0, 0, 2:], now).std ** 2
    close(whole, jnp.mean(alone**2, axis=0) + jnp.var(each, axis=0), atol=1e-7)


def test_angles_that_a_model_wraps_stay_in_the_turn_of_the_state() -> None:
    z, y, true = swings(9, ROWS, centre=3.1)
    fold = lambda v: v.at[0].set((v[0] + jnp.pi) % (2 * jnp.pi) - jnp.pi)
    model = KnownDynamics(lambda x, u: fold(push(x, u)))
    prior = prior_from(model, z, y, np.ones(ROWS), angles=(0,))
    slope, _, _ = conditional(prior)
    assert np.abs(slope - true).max() < 0.05
    close(prior.mean[:, 3], push(z[:, :, :2], z[:, :, 2:])[:, :, 0].mean(axis=1))


def test_a_prior_helps_where_rows_are_few() -> None:
    """Constants of the model wrong by a quarter: median of the largest error of a slope, over 300 fits."""
    model = KnownDynamics(lambda x, u: push(x, u, gravity=0.75, torque=1.3))
    build = jax.jit(lambda z, y, weight: prior_from_model(model, z, y, weight))
    noise = np.zeros((5, 5))
    noise[3:, 3:] = 1e-4 * np.eye(2)  # what is known is certain; the noise it does not know
    z, y, true = swings(10, 50, steps=300)
    gains = {}
    for count in (4, 5, 50):
        weight = (np.arange(50) < count).astype(float)
        prior = build(z, y, weight)
        prior = prior._replace(cov=prior.cov + noise)
        error = lambda fit: np.median(np.abs(np.asarray(fit.dynamics.F) - true).max(axis=(1, 2)))
        gains[count] = error(regression(z, y, weight)) / error(bayesian(z, y, weight, prior))
    assert gains[4] > 2.0
    assert gains[5] > 1.4
    assert 0.85 < gains[50] < 1.15


@pytest.mark.parametrize("name", ["mixture", "ensemble", "gp"])
def test_learned_models_help_where_rows_are_few(models, name: str) -> None:
    z, y, true = swings(11, 5, steps=60)
    prior = prior_of(models[name], z, y, np.ones(5))
    is_sound(prior)
    error = lambda fit: np.median(np.abs(np.asarray(fit.dynamics.F) - true).max(axis=(1, 2)))
    with_prior = bayesian(z, y, np.ones(5), prior)
    assert error(with_prior) < 0.7 * error(regression(z, y, np.ones(5)))
    spread = np.sqrt(np.mean(np.diagonal(with_prior.dynamics.W, axis1=1, axis2=2)))
    assert 0.003 < spread < 0.2  # the noise is 0.01


def test_predictions_of_other_kinds_will_do() -> None:
    """A mixture density network: its covariance, float32 inside and float64 outside."""
    model = MDNLearner(width=8, gradient_steps=5, components=2).init(PLAIN, jr.key(2)).model
    z, y, _ = swings(12, ROWS)
    prior = prior_of(model, z, y, np.ones(ROWS))
    is_sound(prior)
    _, _, noise = conditional(prior)
    assert np.linalg.eigvalsh(noise).min() > 0.0


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["some dead", "all dead", "NaN", "all NaN", "identical", "zero", "one", "huge"])
@pytest.mark.parametrize("name", ["mixture", "gp"])
def test_bad_rows_give_finite_priors(models, name: str, kind: str) -> None:
    z, y, _ = swings(13, ROWS)
    weight = np.ones((STEPS, ROWS))
    if kind == "some dead":
        weight[2:] = 0.0
        z[2:] = np.nan
    if kind == "all dead":
        weight[:], z[:] = 0.0, np.nan
    if kind == "NaN":
        z[1, 2, 0], y[3, 4, 1], y[:, 6] = np.nan, np.inf, np.nan
    if kind == "all NaN":
        y[:] = np.nan
    if kind == "identical":
        z[:], y[:] = z[:, :1], y[:, :1]
    if kind == "zero":
        z[:], y[:] = 0.0, 0.0
    if kind == "one":
        weight[:, 1:] = 0.0
    if kind == "huge":
        z, y = 1e8 * z, 1e8 * y
    prior = prior_of(models[name], z, y, weight)
    is_sound(prior)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bayesian(z, y, weight, prior)))


def test_dead_rows_do_not_count(models) -> None:
    z, y, _ = swings(14, ROWS)
    weight = np.ones((STEPS, ROWS))
    weight[:, 5:] = 0.0
    other, wrong = z.copy(), y.copy()
    other[:, 5:], wrong[:, 5:] = np.nan, 1e9
    for model in models.values():
        jax.tree.map(close, prior_of(model, other, wrong, weight), prior_of(model, z, y, weight))


def test_what_does_not_fit_is_said() -> None:
    model = random_mixture(2, 2)
    z, y, _ = swings(15, ROWS)
    with pytest.raises(UserError, match="actions of size 1"):
        prior_from_mixture(model, np.concatenate([z, z], axis=2), y, np.ones(ROWS))
    with pytest.raises(UserError, match="angles"):
        prior_from_mixture(model, z, y, np.ones(ROWS), angles=(0,))


class Mute(AbstractPrediction):
    mean: Float[Array, " k"]

    def sample(self, key):
        return self.mean

    def log_prob(self, y):
        return jnp.zeros(())


class Sphinx(AbstractDynamics):
    def predict(self, x, u, t):
        return Mute(x)

    def draw(self, key, particles):
        return self


def test_a_model_that_does_not_say_how_sure_it_is_is_refused() -> None:
    z, y, _ = swings(16, ROWS)
    with pytest.raises(UserError, match="Mute has no std"):
        prior_from(Sphinx(), z, y, np.ones(ROWS))
