"""Published figures to stand beside ours, read off tables and plots of Godfrey et al. 2022: CIFAR-10 unless said."""

import pandas as pd

RELUS = ["relu1", "relu2", "relu3", "relu4"]


def _layers(rows: dict[str, list], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


ACCURACY = pd.DataFrame(
    {"clean accuracy (%)": [91.4, 89.8, 93.0, 87.4]},
    index=["mCNN", "resnet20", "resnet18", "mCNN without batch norm"],
)
PENALTIES = _layers(
    {
        "full": [2, 2, 3, 3],
        "rank 4": [9, 14, 27, 16],
        "rank 2": [22, 28, 41, 32],
        "rank 1": [43, 54, 58, 62],
        "G_ReLU": [8, 8, 17, 6],
    },
    RELUS,
)
CHOSEN = _layers({"G_ReLU, alpha 0.1": [8, 8, 17, 6], "G_ReLU, alpha chosen": [7, 8, 17, 6]}, RELUS)
LASSO = _layers(
    {
        "lambda 0.001": ["1.3 @ 0.22", "1.3 @ 0.36", "2 @ 0.48"],
        "lambda 0.01": ["1.4 @ 0.72", "2.2 @ 0.72", "4 @ 0.76"],
        "lambda 0.1": ["4.1 @ 0.77", "5.9 @ 0.81", "11.5 @ 0.88"],
    },
    RELUS[:3],
)
ROTATION = _layers({"G_ReLU": [0, 1.8, 1.4], "orthogonal": [0.8, 4.6, 8.3]}, ["conv1", "conv2", "conv3"])
HOMOGENEITY = pd.DataFrame({"xi(l) / l for large l": [0.1267]}, index=["GELU"])
PROCRUSTES = _layers(
    {
        "mCNN, G_ReLU": [0.6208, 0.5106, 0.4432, 0.4899],
        "mCNN, orthogonal": [0.7724, 0.5743, 0.5087, 0.5825],
        "cwCNN, G_ReLU": [0.8176, 0.7602, 0.5691, 0.4971],
        "cwCNN, orthogonal": [0.8460, 0.6735, 0.5409, 0.6050],
    },
    RELUS,
)
CKA = _layers(
    {
        "relu1": [0.84, 0.60, 0.31, 0.21],
        "relu2": [0.62, 0.61, 0.31, 0.21],
        "relu3": [0.31, 0.31, 0.45, 0.34],
        "relu4": [0.20, 0.21, 0.35, 0.43],
    },
    RELUS,
)
ORTHOGONAL_CKA = _layers(
    {
        "relu1": [0.98, 0.91, 0.53, 0.37],
        "relu2": [0.90, 0.97, 0.66, 0.49],
        "relu3": [0.52, 0.66, 0.92, 0.83],
        "relu4": [0.37, 0.49, 0.83, 0.93],
    },
    RELUS,
)
# The paper has a figure and no counts; the code of neither paper states any.
DISSECTION = pd.DataFrame(
    {
        "unique detectors": [
            "fall with a",
            "fewer at a = 0, flat",
            "fall by about 80 % under a random rotation (Bau et al. 2017)",
        ]
    },
    index=["ResNet-50 with ReLU", "ResNet-50 without ReLU on residual outputs", "AlexNet conv5, 256 units"],
)

# By experiment: captions and tables.
PUBLISHED: dict[str, dict[str, pd.DataFrame]] = {
    "zoo": {"clean accuracy on CIFAR-10": ACCURACY},
    "stitch": {"stitching penalty of mCNN on CIFAR-10, percentage points (about)": PENALTIES},
    "crossval": {"stitching penalty of mCNN on CIFAR-10, percentage points (about)": CHOSEN},
    "lasso": {"penalty in percentage points @ sparsity, mCNN on CIFAR-10 (about)": LASSO},
    "rotate": {"rotation penalty of mCNN without batch norm on CIFAR-10, percentage points": ROTATION},
    "dissect": {"in the basis Q^a from a = 0 to 1, ImageNet networks on Broden": DISSECTION},
    "symmetry": {"lack of homogeneity, xi(l) = RMS(s(l X) - l s(X)) with X standard normal": HOMOGENEITY},
    "align": {
        "Procrustes similarity of equal layers, CIFAR-10": PROCRUSTES,
        "G_ReLU-CKA of mCNN on CIFAR-10, layers of one network by layers of another": CKA,
        "CKA with normalised channels (called orthogonal there), likewise": ORTHOGONAL_CKA,
    },
}

# Of these the published figures are of no data set, and stand beside ours whatever a run is on.
WITHOUT_DATA = ("symmetry",)
