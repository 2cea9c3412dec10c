"""One environment in a process of its own: `python -m forethought.worlds.worker`, started by `RemoteEnv`.

It takes turns with the run over a socket, and ends with the run, however that ends.  It needs no jax.

Why not the parent-death signal of Linux: that comes when the *thread* ends that started the process, and environments
are started from the threads of a pool.  Instead the process holds the reading end of a pipe to which nothing is ever
written.  When the last writing end closes, because the run ended, the kernel kills this process and all that it
started, even inside a call that never gives control back; where the kernel cannot, a thread sees it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from forethought.errors import UserError
from forethought.worlds.guard import Guard, TransitionError
from forethought.worlds.source import Source
from forethought.worlds.wire import (
    PIECE,
    STEP,
    Kind,
    Message,
    pack,
    pack_array,
    pack_space,
    plain,
    receive,
    unpack_array,
)

LONGEST = 1000
"""Characters of a field or sentence that is sent."""

FIELDS = (
    "id",
    "entry_point",
    "reward_threshold",
    "nondeterministic",
    "max_episode_steps",
    "order_enforce",
    "disable_env_checker",
    "kwargs",
)
"""What a registration is made of, apart from wrappers."""


def registration(spec: EnvSpec) -> dict[str, Any] | str:
    """A registration in words, from which another process can repeat it; or why that is impossible, as a sentence.

    The entry point must be module:name; a class or function is named so where it can be.
    """
    entry = spec.entry_point
    if callable(entry):
        module, name = getattr(entry, "__module__", None), getattr(entry, "__qualname__", "<nameless>")
        entry = f"{module}:{name}" if module and name.isidentifier() else None
    if entry is None or entry.startswith("__main__:") or spec.additional_wrappers:
        return (
            f"{spec.id} is known in this process only, and a worker process cannot make it: register it in a module "
            f"of its own, with a class of that module, and name it module:{spec.id}."
        )
    fields = {field: getattr(spec, field) for field in FIELDS} | {"entry_point": entry}
    try:
        plain(fields, f"what {spec.id} is registered with")
    except UserError as error:
        return str(error)
    return fields


def main() -> None:
    """Serve one environment until the run says that it is enough, or ends.  Arguments: the socket and the pipe."""
    connection, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    connection.set_inheritable(False)  # What the environment starts must not keep the connection open.
    os.set_inheritable(lifeline, False)
    live_with(lifeline)
    # The run decides what an interrupt means, and its connection ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # Printed lines must not wait in a buffer that a kill would empty.
    try:
        with warnings.catch_warnings(record=True) as said:
            serve(connection, said)
        status = 0
    except (EOFError, OSError):
        status = 0  # The run is gone.
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)  # At once, whatever threads the environment left.


def live_with(lifeline: int) -> None:
    """Die as soon as nobody holds the other end of the pipe, and take along what the environment started."""
    own = os.getpid()
    with contextlib.suppress(AttributeError, OSError):  # Linux
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -own if os.getpgrp() == own else own)
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_watch, args=(lifeline, os.getppid()), name="lifeline", daemon=True).start()


def _watch(lifeline: int, parent: int) -> None:
    """The same in a thread, for other systems and for a run that ended before this process had asked the kernel.

    The look at the parent each second is for a writing end that another process holds, a fork of the run.
    """
    poll = select.poll()
    poll.register(lifeline, 0)  # Only the hang-up, which is always told.
    while not poll.poll(1000) and os.getppid() == parent:
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def serve(connection: socket.socket, said: list[warnings.WarningMessage]) -> None:
    """Make the environment that the first message asks for, then answer one message after another.

    Warnings go along with the answers: they are the run's to show.  Raises `EOFError` when the run is gone.
    """

    def read() -> bytes:
        piece = connection.recv(PIECE)
        if not piece:
            raise EOFError
        return piece

    def send(kind: Kind, words: dict[str, Any], numbers: bytes = b"") -> None:
        if said:
            words = words | {"said": [str(warning.message)[:LONGEST] for warning in said[:20]]}
            said.clear()
        connection.sendall(pack(kind, words or None, numbers))

    try:
        env = made(receive(read).words)
        observation, low_high = pack_space(env.observation_space)
        action, more = pack_space(env.action_space)
    except UserError as error:
        send(Kind.SORRY, {"sentence": str(error)})
        return
    send(Kind.SPACES, {"observation": observation, "action": action}, low_high + more)
    while (message := receive(read)).kind != Kind.CLOSE:
        send(*answer(env, message))
    env.close()


def made(words: Mapping[str, Any]) -> gymnasium.Env:
    """The environment that a message describes.  Raises `UserError` where it cannot be made here."""
    sys.path[:] = words["paths"]
    os.environ.pop("PYTHONPATH", None)
    os.environ.update({} if words["pythonpath"] is None else {"PYTHONPATH": words["pythonpath"]})
    fields = words["source"]
    registered = _register(fields["id"], words["registration"])
    source = Source(**fields | {"guard": Guard(**fields["guard"])})
    try:
        return source.make()
    except UserError as error:
        if not registered:
            raise
        hint = f"A worker process looks for it in {registered}; name it module:{source.id} if that is elsewhere."
        raise UserError(f"{error} {hint}") from error


def _register(id: str, wanted: dict[str, Any] | str | None) -> str | None:
    """Register an environment as the run has it, unless it is registered so; the entry point if this was needed."""
    known = gymnasium.registry.get(id)
    if wanted is None or (known is not None and registration(known) == wanted):
        return None
    if not isinstance(wanted, dict):
        raise UserError(wanted)
    gymnasium.registry.pop(id, None)
    gymnasium.register(**wanted)
    return wanted["entry_point"]


def answer(env: gymnasium.Env, message: Message) -> tuple[Kind, dict[str, Any], bytes]:
    """What the environment returns to one message, or what is wrong with it.  Infos stay here."""
    resetting = message.kind == Kind.RESET
    try:
        if resetting:
            observation, _ = env.reset(seed=message.words["seed"], options=message.words["options"])
            return Kind.BEGAN, {}, pack_array(observation)
        y, reward, terminated, truncated, _ = env.step(_action(env.action_space, message.numbers))
        return Kind.MOVED, {}, STEP.pack(reward, terminated, truncated) + pack_array(y)
    except TransitionError as error:
        return Kind.FAULT, _fault(error.step, error.field, error.value, error.wrong), b""
    except Exception as error:  # of a wrapper around the guard
        field = "reset" if resetting else "step"
        return Kind.FAULT, _fault(None, field, error, "raised an exception"), b""


def _action(space: spaces.Space, numbers: memoryview) -> np.ndarray | int:
    """The action as the environment takes it."""
    action = unpack_array(numbers, space.shape or ())
    return int(action) if isinstance(space, spaces.Discrete) else action


def _fault(step: int | None, field: str, value: Any, wrong: str) -> dict[str, Any]:
    """A transition that is none, in words; its value as an error shows it."""
    shown = " ".join(repr(value).split())
    return {"step": step, "field": field[:LONGEST], "value": shown[:LONGEST], "wrong": wrong[:LONGEST]}


if __name__ == "__main__":
    main()
