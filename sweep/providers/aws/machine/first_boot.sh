#!/bin/sh
# Run as root at the first boot of every machine, before anything else is known to work: whatever fails
# later, the machine powers itself off, and power off means terminated.  DEADLINE, ROLE and GUARD are filled in.
left=$(( ({{DEADLINE}} - $(date +%s)) / 60 ))
[ "$left" -gt 0 ] || left=0
shutdown -h "+$left" "the time limit of the sweep is reached"
# Booted again, by whomever, the machine would stay up for ever: nothing here is run a second time, and what it left
# in /run is lost.  So the second boot is the last.  At the first, cloud-init has run per-boot scripts before this one;
# and an image that is made of this machine has another instance's first boot.
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
# Started again whenever it ends: a guard that can be killed by a full memory guards nothing.
setsid sh -c 'while :; do python3 /opt/sweep/guard.py {{ROLE}} --deadline {{DEADLINE}}; sleep 5; done' \
  > /var/log/sweep-guard.log 2>&1 < /dev/null &
