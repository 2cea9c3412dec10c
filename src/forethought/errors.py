"""What can be told to a user in a sentence.  Nothing is imported here: worker processes start with it."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's, told in a sentence: what was given, where, what is allowed. Exit status 2."""


def printable(text: str) -> str:
    """The text with control characters written out: a name from a stranger's file must not command a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
