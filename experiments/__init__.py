import gc
import os
import sys

# LAPACK in compiled programs runs in threads of OpenBLAS, which cost far more than they gain for small matrices, most
# of all beside other threads. OpenBLAS reads this when NumPy or SciPy loads it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# As `python -m experiments.NAME`: imports leave no garbage, and collections are a quarter of their time.
if sys.argv[0] == "-m":
    gc.disable()  # until `run_command` has parsed the flags
