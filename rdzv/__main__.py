"""``python -m rdzv`` is the command ``rdzv``; see `rdzv.cli`."""

import sys

from rdzv.cli import main

if __name__ == "__main__":
    sys.exit(main())
