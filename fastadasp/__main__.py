"""``python -m fastadasp``."""

from fastadasp.cli.app import main

if __name__ == "__main__":
    main()
