# What every node of the job runs, as one task: Ray, and on the first one the driver.  All that it makes lies in a
# folder of this job alone, and all its ports are chosen by the system: others may have jobs on the same node.
set -u
{{BEFORE}}
run={{RUN}}
scratch={{SCRATCH}}/anomaly-sweep-$SLURM_JOB_ID
rm -rf "$scratch"
mkdir -m 700 "$scratch" || exit 1
ray=
end() {  # Ray's processes end with the one that started them
  kill $ray 2> /dev/null && wait $ray
  rm -rf "$scratch"
}
trap end EXIT
stopped() {  # before there is a sweep to suspend
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
  while :; do  # a Ray that dies here comes again; the first node ends the step
    start --address="$(cat "$run/address")" & ray=$!
    wait $ray
    tail -n 5 "$scratch/ray.log"
    sleep 5
  done
fi

head=$SLURM_LAUNCH_NODE_IPADDR  # by which the other nodes reach this one
for _ in 1 2 3 4 5; do  # somebody may have taken a port meanwhile, and on a busy node Ray gives up on its own parts
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
trap 'kill $supervisor' TERM  # Slurm takes the node back: the sweep is suspended, and says so
echo $supervisor > "$run/supervisor.pid"
wait $supervisor
code=$?
while kill -0 $supervisor 2> /dev/null; do wait $supervisor; code=$?; done  # a trap ends a wait
echo $code > "$run/exit_code.new" && mv "$run/exit_code.new" "$run/exit_code"
rm -f "$run/supervisor.pid"
end
scancel "$SLURM_JOB_ID.$SLURM_STEP_ID"  # the Ray of other nodes would wait a minute for its head
