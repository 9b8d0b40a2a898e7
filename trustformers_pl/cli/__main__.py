"""`python -m trustformers_pl.cli`, for a checkout whose command is not on the path."""

import sys

from trustformers_pl.cli.main import main

sys.exit(main())
