import os

# LAPACK in compiled programs runs in threads of OpenBLAS, which cost far more than they gain for small matrices, most
# of all beside other threads. OpenBLAS reads this when NumPy or SciPy loads it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
