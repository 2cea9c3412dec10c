"""An environment in a worker process is the same environment; whatever happens to the process is told."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from faulty import ID as FAULTY
from faulty import IN_RESET, LAST, OBSERVATION, REWARD
from forethought.errors import UserError
from forethought.worlds.guard import Guard, TransitionError
from forethought.worlds.process import Process
from forethought.worlds.remote import RemoteEnv, WorkerLost
from forethought.worlds.source import Source, executed
from forethought.worlds.wire import HEADER, MOST_WORDS, Kind, Message

AWKWARD = "awkward:Awkward-v0"
ZERO = np.zeros(1, np.float32)
FAULTS = (*OBSERVATION, "far-out", "in-place", *REWARD, "info-none", "four-tuple", "terminated-0.7", "exception")
PLACES = [(f, at) for f in FAULTS for at in (-1, 1, 30, LAST) if at != -1 or f in IN_RESET]


def source(id: str, limit: int | None = None, repeat: int = 1, history: int = 1, **kwargs: Any) -> Source:
    return Source(id, kwargs, limit, repeat, history)


@contextmanager
def remote(what: str = "nothing", at: int = 0, extra: Any = None, deadline: float = 20.0) -> Iterator[RemoteEnv]:
    """An awkward environment in a worker process."""
    env = RemoteEnv(source(AWKWARD, what=what, at=at, extra=extra), deadline)
    try:
        yield env
    finally:
        env.close()


def alive(pid: int) -> bool:
    """Whether there is such a process, a zombie not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(*pids: int, seconds: float = 10.0) -> bool:
    """Whether these processes end in time."""
    until = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def lost(env: RemoteEnv, steps: int = 1) -> WorkerLost:
    """What is raised within so many steps of a new episode."""
    with pytest.raises(WorkerLost) as caught:
        play(env, steps)
    assert env.pid is None
    return caught.value


def play(env: gymnasium.Env, steps: int) -> None:
    """An episode without thrust."""
    env.reset(seed=3)
    for _ in range(steps):
        env.step(ZERO)


# The same environment


def bits(result: tuple) -> tuple:
    """An observation with its dtype, reward and flags, exactly; infos stay in the process."""
    observation = np.asarray(result[0])
    return (observation.dtype, observation.shape, observation.tobytes(), *result[1:-1])


def trace(env: gymnasium.Env, seed: int, steps: int = 120) -> list[tuple]:
    """Every result of random actions, over the ends of episodes."""
    draw = np.random.default_rng(seed)
    results = [bits(env.reset(seed=seed))]
    for t in range(steps):
        space = env.action_space
        m = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))
        result = env.step(executed(space, 2.0 * draw.standard_normal(m), "E", t)[1])
        results.append(bits(result))
        if result[2] or result[3]:
            results.append(bits(env.reset(seed=seed + t)))
    return results


@pytest.mark.parametrize(
    "made",
    [
        source("Pendulum-v1"),
        source("CartPole-v1", history=3),
        source("InvertedPendulum-v5", repeat=2),
        source("Pendulum-v1", limit=20, repeat=3, history=2, g=9.5),
        source("awkward:Whole-v0"),
        source("Acrobot-v1", limit=40),
    ],
    ids=lambda made: f"{made.id}-{made.action_repeat}-{made.history}",
)
def test_transitions_are_those_of_this_process_bit_for_bit(made: Source) -> None:
    here, first, second = made.make(), RemoteEnv(made, 20.0), RemoteEnv(made, 20.0)
    try:
        expected = trace(here, 11)
        assert trace(first, 11) == expected
        assert trace(first, 12) != expected
        assert trace(second if made.limit is None else first, 11) == expected
        assert (first.observation_space, first.action_space) == (here.observation_space, here.action_space)
    finally:
        first.close()
        second.close()


def test_nothing_is_started_before_it_is_needed() -> None:
    with remote() as env:
        assert env.pid is None
        assert env.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)
        assert env.pid is not None


def test_the_process_has_no_jax_and_the_kwargs_and_variables_as_they_were(monkeypatch) -> None:
    extra = {"a": (1, 2.5, [None, True, (-1e300,)]), "b": "ä", "c": float("inf"), "d": ()}
    monkeypatch.setenv("PYTHONPATH", "as/it/was")
    with remote("tell", -1, extra) as env, pytest.raises(TransitionError) as caught:
        env.reset(seed=0)
    assert caught.value.value == repr(RuntimeError(([], "as/it/was", extra)))


def test_what_an_environment_prints_disturbs_nothing(capfd, monkeypatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with remote("shout") as env:
        play(env, 3)
    said = capfd.readouterr()
    assert "to standard output" in said.err
    assert "to its file descriptor" in said.err
    assert not said.out


def test_warnings_are_shown_by_the_run() -> None:
    with remote("warn", 0, "it creaks") as env, pytest.warns(UserWarning, match="it creaks") as said:
        play(env, 3)
    assert len(said) == 1
    env = RemoteEnv(source(FAULTY, fault="lossless-dtype"), 20.0)
    with pytest.warns(UserWarning, match=r"at step 1: observation is of dtype float64"):
        play(env, 3)
    env.close()


def test_the_guards_settings_reach_the_process() -> None:
    env = RemoteEnv(Source("Pendulum-v1", {}, None, 1, 1, Guard(reward_bound=1e-9)), 20.0)
    with pytest.raises(TransitionError, match="must be within 1e-09 of zero"):
        play(env, 1)
    env.close()


# Faults


@pytest.fixture(scope="module")
def switch() -> Iterator[RemoteEnv]:
    """One process for all the faults that leave it alive."""
    env = RemoteEnv(source("awkward:Switch-v0"), 20.0)
    yield env
    env.close()


@pytest.fixture(scope="module")
def switch_here() -> gymnasium.Env:
    return source("awkward:Switch-v0").make()


def fault_of(env: gymnasium.Env, fault: str, at: int) -> tuple[TransitionError, int]:
    """What is raised, and how many steps were finished before; then an episode must go well."""
    play(env, 2)
    steps = 0
    try:
        env.reset(seed=5, options={"fault": fault, "at": at})
        while steps <= LAST:
            env.step(ZERO)
            steps += 1
        pytest.fail(f"{fault} was not found")
    except TransitionError as error:
        play(env, LAST)
        return error, steps


@pytest.mark.parametrize(("fault", "at"), PLACES)
def test_faults_are_told_as_in_this_process(switch, switch_here, fault: str, at: int) -> None:
    (here, steps), (there, steps_there) = fault_of(switch_here, fault, at), fault_of(switch, fault, at)
    assert not isinstance(there, WorkerLost)
    assert str(there) == str(here)
    assert (there.environment, there.step, there.field, there.wrong) == (
        here.environment,
        None if at == -1 else at,
        here.field,
        here.wrong,
    )
    assert there.value == " ".join(repr(here.value).split())
    assert steps == steps_there == max(at, 0)


def test_a_fault_closes_the_episode_and_not_the_process(switch) -> None:
    switch.reset(seed=0, options={"fault": "none-reward", "at": 2})
    pid = switch.pid
    switch.step(ZERO)
    switch.step(ZERO)
    with pytest.raises(TransitionError, match="at step 2: reward"):
        switch.step(ZERO)
    with pytest.raises(WorkerLost, match=r"at step 2: .* no worker process with an open episode: call reset first"):
        switch.step(ZERO)
    play(switch, 3)
    assert switch.pid == pid


# Deadlines and deaths


@pytest.mark.parametrize(
    ("at", "where"),
    [
        (-1, "in reset"),
        (30, "at step 30"),
        pytest.param(1, "at step 1", marks=pytest.mark.slow),
        pytest.param(LAST, "at step 49", marks=pytest.mark.slow),
    ],
)
def test_a_hang_is_found_within_the_deadline_and_the_process_replaced(tmp_path, at: int, where: str) -> None:
    env = RemoteEnv(source(FAULTY, fault="hang", at=at, once=str(tmp_path / "once")), 0.5)
    _ = env.action_space
    pid, begin = env.pid, time.monotonic()
    error = lost(env, LAST + 1)
    assert 0.5 <= time.monotonic() - begin < 3.0
    field = "reset" if at == -1 else "step"
    assert str(error) == f"{FAULTY}, {where}: its {field} did not end within 0.5 s, and the process was killed."
    assert (error.step, error.field, error.value) == (None if at == -1 else at, field, 0.5)
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    play(env, LAST)
    assert env.pid not in (None, pid)
    env.close()


@pytest.mark.parametrize(
    ("what", "extra", "at", "value", "says"),
    [
        ("raise_exit", None, -1, 3, "its worker process ended with exit status 3"),
        ("raise_exit", None, 4, 3, "its worker process ended with exit status 3"),
        ("die_by", int(signal.SIGSEGV), 4, -11, "its worker process was ended by SIGSEGV"),
        ("die_by", int(signal.SIGKILL), 4, -9, "was ended by SIGKILL, which the system sends when memory runs out"),
        ("hang_up", None, 4, -9, "its worker process closed the connection, and was killed"),
    ],
)
def test_a_death_is_told(what: str, extra: Any, at: int, value: int, says: str) -> None:
    with remote(what, at, extra) as env:
        error = lost(env, 9)
    assert says in str(error)
    assert (error.step, error.value) == (None if at == -1 else at, value)
    assert ("in reset" if at == -1 else "at step 4") in str(error)


def test_one_that_dies_is_replaced(tmp_path) -> None:
    env = RemoteEnv(source(FAULTY, fault="die", at="last", once=str(tmp_path / "once")), 20.0)
    here = source(FAULTY).make()
    assert lost(env, LAST + 1).step == LAST
    there, expected = [[bits(e.reset(seed=8)), *(bits(e.step(ZERO)) for _ in range(LAST))] for e in (env, here)]
    assert there == expected
    env.close()


def test_a_death_between_steps_is_told() -> None:
    with remote() as env:
        play(env, 2)
        assert env.pid is not None
        os.kill(env.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"at step 2: .* SIGKILL"):
            env.step(ZERO)
        play(env, 2)
        os.kill(env.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"in reset: .* SIGKILL"):
            env.reset(seed=1)
        play(env, 2)


def test_steps_are_counted_as_the_guard_counts_them() -> None:
    env = RemoteEnv(source(AWKWARD, repeat=4, what="raise_exit", at=9), 20.0)
    assert lost(env, 5).step == 8  # the first of the four repetitions that were asked for


def test_a_death_is_noticed_where_a_child_holds_the_connection(tmp_path) -> None:
    place = tmp_path / "pid"
    with remote("spawn_and_die", 0, str(place)) as env:
        begin = time.monotonic()
        assert "exit status 5" in str(lost(env))
        assert time.monotonic() - begin < 5.0
    assert gone(int(place.read_text()))


def test_the_start_has_its_own_deadline() -> None:
    env = RemoteEnv(source(AWKWARD, what="sleep", at=-2), deadline=20.0, start_up=0.6)
    begin, error = time.monotonic(), lost(env)
    assert time.monotonic() - begin < 3.0
    assert str(error) == f"{AWKWARD}: its worker process did not start within 0.6 s, and the process was killed."
    assert (error.step, error.field, error.value) == (None, "process", 0.6)


def test_a_process_that_cannot_be_started_is_told(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    with remote() as env, pytest.raises(WorkerLost, match="its worker process cannot be started") as caught:
        env.reset(seed=0)
    assert caught.value.field == "process"


def test_the_interrupts_of_a_terminal_are_the_runs_to_handle() -> None:
    with remote() as env:
        env.reset(seed=0)
        assert env.pid is not None
        assert os.getsid(env.pid) == env.pid
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(env.pid, number)
        assert env.step(ZERO)[1] == 0.0


def test_an_interrupt_while_waiting_ends_the_process() -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with remote("sleep") as env:
            env.reset(seed=0)
            pid = env.pid
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                env.step(ZERO)
            assert env.pid is None
            assert pid is not None
            assert not alive(pid)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("at", "says"), [(0, "at step 0"), (-1, "in reset"), (-2, "Awkward-v0")])
def test_close_wakes_a_waiting_thread(at: int, says: str) -> None:
    with remote("sleep", at, deadline=60.0) as env:
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                play(env, 1)
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        # On a busy machine it takes a while until it waits where it is to be woken.
        there = {0: lambda: env._open, -1: lambda: env._spaces is not None, -2: lambda: env.pid is not None}[at]
        latest = time.monotonic() + 60.0
        while not there() and time.monotonic() < latest:
            time.sleep(0.01)
        time.sleep(0.3)
        pid, begin = env.pid, time.monotonic()
        env.close()
        thread.join(10.0)
        assert time.monotonic() - begin < 2.0
        assert isinstance(caught[0], WorkerLost)
        assert "its worker process was closed" in str(caught[0])
        assert says in str(caught[0])
        assert pid is not None
        assert not Path(f"/proc/{pid}").exists()


def test_a_process_outlives_the_thread_that_started_it() -> None:
    with remote() as env:
        thread = threading.Thread(target=env.reset)
        thread.start()
        thread.join()
        for _ in range(20):
            assert env.step(ZERO)[1] == 0.0
            time.sleep(0.01)


# The end


def test_close_lets_the_environment_close_itself(tmp_path) -> None:
    note = tmp_path / "closed"
    with remote("note_close", 0, str(note)) as env:
        play(env, 1)
        pid = env.pid
    assert note.exists()
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    env.close()
    play(env, 1)
    assert env.pid != pid
    env.close()


def test_what_an_environment_started_ends_with_it() -> None:
    with remote("spawn", -1) as env:
        child = int(env.reset(seed=0)[0][0])
        assert alive(child)
    assert gone(child)


def test_an_instance_that_is_forgotten_takes_its_process_along() -> None:
    env = RemoteEnv(source(AWKWARD), 20.0)
    env.reset(seed=0)
    pid = env.pid
    assert pid is not None
    del env
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Owner:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize("lives", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_file_descriptors_are_given_back(lives: int) -> None:
    owner, before = Owner(), descriptors()
    for _ in range(5 * lives):
        Process(owner).kill()
    assert descriptors() == before
    with remote("raise_exit", 1) as env:
        for _ in range(lives):
            lost(env, 2)
            env.reset(seed=0)
            env.close()
    assert descriptors() == before


RUN = """
import os, sys, threading, time
import numpy as np
from forethought.worlds.remote import RemoteEnv
from forethought.worlds.source import Source
def env(what, at):
    made = RemoteEnv(Source("awkward:Awkward-v0", {{"what": what, "at": at}}, None, 1, 1), 60.0)
    first = made.reset(seed=0)[0]
    return made, made.pid, int(first[0])
{body}
"""

HANGING = """
hang, a, _ = env({what!r}, 0)
family, b, c = env("spawn", -1)
threading.Thread(target=hang.step, args=(np.zeros(1, np.float32),), daemon=True).start()
time.sleep(0.2)
print(a, b, c, flush=True)
"""


def run_of_its_own(body: str) -> subprocess.Popen[str]:
    """A process that uses worker processes."""
    paths = [str(Path(__file__).resolve().parents[1]), *sys.path]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", RUN.format(body=body)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("sleep", signal.SIGKILL),
        ("hold", signal.SIGKILL),
        ("hold", None),
        pytest.param("sleep", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("hold", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("sleep", None, marks=pytest.mark.slow),
    ],
)
def test_no_process_outlives_the_run(what: str, how: signal.Signals | None) -> None:
    rest = "os._exit(0)" if how is None else "time.sleep(60)"
    with run_of_its_own(HANGING.format(what=what) + rest) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 3
        if how is not None:
            run.send_signal(how)
        run.wait(10)
        try:
            assert gone(*pids, seconds=5.0)
        finally:
            for pid in pids:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)


ALONE = """
import fcntl, sys, time
from forethought.worlds import worker
{spoil}
worker.live_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("leader", [True, False])
@pytest.mark.parametrize(("spoil", "status"), [("", -9), ("del fcntl.F_SETSIG", 1)], ids=["kernel", "thread"])
def test_a_process_ends_when_nobody_holds_its_lifeline(leader: bool, spoil: str, status: int) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", ALONE.format(spoil=spoil), str(reading)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, pass_fds=(reading,), process_group=0 if leader else None
    ) as process:
        os.close(reading)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert process.poll() is None
        os.close(writing)
        assert process.wait(10) == (-9 if leader else status)


def test_a_run_that_ends_without_close_leaves_nothing_and_its_forks_do_no_harm() -> None:
    body = (
        'one, a, _ = env("nothing", 0)\n'
        "if not (child := os.fork()):\n"
        "    sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "one.step(np.zeros(1, np.float32))\n"
        "print(a, flush=True)\n"
    )
    with run_of_its_own(body) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert run.wait(10) == 0
        assert gone(pid)


# What is no message


def test_bytes_that_are_no_message_end_the_process() -> None:
    with remote("garble", 1, HEADER.pack(Kind.MOVED, 0, 2**32 - 1).hex()) as env:
        error = lost(env, 2)
    assert "sent a message with 0 bytes of words and 4294967295 of numbers; allowed are 4 and 64 MiB" in str(error)
    assert (error.step, error.field) == (1, "step")


BOX = {"shape": [1], "dtype": 1}
NUMBERS = b"\1" + b"\0" * 8
HELLO = (Kind.SPACES, {"observation": BOX, "action": {"n": 2, "start": 0}}, NUMBERS + NUMBERS)
BEGAN = (Kind.BEGAN, None, NUMBERS)


class Actor(Process):
    """A worker process as `RemoteEnv` sees it, that says these lines."""

    def __init__(self, lines: list[tuple[Kind, Any, bytes]]):
        self.lines = list(lines)
        self.killed = 0

    def exchange(self, message: bytes, seconds: float) -> Message:
        kind, words, numbers = self.lines.pop(0)
        return Message(kind, words, memoryview(numbers))

    def kill(self) -> int:
        self.killed += 1
        return -9


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([BEGAN], "Pendulum-v1: its worker process sent a message of the kind BEGAN, where SPACES was"),
        ([(Kind.FAULT, {}, b"")], "message of the kind FAULT, where SPACES was to come"),
        ([(Kind.SPACES, None, b"")], "Pendulum-v1: its worker process sent a message that cannot be read"),
        ([(Kind.SPACES, [1], b"")], "message that cannot be read"),
        ([(Kind.SPACES, {"observation": {"n": -1, "start": 0}}, b"")], "description of a space that cannot be read"),
        ([(Kind.SPACES, {"observation": BOX | {"shape": ["x"]}}, b"")], "description of a space that cannot be read"),
        ([(Kind.SPACES, {"observation": BOX | {"shape": [2**62]}}, b"")], "array of an unknown dtype"),
        ([(Kind.SPACES, {"observation": BOX | {"dtype": 99}}, NUMBERS)], "description of a space that cannot be read"),
        ([(Kind.SPACES, {"observation": BOX | {"shape": [-1]}}, NUMBERS * 2)], "where the shape (-1,) was to come"),
        ([(Kind.SPACES, {"observation": BOX}, NUMBERS)], "array of an unknown dtype"),
        ([HELLO, (Kind.MOVED, None, NUMBERS)], "in reset: its worker process sent a message of the kind MOVED, where"),
        ([HELLO, (Kind.SORRY, {"sentence": "x"}, b"")], "message of the kind SORRY, where BEGAN was to come"),
        ([HELLO, (Kind.BEGAN, None, b"")], "in reset: its worker process sent an array of an unknown dtype"),
        ([HELLO, BEGAN, BEGAN], "at step 0: its worker process sent a message of the kind BEGAN, where MOVED"),
        ([HELLO, BEGAN, (Kind.MOVED, None, b"")], "step without a reward"),
        ([HELLO, BEGAN, (Kind.MOVED, None, bytes(10))], "array of an unknown dtype"),
        ([HELLO, BEGAN, (Kind.MOVED, None, bytes(10) + b"\xff" + bytes(8))], "array of an unknown dtype"),
        ([HELLO, BEGAN, (Kind.MOVED, None, bytes(10) + NUMBERS + bytes(8))], "array of 16 bytes, where the shape (1,)"),
        ([HELLO, BEGAN, (Kind.FAULT, None, b"")], "message that cannot be read"),
        ([HELLO, BEGAN, (Kind.FAULT, {"step": "x", "value": 1}, b"")], "message that cannot be read"),
        ([HELLO, BEGAN, (Kind.FAULT, {"step": 0, "value": ""}, b"")], "message that cannot be read"),
    ],
    ids=range(21),
)
def test_answers_that_make_no_sense_end_the_process(monkeypatch, lines: list, says: str) -> None:
    actor = Actor(lines)
    monkeypatch.setattr("forethought.worlds.remote.Process", lambda owner: actor)
    error = lost(RemoteEnv(source("Pendulum-v1"), 20.0))
    assert says in str(error)
    assert actor.killed
    assert not actor.lines


def test_a_process_refuses_what_is_no_message() -> None:
    owner = Owner()
    process = Process(owner)
    with pytest.raises((EOFError, OSError)):
        process.exchange(HEADER.pack(Kind.MAKE, MOST_WORDS + 1, 0), 20.0)
    assert process.wait(5.0)
    assert process.kill() == 1


def test_arguments_that_are_too_large_are_refused() -> None:
    with pytest.raises(UserError, match="are too large for a worker process: a message with"):
        RemoteEnv(source(AWKWARD, extra="x" * MOST_WORDS), 20.0)


# What cannot be made there


class OnlyHere(gymnasium.Env):
    """A class that this test's module alone knows."""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "kwargs of Pendulum-v1['g'] is a object, and a worker process can only be given"),
        (np.ones(2), "kwargs of Pendulum-v1['g'] is a ndarray"),
        ({1: 2}, "kwargs of Pendulum-v1['g'] is a dict"),
        ([b"x"], "kwargs of Pendulum-v1['g'] is a bytes"),
        ({"()": 1}, "kwargs of Pendulum-v1['g'] is a dict"),
        (np.int64(1), "kwargs of Pendulum-v1['g'] is a int64"),
    ],
)
def test_arguments_that_cannot_travel_are_refused(value: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        RemoteEnv(source("Pendulum-v1", g=value), 20.0)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (source("NoSuch-v0"), "Gymnasium cannot make NoSuch-v0"),
        (source("no_such_module:X-v0"), "Gymnasium cannot make no_such_module:X-v0"),
        (source("Pendulum-v1", mass=3), "Gymnasium cannot make Pendulum-v1 with {'mass': 3}"),
        (source("awkward:Whole-v0", many=True), "allowed are Box and Discrete"),
    ],
    ids=lambda x: getattr(x, "id", None),
)
def test_an_environment_that_cannot_be_made_is_told_in_a_sentence(made: Source, says: str) -> None:
    env = RemoteEnv(made, 20.0)
    with pytest.raises(UserError) as caught:
        env.reset(seed=0)
    assert says in str(caught.value)
    assert env.pid is None


@pytest.fixture
def registered(monkeypatch):
    """Register for one test only."""
    monkeypatch.setattr(gymnasium.envs.registration, "registry", gymnasium.registry)

    def register(id: str, entry_point: Any, **more: Any) -> str:
        monkeypatch.setitem(gymnasium.registry, id, gymnasium.envs.registration.EnvSpec(id, entry_point, **more))
        return id

    return register


def test_a_registration_is_repeated_in_the_process(registered) -> None:
    from awkward import Awkward

    name = registered("Mine-v3", Awkward, max_episode_steps=2, kwargs={"what": "raise_exit", "at": 1, "extra": (1,)})
    assert "exit status 3" in str(lost(RemoteEnv(source(name), 20.0), 2))
    env = RemoteEnv(source(name, what="nothing"), 20.0)
    env.reset(seed=0)
    assert [env.step(ZERO)[3] for _ in range(2)] == [False, True]
    env.close()


def test_a_registration_that_was_replaced_here_is_replaced_there(registered) -> None:
    name = registered("CartPole-v1", "awkward:Awkward")
    env = RemoteEnv(source(name), 20.0)
    assert env.observation_space.shape == (1,)
    env.close()


@pytest.mark.parametrize(
    ("entry", "more", "says"),
    [
        (lambda: None, {}, "is known in this process only, and a worker process cannot make it: register it in"),
        ("__main__:Mine", {}, "name it module:Mine-v4"),
        ("no_such_module:Mine", {}, "looks for it in no_such_module:Mine; name it module:Mine-v4"),
        ("awkward:Nothing", {}, "looks for it in awkward:Nothing"),
        ("awkward:Awkward", {"kwargs": {"extra": {1}}}, "what Mine-v4 is registered with['kwargs']['extra'] is a set"),
        ("awkward:Awkward", {"additional_wrappers": (1,)}, "is known in this process only"),
    ],
    ids=range(6),
)
def test_a_registration_that_cannot_travel_is_refused(registered, entry: Any, more: dict, says: str) -> None:
    env = RemoteEnv(source(registered("Mine-v4", entry, **more)), 20.0)
    with pytest.raises(UserError) as caught:
        env.reset(seed=0)
    assert says in str(caught.value)
