"""``python -m aimcost`` is the ``aimcost`` command."""

from .cli import main

if __name__ == "__main__":
    main()
