"""Every interface, on one page.  Read this first.

Nouns that a user may want to write are Equinox modules: frozen dataclasses that are pytrees.  They are abstract or
final: wrap a concrete class, never subclass it.  Models are *arguments* of compiled functions, never closed over:
the model changes at every iteration, and the program must not.
"""

# No `from __future__ import annotations` here: it would hide every AbstractVar from Equinox, which would silently take
# them for ordinary fields.
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from forethought.types import (
    Action,
    Actions,
    Array,
    Cursor,
    Dataset,
    Flag,
    Metrics,
    RandomKey,
    Scalar,
    Spec,
    State,
    Time,
    Trajectory,
)

Fitted = TypeVar("Fitted")
Carry = TypeVar("Carry")
Warm = TypeVar("Warm")
S = TypeVar("S")


class AbstractPrediction(eqx.Module):
    """p(y | x, u): where one step leads.  y [n+e] is the next state followed by the extra outputs, if any."""

    mean: eqx.AbstractVar[Float[Array, " k"]]

    @abstractmethod
    def sample(self, key: RandomKey) -> Float[Array, " k"]:
        """One draw of y."""

    @abstractmethod
    def log_prob(self, y: Float[Array, " k"]) -> Scalar:
        """log p(y | x, u) in nats."""


class AbstractDynamics(eqx.Module):
    """A model of how the system moves, written for one point; batching is `vmap`."""

    @abstractmethod
    def predict(self, x: State, u: Action, t: Time) -> AbstractPrediction:
        """p(y | x, u) at time t."""

    @abstractmethod
    def draw(self, key: RandomKey, particles: int) -> "AbstractDynamics":
        """`particles` beliefs about the true system, stacked along a new leading axis of every array.

        This is the model's answer to "what do you not know?": ensemble members, GP function samples, or copies of
        itself if it has no such doubt.  It is asked for all at once so that a model can stratify.
        """


class AbstractAveraged(AbstractDynamics):
    """A model that has its mean at a lower price than `predict`, which says how sure it is, too.

    Where predictions are not single Gaussians plans need beliefs: then `average` gives a model that still draws them.
    """

    @abstractmethod
    def average(self) -> AbstractDynamics:
        """One belief whose mean prediction is that of `predict`, or nearly so."""


class AbstractFitted(eqx.Module):
    """What a learner carries from fit to fit: the model that planners see, and whatever else (optimiser, scalers)."""

    model: eqx.AbstractVar[AbstractDynamics]


class AbstractSized(AbstractFitted):
    """A fitted state whose model keeps its data, in arrays that grow in size buckets."""

    @abstractmethod
    def resized(self, shapes: Mapping[str, tuple[int, ...]]) -> "AbstractSized":
        """A blank state of this kind with arrays of the sizes that a file has.

        `shapes` are those of the file, by the path of an array in this state ("model.centres").  Raises `ValueError`
        for sizes that no fit gives.
        """


class AbstractLearner(eqx.Module, Generic[Fitted]):
    """How a model is made from data."""

    @abstractmethod
    def init(self, spec: Spec, key: RandomKey) -> Fitted:
        """An unfitted state with the same tree, shapes and dtypes as every fitted one."""

    @abstractmethod
    def fit(self, fitted: Fitted, data: Dataset, key: RandomKey) -> tuple[Fitted, Metrics]:
        """Fit to the first `data.count` rows, starting from `fitted`."""


class AbstractCost(eqx.Module):
    """What is to be minimised."""

    extras: eqx.AbstractVar[int]
    """How many extra outputs of the model this cost reads: 0, or 2 when reward and termination are learned."""

    @abstractmethod
    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """Cost of one step; y [n+e] is what the step led to (Gymnasium's rewards need it)."""

    @abstractmethod
    def terminal(self, x: State) -> Scalar:
        """Cost-to-go at the end of the horizon; the hook for a learned value."""

    @abstractmethod
    def alive(self, y: Float[Array, " k"]) -> Flag:
        """False once an imagined episode has ended in y; no cost is incurred after that."""


class AbstractPolicy(eqx.Module, Generic[Carry]):
    """A controller.  What it remembers from step to step is its carry."""

    @abstractmethod
    def init(self, x: State, key: RandomKey) -> Carry:
        """The carry when the policy takes over at state x (a policy that plans once plans here)."""

    @abstractmethod
    def act(self, carry: Carry, x: State, t: Time) -> tuple[Action, Carry]:
        """The action at state x, step t of the episode."""


class Problem(eqx.Module):
    """One planning problem: from x0, minimise the discounted cost of `horizon` steps of `dynamics`."""

    dynamics: AbstractDynamics
    cost: AbstractCost
    actions: Actions
    x0: State
    t0: Time
    horizon: int = eqx.field(static=True)
    discount: float = eqx.field(static=True, default=1.0)


class Plan(eqx.Module):
    """A plan is a policy, with what it is expected to cost.  If `ok` is false no candidate had a finite cost, and the
    policy holds the safe action."""

    policy: AbstractPolicy
    cost: Scalar
    ok: Flag
    metrics: Metrics


class AbstractPlanner(eqx.Module, Generic[Warm]):
    """A way to solve a `Problem`."""

    @abstractmethod
    def init(self, problem: Problem) -> Warm:
        """The warm start when nothing is known yet."""

    @abstractmethod
    def plan(self, problem: Problem, warm: Warm, key: RandomKey) -> tuple[Plan, Warm]:
        """Solve; the second result starts the next solve from where this one ended."""

    @abstractmethod
    def shift(self, warm: Warm) -> Warm:
        """Move a warm start one step forward in time: its first action was executed."""


class AbstractWitness:
    """Is shown every transition of a world before the next action is chosen: how a run writes down what happens.

    An error that it raises ends the collection, as an error of the world does.
    """

    @abstractmethod
    def began(self, x: np.ndarray, condition: int) -> None:
        """An episode has begun at the observation x [n]."""

    @abstractmethod
    def happened(self, u: np.ndarray, y: np.ndarray, reward: float, terminated: bool, truncated: bool) -> None:
        """One transition: the action as executed [m], and what it led to."""


class AbstractWorld(eqx.Module):
    """Where transitions come from: a simulator or a machine.  The only interface that may be impure."""

    spec: eqx.AbstractVar[Spec]
    actions: eqx.AbstractVar[Actions]
    replayable: eqx.AbstractVar[bool]
    """Whether the same condition and actions give the same episode, bit for bit.  A run that was killed repeats the
    open episode of such a world; of any other, a machine for one, it keeps what was tried and begins a new one."""

    @abstractmethod
    def reset(self, key: RandomKey, condition: int | None = None) -> Cursor:
        """Start an episode.  The condition is a reset seed; without one it is drawn from the key."""

    @abstractmethod
    def collect(
        self, policy: AbstractPolicy, carry: Any, at: Cursor, key: RandomKey, steps: int
    ) -> tuple[Trajectory, Any, Cursor]:
        """Run the policy for at most `steps` steps from an open episode; fewer if the episode ends."""

    @abstractmethod
    def rollouts(
        self, policy: AbstractPolicy, key: RandomKey, conditions: Sequence[int], steps: int
    ) -> list[Trajectory]:
        """One fresh episode of at most `steps` steps per condition, in that order."""

    @abstractmethod
    def fresh(self) -> "AbstractWorld":
        """An independent copy, so that an evaluation cannot disturb an open training episode.  Nobody watches it."""

    @abstractmethod
    def watched(self, witness: AbstractWitness) -> "AbstractWorld":
        """The same world, whose episodes and transitions the witness sees, those of `rollouts` too."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds: processes, windows, devices.  The next reset takes them again."""


class AbstractTimed(AbstractWorld):
    """A world in which each action is waited for, so that what it takes to choose one is known."""

    @abstractmethod
    def act_seconds(self) -> Sequence[float]:
        """One per action of the last `collect`; the first one of a program that is new includes its compilation."""


class Task(eqx.Module):
    """What is to be learned: a world, its cost, and how success is judged."""

    name: str = eqx.field(static=True)
    world: AbstractWorld
    """Where episodes are collected, and what `fresh` copies for evaluations are made of."""
    cost: AbstractCost
    limit: int = eqx.field(static=True)
    """Steps after which an episode is truncated."""
    starts: tuple[int, ...] = eqx.field(static=True, default=tuple(range(1000, 1010)))
    """Conditions (reset seeds) of the evaluation episodes: fixed, and never used for training."""
    threshold: float | None = eqx.field(static=True, default=None)
    """The task counts as solved when the mean return over the fixed starts reaches this; None: no such number."""
    success: Callable[[Trajectory], bool] | None = eqx.field(static=True, default=None)
    """Whether one episode succeeded, where return alone does not tell."""
    beside: tuple[AbstractWorld, ...] = ()
    """Further copies of the world, with an episode in each at the same time (worker processes)."""

    @property
    def worlds(self) -> tuple[AbstractWorld, ...]:
        """All worlds that episodes are collected from."""
        return (self.world, *self.beside)

    @property
    def spec(self) -> Spec:
        """Shapes of a model for this task: two extra outputs, reward and termination, if the cost is learned."""
        world = self.world.spec
        return Spec(n=world.n, m=world.m, extras=self.cost.extras, angles=world.angles)


class Open(eqx.Module):
    """An open episode: where it stands, and what the controller remembers of it."""

    at: Cursor
    carry: Any = None
    """The warm start of the next plan, for one; None where no planner has been in charge."""
    so_far: float = 0.0
    """Return so far."""


class RunState(eqx.Module, Generic[Fitted]):
    """Everything a run needs to go on.

    Between episodes `open` is None; the tree, shapes and dtypes of the rest never change, but for the dataset's
    capacity, which doubles.
    """

    key: RandomKey
    fits: Int[Array, ""]
    """How often the model was fitted so far."""
    episodes: Int[Array, ""]
    """Episodes finished so far.  Those that are open are numbered from here on, one per world."""
    steps: Int[Array, ""]
    """Environment steps so far, the first random ones included."""
    data: Dataset
    fitted: Fitted
    open: tuple[Open | None, ...] | None = None
    """The open episodes, one per world of the task (None: not begun for want of steps).  They begin together, and the
    last one to end closes them all."""


class AbstractAlgorithm(eqx.Module):
    """One of the lecture's loops.  It never logs, and it never sees the run that drives it."""

    @abstractmethod
    def init(self, task: Task, key: RandomKey) -> RunState:
        """The state before the first step, with no data."""

    @abstractmethod
    def step(self, task: Task, state: RunState, limit: int) -> tuple[RunState, Metrics]:
        """One turn of the loop: fit, plan, execute, append.

        It takes at most `limit` environment steps and stops at the end of the episodes at the latest.  With limit = 0
        it only learns from the data at hand: that is how the controller "held after step k" is made.
        """

    @abstractmethod
    def appends(self, state: RunState) -> bool:
        """Whether what is executed now becomes data: asked for what was tried when a turn was broken off."""

    @abstractmethod
    def policy(self, task: Task, state: RunState) -> AbstractPolicy:
        """The controller as it stands, without exploration: what is evaluated, saved and handed to the user."""
