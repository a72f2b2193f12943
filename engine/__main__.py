"""The command line's entry: `distilrt` and `python -m distilrt`."""

from __future__ import annotations


def main() -> None:
    """Run a command and exit, see `distilrt.cli.main`; Ctrl-C during imports, too, ends with 130 and no traceback."""
    try:
        from distilrt import cli

        cli.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
