# Every node of the job runs this as one task: it starts Ray and, on the first node, the driver.  Other jobs may run on
# the same node: so all files are in a folder of this job, and the system chooses all ports.
set -u
{{BEFORE}}
run={{RUN}}
scratch={{SCRATCH}}/sweep-$SLURM_JOB_ID
[ ! -e "$scratch/.sweep-job" ] || rm -rf "$scratch"  # of an earlier run of this job, which Slurm has killed
mkdir -m 700 "$scratch" || exit 1
touch "$scratch/.sweep-job"  # only a folder with this file is ever removed
ray=
end() {  # `ray start --block` ends all processes of Ray when it ends
  kill $ray 2> /dev/null && wait $ray
  rm -rf "$scratch"
}
trap end EXIT
stopped() {  # called if Slurm ends the step before the sweep has started
  [ "$SLURM_NODEID" -ne 0 ] || echo 143 > "$run/exit_code"
  exit 143
}
trap stopped TERM

{{EXPORTS}}
ulimit -n "$(ulimit -Hn)"
cd {{CODE}} || exit 1

start() {
  rm -f "$scratch/ray.log"
  PYTHONUNBUFFERED=1 exec ray start --block --num-cpus={{CPUS}} --num-gpus={{GPUS}} --object-store-memory={{OBJECT_STORE}} \
    --min-worker-port=0 --max-worker-port=0 --disable-usage-stats "$@" > "$scratch/ray.log" 2>&1
}

if [ "$SLURM_NODEID" -ne 0 ]; then
  until [ -s "$run/address" ]; do sleep 1; done
  while :; do  # start Ray again if it dies; the first node ends the step
    start --address="$(cat "$run/address")" & ray=$!
    wait $ray
    tail -n 5 "$scratch/ray.log"
    sleep 5
  done
fi

head=$SLURM_LAUNCH_NODE_IPADDR  # the address under which the other nodes reach this one
for _ in 1 2 3 4 5; do  # a free port may be taken in the meantime, and on a busy node Ray may give up on its own parts
  read -r port client <<< "$(python -m sweep.providers.slurm.ports 2)"
  start --head --node-ip-address="$head" --port="$port" --ray-client-server-port="$client" --include-dashboard=false \
    --temp-dir="$scratch/ray" & ray=$!
  until grep -qs 'Ray runtime started' "$scratch/ray.log"; do kill -0 $ray 2> /dev/null || break; sleep 0.2; done
  kill -0 $ray 2> /dev/null && break
  tail -n 20 "$scratch/ray.log"
done
kill -0 $ray 2> /dev/null || exit 1
echo "$head:$port" > "$run/address.new" && mv "$run/address.new" "$run/address"

RAY_ADDRESS=$head:$port {{SUPERVISOR}} & supervisor=$!
trap 'kill $supervisor' TERM  # Slurm takes the node back: the supervisor suspends the sweep
echo $supervisor > "$run/supervisor.pid"
wait $supervisor
code=$?
while kill -0 $supervisor 2> /dev/null; do wait $supervisor; code=$?; done  # a trap interrupts `wait`
echo $code > "$run/exit_code.new" && mv "$run/exit_code.new" "$run/exit_code"
rm -f "$run/supervisor.pid"
end
scancel "$SLURM_JOB_ID.$SLURM_STEP_ID"  # otherwise Ray on the other nodes waits a minute for its head
