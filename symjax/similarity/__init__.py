"""Similarity of representations: CCA and its relatives, CKA, Procrustes, and variants for the symmetries of ReLU.

Functions take two representations (n, d) or (n, h, w, c), examples first. They are pure and work under `jit`, `vmap`
and `grad`. `MEASURES` lists the functions that return a number, with their reference, range and invariances.
"""

import importlib
import pkgutil

from symjax.similarity.alignment import Matching, Rotation
from symjax.similarity.bartlett import BartlettTest, bartlett_test
from symjax.similarity.calibration import Calibration, LayerCalibration, calibrate
from symjax.similarity.canonical_variates import CCA
from symjax.similarity.cca import cca, cca_distance, cca_similarity, mean_correlation, mean_square_correlation
from symjax.similarity.ceilings import Ceiling, seed_ceiling, split_half_ceiling
from symjax.similarity.cka import channel_normalized_cka, cka, cka_distance
from symjax.similarity.correlation_match import hard_correlation_match, partial_soft_matching, soft_correlation_match
from symjax.similarity.dependent_columns import dependent_columns_cka
from symjax.similarity.descriptors import concentricity_difference, magnitude_difference, uniformity_difference
from symjax.similarity.diagnose import Diagnosis, diagnose
from symjax.similarity.distance_correlation import distance_correlation
from symjax.similarity.eigenspace import eigenspace_overlap
from symjax.similarity.feature_sampled_cka import feature_sampled_cka
from symjax.similarity.fourier import FourierCCA, fourier_cca, fourier_cca_similarity
from symjax.similarity.group_means import group_means
from symjax.similarity.group_test import GroupTest, group_test
from symjax.similarity.gulp import gulp
from symjax.similarity.held_out import aligned_cosine, held_out_procrustes
from symjax.similarity.hsic import hsic
from symjax.similarity.inputs import FewExamplesWarning, LayoutWarning, NumericalWarning
from symjax.similarity.measure import INVARIANCES, Measure
from symjax.similarity.neighbor_ranks import cycle_knn, information_imbalance, rank_similarity
from symjax.similarity.neighbor_sequences import edit_knn, lcs_knn
from symjax.similarity.neighbors import cknna, knn_jaccard, mutual_knn, second_order_cosine
from symjax.similarity.pair_mean import PairMean, mean_over_pairs
from symjax.similarity.pairwise import pairwise
from symjax.similarity.pairwise_result import Pairwise
from symjax.similarity.pca import PCA, pca
from symjax.similarity.pls import PLS, pls, pls_similarity
from symjax.similarity.predictivity import linear_predictivity
from symjax.similarity.procrustes import (
    permutation_procrustes,
    permutation_procrustes_distance,
    procrustes,
    procrustes_distance,
)
from symjax.similarity.pwcca import pwcca, pwcca_distance
from symjax.similarity.resampling import ErrorBars, PermutationTest, error_bars, permutation_test
from symjax.similarity.rsa import rsa, rsm_norm_difference
from symjax.similarity.shape import shape_distance
from symjax.similarity.soft_matching import Transport, soft_matching, soft_matching_distance
from symjax.similarity.stochastic import stochastic_shape_distance
from symjax.similarity.streams import (
    Stream,
    cca_stream,
    cka_stream,
    load_stream,
    pairwise_batches,
    permutation_procrustes_stream,
    pls_stream,
    procrustes_stream,
    pwcca_stream,
    save_stream,
    svcca_stream,
    wreath_cka_stream,
    wreath_procrustes_stream,
)
from symjax.similarity.svcca import svcca, svcca_distance
from symjax.similarity.table import MEASURES, add_measures
from symjax.similarity.wreath import (
    wreath_cka,
    wreath_cka_distance,
    wreath_procrustes,
    wreath_procrustes_distance,
)

for _module in pkgutil.iter_modules(__path__):
    if isinstance(_measures := getattr(importlib.import_module(f"{__name__}.{_module.name}"), "MEASURES", None), tuple):
        add_measures(_measures)

__all__ = [
    "CCA",
    "INVARIANCES",
    "MEASURES",
    "PCA",
    "PLS",
    "BartlettTest",
    "Calibration",
    "Ceiling",
    "Diagnosis",
    "ErrorBars",
    "FewExamplesWarning",
    "FourierCCA",
    "GroupTest",
    "LayerCalibration",
    "LayoutWarning",
    "Matching",
    "Measure",
    "NumericalWarning",
    "PairMean",
    "Pairwise",
    "PermutationTest",
    "Rotation",
    "Stream",
    "Transport",
    "add_measures",
    "aligned_cosine",
    "bartlett_test",
    "calibrate",
    "cca",
    "cca_distance",
    "cca_similarity",
    "cca_stream",
    "channel_normalized_cka",
    "cka",
    "cka_distance",
    "cka_stream",
    "cknna",
    "concentricity_difference",
    "cycle_knn",
    "dependent_columns_cka",
    "diagnose",
    "distance_correlation",
    "edit_knn",
    "eigenspace_overlap",
    "error_bars",
    "feature_sampled_cka",
    "fourier_cca",
    "fourier_cca_similarity",
    "group_means",
    "group_test",
    "gulp",
    "hard_correlation_match",
    "held_out_procrustes",
    "hsic",
    "information_imbalance",
    "knn_jaccard",
    "lcs_knn",
    "linear_predictivity",
    "load_stream",
    "magnitude_difference",
    "mean_correlation",
    "mean_over_pairs",
    "mean_square_correlation",
    "mutual_knn",
    "pairwise",
    "pairwise_batches",
    "partial_soft_matching",
    "pca",
    "permutation_procrustes",
    "permutation_procrustes_distance",
    "permutation_procrustes_stream",
    "permutation_test",
    "pls",
    "pls_similarity",
    "pls_stream",
    "procrustes",
    "procrustes_distance",
    "procrustes_stream",
    "pwcca",
    "pwcca_distance",
    "pwcca_stream",
    "rank_similarity",
    "rsa",
    "rsm_norm_difference",
    "save_stream",
    "second_order_cosine",
    "seed_ceiling",
    "shape_distance",
    "soft_correlation_match",
    "soft_matching",
    "soft_matching_distance",
    "split_half_ceiling",
    "stochastic_shape_distance",
    "svcca",
    "svcca_distance",
    "svcca_stream",
    "uniformity_difference",
    "wreath_cka",
    "wreath_cka_distance",
    "wreath_cka_stream",
    "wreath_procrustes",
    "wreath_procrustes_distance",
    "wreath_procrustes_stream",
]
