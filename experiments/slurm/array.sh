#!/bin/bash
# A sweep as an array job: the zoo in PARTS parts, merged; then the sweep in PARTS parts, merged and drawn.
#   PARTS=8 OUT=runs/stitch/mine bash experiments/slurm/array.sh stitch "--dataset cifar10 --seeds 16" "--pairs all"
# The first words are the flags of the zoo, which both have, the second those of the sweep alone. No more parts than
# seeds (ZOO_PARTS says otherwise for the zoo).

set -euo pipefail
experiment=$1
read -ra zoo_flags <<<"$2"
read -ra flags <<<"${3:-}"
here=$(dirname "$0")
: "${PARTS:?how many parts}" "${OUT:?the folder of the results}"
ZOO=${ZOO:-$OUT-zoo}
ZOO_PARTS=${ZOO_PARTS:-$PARTS}

submit() { sbatch --parsable "$@"; }

trained=$(PARTS=$ZOO_PARTS submit --array="1-$ZOO_PARTS" "$here/array.sbatch" zoo "${zoo_flags[@]}" --out "$ZOO")
zoo=$(PARTS=$ZOO_PARTS OUT=$ZOO submit --dependency="afterok:$trained" "$here/merge.sbatch" \
    zoo "${zoo_flags[@]}" --out "$ZOO")
all=("${zoo_flags[@]}" "${flags[@]}" --zoo "$ZOO" --out "$OUT")
swept=$(submit --dependency="afterok:$zoo" --array="1-$PARTS" "$here/array.sbatch" "$experiment" "${all[@]}")
submit --dependency="afterany:$swept" "$here/merge.sbatch" "$experiment" "${all[@]}"
