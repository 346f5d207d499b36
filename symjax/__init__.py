"""symjax: symmetries of neural networks and of their internal representations, in JAX.

The mathematics is importable from here; the rest by module: `symjax.similarity` (with the table of measures),
`symjax.models`, `symjax.groups`, `symjax.zoo`, `symjax.stitching`, `symjax.data`, `symjax.training`,
`symjax.parallel`, `symjax.runs`, `symjax.plots`.
"""

from symjax.birkhoff import ProjectionInfo as ProjectionInfo
from symjax.birkhoff import nearest_permutation as nearest_permutation
from symjax.birkhoff import permutation_matrix as permutation_matrix
from symjax.birkhoff import projection_birkhoff as projection_birkhoff
from symjax.birkhoff import sinkhorn as sinkhorn
from symjax.birkhoff import softsort as softsort
from symjax.errors import InputError as InputError
from symjax.similarity import CCA as CCA
from symjax.similarity import PCA as PCA
from symjax.similarity import PLS as PLS
from symjax.similarity import ErrorBars as ErrorBars
from symjax.similarity import FourierCCA as FourierCCA
from symjax.similarity import Matching as Matching
from symjax.similarity import PairMean as PairMean
from symjax.similarity import Pairwise as Pairwise
from symjax.similarity import PermutationTest as PermutationTest
from symjax.similarity import Rotation as Rotation
from symjax.similarity import Stream as Stream
from symjax.similarity import Transport as Transport
from symjax.similarity import cca as cca
from symjax.similarity import cca_distance as cca_distance
from symjax.similarity import cca_similarity as cca_similarity
from symjax.similarity import cca_stream as cca_stream
from symjax.similarity import channel_normalized_cka as channel_normalized_cka
from symjax.similarity import cka as cka
from symjax.similarity import cka_distance as cka_distance
from symjax.similarity import cka_stream as cka_stream
from symjax.similarity import error_bars as error_bars
from symjax.similarity import fourier_cca as fourier_cca
from symjax.similarity import fourier_cca_similarity as fourier_cca_similarity
from symjax.similarity import group_means as group_means
from symjax.similarity import hsic as hsic
from symjax.similarity import load_stream as load_stream
from symjax.similarity import mean_correlation as mean_correlation
from symjax.similarity import mean_over_pairs as mean_over_pairs
from symjax.similarity import mean_square_correlation as mean_square_correlation
from symjax.similarity import pairwise as pairwise
from symjax.similarity import pca as pca
from symjax.similarity import permutation_procrustes as permutation_procrustes
from symjax.similarity import permutation_procrustes_distance as permutation_procrustes_distance
from symjax.similarity import permutation_procrustes_stream as permutation_procrustes_stream
from symjax.similarity import permutation_test as permutation_test
from symjax.similarity import pls as pls
from symjax.similarity import pls_similarity as pls_similarity
from symjax.similarity import pls_stream as pls_stream
from symjax.similarity import procrustes as procrustes
from symjax.similarity import procrustes_distance as procrustes_distance
from symjax.similarity import procrustes_stream as procrustes_stream
from symjax.similarity import pwcca as pwcca
from symjax.similarity import pwcca_distance as pwcca_distance
from symjax.similarity import pwcca_stream as pwcca_stream
from symjax.similarity import save_stream as save_stream
from symjax.similarity import soft_matching as soft_matching
from symjax.similarity import soft_matching_distance as soft_matching_distance
from symjax.similarity import svcca as svcca
from symjax.similarity import svcca_distance as svcca_distance
from symjax.similarity import svcca_stream as svcca_stream
from symjax.similarity import wreath_cka as wreath_cka
from symjax.similarity import wreath_cka_distance as wreath_cka_distance
from symjax.similarity import wreath_cka_stream as wreath_cka_stream
from symjax.similarity import wreath_procrustes as wreath_procrustes
from symjax.similarity import wreath_procrustes_distance as wreath_procrustes_distance
from symjax.similarity import wreath_procrustes_stream as wreath_procrustes_stream

__version__ = "0.1.0"
