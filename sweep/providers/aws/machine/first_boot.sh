#!/bin/sh
# Runs as root at the first boot of every machine, before all else.  If anything fails later, the machine still powers
# itself off, and power-off means terminated.  DEADLINE, ROLE and GUARD are filled in by the launch.
left=$(( ({{DEADLINE}} - $(date +%s)) / 60 ))
[ "$left" -gt 0 ] || left=0
shutdown -h "+$left" "the time limit of the sweep is reached"
# If someone booted the machine again, it would stay up forever: this script does not run a second time, and its files
# in /run are lost.  So a script that runs at each boot powers the machine off.  It does not run at the first boot, as
# cloud-init has run the per-boot scripts before this one.  It compares the instance id, because an image that is made
# of this machine must boot on another instance.
again=/var/lib/cloud/scripts/per-boot/sweep-booted-again
instance=/var/lib/cloud/data/instance-id
mkdir -p "${again%/*}"
cat > "$again" <<AGAIN
#!/bin/sh
[ "\$(cat $instance)" != "$(cat $instance)" ] || shutdown -h now || poweroff -f
AGAIN
chmod 755 "$again"
mkdir -p /opt/sweep
install -d -m 1777 /run/sweep
cat > /opt/sweep/guard.py <<'GUARD'
{{GUARD}}
GUARD
# The guard is started again if it ends, because it may be killed when the memory is full.
setsid sh -c 'while :; do python3 /opt/sweep/guard.py {{ROLE}} --deadline {{DEADLINE}}; sleep 5; done' \
  > /var/log/sweep-guard.log 2>&1 < /dev/null &
