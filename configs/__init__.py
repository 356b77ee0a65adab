"""One file per data set: `--config=configs/X.py[:recipe]`, or `--config=X[:recipe]` anywhere."""
