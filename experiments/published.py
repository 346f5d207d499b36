"""Published figures to stand beside ours, read off tables and plots of Godfrey et al. 2022: CIFAR-10 unless said.

Those of recurrent networks are of Morcos et al. 2018.
"""

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

PENN_TREEBANK = _layers(
    {
        "epoch 0": [0.54, 0.45, 0.36],
        "epoch 10": [0.62, 0.55, 0.52],
        "epoch 100": [0.70, 0.63, 0.64],
        "epoch 300": [0.79, 0.75, 0.75],
        "epoch 490": [0.90, 0.87, 0.85],
    },
    ["layer 1", "layer 2", "layer 3"],
)
WIKITEXT = _layers(
    {"epoch 0": [0.55, 0.49, 0.45, 0.43, 0.39], "epoch 100": [0.74, 0.68, 0.64, 0.61, 0.61]},
    [f"layer {i + 1}" for i in range(5)],
)
STATES = pd.DataFrame(
    {
        "published": [
            "CCA distance from the last of 20 steps stays high until late steps",
            "after 1, 8, 24, 48, 81 % of the tokens: early, states stay similar by CCA; late, their distance grows",
        ]
    },
    index=["positions", "repeats"],
)

# By experiment: captions and tables.
PUBLISHED: dict[str, dict[str, pd.DataFrame]] = {
    "zoo": {"clean accuracy on CIFAR-10": ACCURACY},
    "stitch": {"stitching penalty of mCNN on CIFAR-10, percentage points (about)": PENALTIES},
    "crossval": {"stitching penalty of mCNN on CIFAR-10, percentage points (about)": CHOSEN},
    "lasso": {"penalty in percentage points @ sparsity, mCNN on CIFAR-10 (about)": LASSO},
    "rotate": {"rotation penalty of mCNN without batch norm on CIFAR-10, percentage points": ROTATION},
    "dynamics": {
        "PWCCA of each layer with itself at the end, AWD-LSTM of 3 layers on the Penn Treebank": PENN_TREEBANK,
        "PWCCA of each layer with itself at the end, AWD-LSTM of 5 layers on WikiText-2": WIKITEXT,
    },
    "recurrent": {"AWD-LSTM, appendices A3 and A4 (figures without numbers in the text)": STATES},
    "symmetry": {"lack of homogeneity, xi(l) = RMS(s(l X) - l s(X)) with X standard normal": HOMOGENEITY},
    "align": {
        "Procrustes similarity of equal layers, CIFAR-10": PROCRUSTES,
        "G_ReLU-CKA of mCNN on CIFAR-10, layers of one network by layers of another": CKA,
        "CKA with normalised channels (called orthogonal there), likewise": ORTHOGONAL_CKA,
    },
}

# Of these the published figures are of no data set, or of one that captions name, whatever a run is on.
WITHOUT_DATA = ("symmetry", "dynamics", "recurrent")
