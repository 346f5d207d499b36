#!/bin/bash
# Submit a command as array jobs: train the zoo in PARTS parts and merge them; compute the results in PARTS parts, merge
# them and draw the figures.
#   PARTS=8 OUT=runs/stitch/mine bash experiments/slurm/array.sh stitch "--dataset cifar10 --seeds 16" "--pairs all"
# The first argument after the command has the flags of the zoo, which the command also gets; the second has the other
# flags of the command. PARTS must not exceed the number of seeds; ZOO_PARTS sets another number of parts for the zoo.

set -euo pipefail
experiment=$1
read -ra zoo_flags <<<"$2"
read -ra flags <<<"${3:-}"
here=$(dirname "$0")
: "${PARTS:?number of parts}" "${OUT:?folder of the results}"
ZOO=${ZOO:-$OUT-zoo}
ZOO_PARTS=${ZOO_PARTS:-$PARTS}

submit() { sbatch --parsable "$@"; }

trained=$(PARTS=$ZOO_PARTS submit --array="1-$ZOO_PARTS" "$here/array.sbatch" zoo "${zoo_flags[@]}" --out "$ZOO")
zoo=$(PARTS=$ZOO_PARTS OUT=$ZOO submit --dependency="afterok:$trained" "$here/merge.sbatch" \
    zoo "${zoo_flags[@]}" --out "$ZOO")
all=("${zoo_flags[@]}" "${flags[@]}" --zoo "$ZOO" --out "$OUT")
swept=$(submit --dependency="afterok:$zoo" --array="1-$PARTS" "$here/array.sbatch" "$experiment" "${all[@]}")
submit --dependency="afterany:$swept" "$here/merge.sbatch" "$experiment" "${all[@]}"
