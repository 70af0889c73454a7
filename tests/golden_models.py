"""The command `python -m tests.golden_models [FOLDER]`: networks beside their originals."""

import sys

from tests.golden.network_cases import main

if __name__ == "__main__":
    sys.exit(main())
