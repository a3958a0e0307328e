# What auto_resume.sbatch sees of a training, without torch: PYTHON=bash TRAIN=.../sbatch_stub.sh
#   --directory DIR EVENT ...     what happens in each life; after the last: done
#     done | crash | hold         hold: until SIGTERM, then preempted; a checkpoint is made unless the life is a crash
directory=$2
shift 2
echo life >>"$directory/stub"
life=$(wc -l <"$directory/stub")
event=${!life:-done}
echo "stub: life $life: $event; ends in $((${SLURM_JOB_END_TIME:-0} - $(date +%s)))"
tell() { echo "{\"outcome\": \"$1\", \"steps\": $life}" >"$directory/status.new" && mv "$directory/status.new" "$directory/status.json"; }
case $event in
    crash) exit 1 ;;
    hold)
        trap 'mkdir "$directory/step-00000000000$life-1"; tell preempted; exit 75' TERM
        tell running
        touch "$directory/holding-$life"
        while :; do sleep 0.05; done
        ;;
    *)
        mkdir "$directory/step-00000000000$life-1"
        tell "done"
        ;;
esac
