"""``python -m orchestrate``: the command line, for ``ray job submit``."""

from orchestrate.cli.app import main

if __name__ == "__main__":
    main()
