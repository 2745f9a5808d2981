"""The command line: ``hessops demo`` and ``hessops analyze``."""

import sys

from hessops.cli.interrupt import end_interrupted

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what it lacks."""
    try:
        try:
            from hessops.cli.app import app
        except ImportError as error:
            sys.stderr.write(
                f"hessops: {error}; the command line needs the extra 'cli': pip install '.[cli]' "
                "in a clone, pip install 'hessops[cli]' elsewhere\n"
            )
            raise SystemExit(2) from None
        app()
    except KeyboardInterrupt:
        # While modules are still being imported; later the commands see to it.
        end_interrupted()
