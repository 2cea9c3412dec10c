"""The Gaussian process: it knows where its data end, and says so by functions that differ there.

One process per output, with the same inputs (scaled features) and scaled changes of state as targets.  An exact and a
sparse posterior look alike: centres, weights and the inverse root of a matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractAveraged, AbstractDynamics, AbstractPrediction
from forethought.math.features import Waves, cosine, profile_of_stretched
from forethought.math.gaussian import DiagonalGaussian, wrapped
from forethought.math.kernels import Kind, profile
from forethought.math.rollout import copies
from forethought.math.scaling import Scaler, features
from forethought.types import Action, Array, RandomKey, Spec, State, Time


class Path(NamedTuple):
    """What is one function's own, in units of the data."""

    weights: Float[Array, "*batch k c"]
    """Of the kernel's values at the centres: they bend the prior's function so that it fits the data.  float64."""
    waves: Waves
    """The prior's function of each output, of the inputs less their mean: frequencies [k f F].  float32."""


class Frame(NamedTuple):
    """What all functions share, float64."""

    origin: Float[Array, "*batch f"]
    """Mean of the inputs."""
    stretch: Float[Array, "*batch k f"]
    """What the inputs less their mean are multiplied by."""
    centres: Float[Array, "*batch k f c"]
    """Stretched.  Inputs come before centres, so that distances are sums of whole vectors."""
    offset: Float[Array, "*batch k"]
    """Mean of the targets."""
    noise: Float[Array, "*batch k"]
    """Standard deviation of the targets around the function."""


class FunctionSample(AbstractDynamics):
    """One function drawn from the posterior, the same wherever and however often it is asked:

        f(z) = sum_j a_j cos(2 pi (w_j . z + b_j)) + sum_c v_c rho(|z - centre_c|^2)

    a function of the prior and a correction that makes it one of the posterior (Wilson et al. 2020).  The waves are
    float32.  The correction is not: where there is little noise its weights are many thousands and cancel, and float32
    would leave an error of several times the noise.
    """

    frame: Frame
    path: Path
    spec: Spec
    kind: Kind = eqx.field(static=True)

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """N(x + f(x, u), noise^2), float32; extra outputs are f alone."""
        del t
        x, u = jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32)
        frame, (weights, waves) = self.frame, self.path
        z = features(self.spec, x, u) - frame.origin
        scaled = frame.stretch * z
        t2 = _squares(scaled, frame.centres)
        near = jnp.einsum("kc,kc->k", profile_of_stretched(self.kind, t2), weights, precision="highest")
        z = z.astype(jnp.float32)
        turns = sum(waves.frequencies[:, i, :] * z[i] for i in range(z.shape[0])) + waves.phases
        far = jnp.einsum("kf,kf->k", cosine(turns), waves.amplitudes, precision="highest")
        change = (near + frame.offset).astype(jnp.float32) + far
        return _moved(self.spec, x, change, frame.noise.astype(jnp.float32))

    def draw(self, key: RandomKey, particles: int) -> FunctionSample:
        """Copies: it is certain."""
        del key
        return copies(self, particles)


class GaussianProcess(AbstractAveraged):
    """Posteriors of k independent Gaussian processes, and S functions drawn from them when they were fitted.  float64.

    With k(z) [c] = s^2 rho(r^2(z, centres)), everything scaled: mean k(z) . weights, variance s^2 - |root k(z)|^2.
    Padding has weight 0 and empty rows and columns in the root.
    """

    inputs: Scaler
    outputs: Scaler
    lengths: Float[Array, "k f"]
    """Length-scales in standard deviations of the inputs."""
    signal: Float[Array, " k"]
    """Standard deviation of the function before any data, in standard deviations of the targets."""
    noise: Float[Array, " k"]
    """Standard deviation of the noise, in the same units."""
    centres: Float[Array, "k f c"]
    """Data or inducing points, divided by the length-scales."""
    weights: Float[Array, "k c"]
    root: Float[Array, "k c c"]
    frame: Frame
    paths: Path
    """S functions."""
    expected: Float[Array, "k p"]
    """Weights of the mean, as a path has them."""
    spec: Spec
    kind: Kind = eqx.field(static=True)

    @property
    def size(self) -> int:
        """Number of centres there is room for."""
        return self.centres.shape[-1]

    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """Mean and standard deviation, of the function and the noise together, in closed form."""
        del t
        x, u = jnp.asarray(x, jnp.float64), jnp.asarray(u, jnp.float64)
        mean, latent = self.posterior(x, u)
        std = self.outputs.std * jnp.sqrt(latent + self.noise**2)
        return _moved(self.spec, x, self.outputs.unscale(mean), std)

    def posterior(self, x: State, u: Action) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Mean and variance of the function, without noise, in standard deviations of the targets."""
        a = self.inputs.scale(features(self.spec, x, u)) / self.lengths
        signal2 = self.signal**2
        near = signal2[:, None] * profile(self.kind, _squares(a, self.centres))
        mean = jnp.einsum("kc,kc->k", near, self.weights, precision="highest")
        known = jnp.einsum("kij,kj->ki", self.root, near, precision="highest")
        # Rounding may take a variance that is almost 0 a little below it.
        return mean, jnp.maximum(signal2 - jnp.sum(known**2, axis=1), 0.0)

    def average(self) -> FunctionSample:
        """The posterior's mean as a function without waves, through the inducing points of the drawn ones."""
        none = jax.tree.map(lambda leaf: leaf[0, ..., :0], self.paths.waves)
        return FunctionSample(self.frame, Path(self.expected, none), self.spec, self.kind)

    def draw(self, key: RandomKey, particles: int) -> FunctionSample:
        """Functions out of the S that were drawn with the fit, none twice while there are enough, in random order."""
        count = self.paths.weights.shape[0]
        index = jr.permutation(key, count)[jnp.arange(particles) % count]
        paths = jax.tree.map(lambda leaf: leaf[index], self.paths)
        return FunctionSample(copies(self.frame, particles), paths, self.spec, self.kind)


def _squares(a: Float[Array, "k f"], centres: Float[Array, "k f c"]) -> Float[Array, "k c"]:
    """Squared distances.  Input by input, not as |a|^2 + |b|^2 - 2 a.b, which would lose the digits of small ones."""
    total = (a[:, 0, None] - centres[:, 0, :]) ** 2
    for i in range(1, a.shape[1]):
        total = total + (a[:, i, None] - centres[:, i, :]) ** 2
    return total


def _moved(spec: Spec, x: State, change: Float[Array, " k"], std: Float[Array, " k"]) -> AbstractPrediction:
    """The next state and the extras: the state has moved by the change."""
    mean = jnp.concatenate([x + change[: spec.n], change[spec.n :]])
    return wrapped(DiagonalGaussian(mean, std), spec.angles)
