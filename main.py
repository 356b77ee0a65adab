"""Train and evaluate DiffMIC: the same as `diffmic train`.

python main.py --config=configs/quickstart.py
python main.py --config=configs/ham10000.py:v1_public --config.data.root=DIR --workdir=W
"""

import sys

from diffmic_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
