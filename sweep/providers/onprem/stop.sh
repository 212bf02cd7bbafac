# Ends this sweep's Ray on one host, and no other process.  Prints the number of processes that it found.
found=$(ours | wc -l)
if [ "$found" -gt 0 ]; then
  kill $(ours) 2> /dev/null
  for _ in $(seq 20); do [ -z "$(ours)" ] && break; sleep 0.5; done
  kill -9 $(ours) 2> /dev/null
fi
echo "ended=$found"
