"""The command ``eventchain``, also as ``python -m eventchain``."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from eventchain.cli import main as command  # what takes time is inside the try

        command()
    except KeyboardInterrupt:  # during the imports; a command that runs handles its own
        sys.exit(130)


if __name__ == "__main__":
    main()
