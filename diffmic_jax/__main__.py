"""`python -m diffmic_jax VERB`."""

import sys

from diffmic_jax.cli.commands import main

sys.exit(main())
