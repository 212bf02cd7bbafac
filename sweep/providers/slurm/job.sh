#!/bin/bash
{{OPTIONS}}
# One job is one sweep.  Before its walltime trials write their resume state and the job goes back into the queue; it
# ends with the exit code of the sweep, not with that of its step, which Slurm ends by a signal.  Slurm may take the
# nodes back at any time, by preemption or because somebody requeues the job: that suspends the sweep, and `down` alone
# ends it.
set -u
run={{RUN}}
rm -f "$run/exit_code" "$run/address" "$run/supervisor.pid"
warned= ended=

tell() {  # the node that runs this script is the one that drives
  [ -s "$run/supervisor.pid" ] && kill -s "$1" "$(cat "$run/supervisor.pid")"
}
trap 'warned=yes; tell USR1' USR1  # the walltime is near: stop in order, to go on in the next run
trap 'ended=yes; tell USR2' USR2   # `down`: stop in order, for good
trap 'ended=yes; tell TERM' TERM   # Slurm ends all of the job, and knows whether it runs again

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
case "$warned$ended$code" in
130 | 143)  # Slurm has ended the step alone: it is about to preempt this job, and would not requeue one that ends before
  echo "stopped by Slurm: the sweep goes on if this job runs again"
  exec sleep 600
  ;;
esac
exit "$code"
