"""``python -m eventchain`` is the command ``eventchain``."""

from eventchain.cli import main

if __name__ == "__main__":
    main()
