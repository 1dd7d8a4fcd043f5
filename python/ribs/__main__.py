"""`python -m ribs`, for launchers such as torchrun."""

import sys

from ribs.cli.main import main

sys.exit(main())
