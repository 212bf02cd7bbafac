#!/bin/bash
{{OPTIONS}}
# One job is one sweep.  Before its walltime trials write their resume state and the job goes back into the queue; it
# ends with the exit code of the sweep, not with that of its step, which Slurm ends by a signal.
set -u
run={{RUN}}
rm -f "$run/exit_code" "$run/address" "$run/supervisor.pid"
warned=

tell() {  # the node that runs this script is the one that drives
  [ -s "$run/supervisor.pid" ] && kill -s "$1" "$(cat "$run/supervisor.pid")"
}
trap 'warned=yes; tell USR1' USR1  # the walltime is near: stop in order, to go on in the next run
trap 'tell TERM' TERM              # `down`: stop in order, for good

srun --label --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task={{CPUS}} bash "$run/node.sh" &
while kill -0 $! 2> /dev/null; do wait $!; done  # a trap ends a wait, not the step
# What a task has left that Slurm had to kill.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c 'rm -rf {{SCRATCH}}/anomaly-sweep-$SLURM_JOB_ID'

code=$(cat "$run/exit_code" 2> /dev/null || echo 1)
if [ -n "$warned" ] && [ "$code" -gt {{LAST_CODE}} ]; then
  echo "walltime: back into the queue, run $((${SLURM_RESTART_COUNT:-0} + 1)) is over"
  scontrol requeue "$SLURM_JOB_ID" && exec sleep 600  # until Slurm ends it: a script that ends now may end its job
  echo "Slurm does not requeue this job: launch the sweep again, it goes on where it is"
fi
exit "$code"
