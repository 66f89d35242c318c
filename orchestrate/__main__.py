"""``python -m orchestrate``: the command line, for ``ray job submit``."""

from orchestrate.cli import main

if __name__ == "__main__":
    main()
