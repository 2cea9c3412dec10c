"""What can be told to a user in a sentence.  Nothing is imported here: worker processes start with it."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's, told in a sentence: what was given, where, what is allowed. Exit status 2."""
