"""Publishes events and progress that sidestream delivers to browsers, through the JetStream context of the application.

Nothing here connects. What goes over the wire is the same as in the Rust and TypeScript libraries beside this one.
"""

from ._progress import Progress
from ._publisher import Publisher
from ._subject import UserEncoding

__all__ = ["Progress", "Publisher", "UserEncoding"]
