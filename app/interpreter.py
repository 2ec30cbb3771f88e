"""The interpreter's lock, which a model in pure Python shares with the thread that serves or stores its answers."""

import sys

SWITCH_SECONDS = 0.0005
"""For how long one thread keeps another waiting for it."""


def share_interpreter() -> None:
    """Has the threads of this process take turns more often than Python's default has them, which is every 5 ms.

    A loop lets go of the interpreter at each read and write of a socket or a database, and a model then takes it. With
    the default, a commit took longer than a quick model needs for its chunk, and the model idled; and requests waited
    for the loop while their batch could have grown.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
