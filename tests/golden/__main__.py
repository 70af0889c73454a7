"""The command `python -m tests.golden [FOLDER]`."""

import sys

from tests.golden.solver_cases import main

sys.exit(main())
