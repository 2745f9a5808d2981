"""The command line: ``hessops demo`` and ``hessops analyze``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what it lacks."""
    try:
        from hessops.cli.app import app
    except ImportError as error:
        sys.stderr.write(f"hessops: {error}; the command line needs: pip install 'hessops[cli]'\n")
        raise SystemExit(2) from None
    app()
