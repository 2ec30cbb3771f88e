"""Threads of native libraries: OpenMP, BLAS and others each begin one a core in every process, and then fight."""

import os

from app.config import Settings

VARIABLES = (
    "OMP_NUM_THREADS",  # OpenMP: scikit-learn, PyTorch, ONNX Runtime, XGBoost
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",  # Rust's: tokenizers, polars
)


def cap_native_threads(settings: Settings, n_processes: int) -> None:
    """Gives each of `n_processes` its share of the cores, or `TWOFOLD_MODEL_THREADS` if that is set.

    By the environment, which the libraries read when they are imported: call it before, and before a fork. What
    the operator has set there stays as it is, unless the setting says otherwise.
    """
    if settings.model_threads is not None:
        os.environ.update(dict.fromkeys(VARIABLES, str(settings.model_threads)))
        return
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for variable in VARIABLES:
        os.environ.setdefault(variable, str(max(1, n_cores // n_processes)))
