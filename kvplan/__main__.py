"""``python -m kvplan`` and the ``kvplan`` script."""

from __future__ import annotations

from kvplan.cli.main import main

if __name__ == "__main__":
    main()
