"""``python -m finepruning`` is the command ``finepruning``."""

from finepruning.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
