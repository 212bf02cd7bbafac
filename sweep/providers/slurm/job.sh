#!/bin/bash
{{OPTIONS}}
# One job runs one sweep.  Before the walltime ends, trials write their resume state, and the job goes back into the
# queue.  The job ends with the exit code of the sweep, and not with that of its step, which a signal ends.  Slurm may
# take the nodes back at any time, for another job or because a user requeues this one.  That suspends the sweep; only
# `down` ends it.
set -u
run={{RUN}}
rm -f "$run/exit_code" "$run/address" "$run/supervisor.pid"
warned= ended=

tell() {  # the supervisor runs on the same node as this script
  [ -s "$run/supervisor.pid" ] && kill -s "$1" "$(cat "$run/supervisor.pid")"
}
trap 'warned=yes; tell USR1' USR1  # the walltime ends soon: stop in order, and go on in the next run
trap 'ended=yes; tell USR2' USR2   # `down` was called: stop in order, and end
trap 'ended=yes; tell TERM' TERM   # Slurm ends the job; only Slurm knows if it runs again

srun --label --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task={{CPUS}} bash "$run/node.sh" &
while kill -0 $! 2> /dev/null; do wait $!; done  # a trap interrupts `wait` while the step still runs
# Remove the files of a task that Slurm had to kill.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c \
  '[ ! -e {{SCRATCH}}/sweep-$SLURM_JOB_ID/.sweep-job ] || rm -rf {{SCRATCH}}/sweep-$SLURM_JOB_ID'

code=$(cat "$run/exit_code" 2> /dev/null || echo 1)
if [ -n "$warned" ] && [ "$code" -gt {{LAST_CODE}} ]; then
  echo "walltime: back into the queue, run $((${SLURM_RESTART_COUNT:-0} + 1)) is over"
  scontrol requeue "$SLURM_JOB_ID" && exec sleep 600  # Slurm ends this script; if it ended by itself, so might the job
  echo "Slurm does not requeue this job: launch the sweep again, and it goes on where it was"
fi
case "$warned$ended$code" in
130 | 143)  # Slurm has ended the step, so it will preempt this job, but it would not requeue a job that has ended
  echo "stopped by Slurm: the sweep goes on if this job runs again"
  exec sleep 600
  ;;
esac
exit "$code"
