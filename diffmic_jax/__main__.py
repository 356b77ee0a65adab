"""`python -m diffmic_jax COMMAND` is `diffmic COMMAND`."""

import sys

from diffmic_jax.cli.main import main

sys.exit(main())
