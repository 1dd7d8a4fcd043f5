"""`python -m ribs` is the command line."""

import sys

from ribs.cli.main import main

sys.exit(main())
