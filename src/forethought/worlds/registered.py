"""Environments of Forethought's own, under their Gymnasium ids.

Importing this module registers them; everything here that finds an environment by its id imports it.  Elsewhere
gymnasium.make("forethought.worlds.registered:forethought/PegInsertion-v0") does so.  The environments themselves, and
MuJoCo, are imported when one is made.
"""

from __future__ import annotations

import gymnasium

PEG_INSERTION = "forethought/PegInsertion-v0"

OWN = {PEG_INSERTION: ("forethought.worlds.peg_insertion:PegInsertion", 100)}
"""Id to entry point and time limit in steps."""

for _id, (_entry_point, _steps) in OWN.items():
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=_entry_point, max_episode_steps=_steps)
