#!/bin/sh
# The machine's `shutdown` and `poweroff`, with the options of systemd's programs that a sweep uses:
#   shutdown -h now | shutdown -h +MINUTES [MESSAGE] | shutdown -c | poweroff [-f]
[ "$(id -u)" = 0 ] || { echo "must be root" >&2; exit 1; }
scheduled=/run/shutdown.pid
off() { kill -TERM 1; }
case "$(basename "$0") ${1:-} ${2:-}" in
  "shutdown -c "*) [ -e $scheduled ] && kill "$(cat $scheduled)" && rm $scheduled ;;
  "shutdown -h now" | "shutdown -h +0" | "poweroff  " | "poweroff -f ") off ;;
  "shutdown -h +"*)
    [ -e $scheduled ] && kill "$(cat $scheduled)" 2>/dev/null
    seconds=$((${2#+} * 60))
    setsid sh -c "sleep $seconds; kill -TERM 1" < /dev/null > /dev/null 2>&1 &
    echo $! > $scheduled
    ;;
  *) echo "not understood: $0 $*" >&2; exit 1 ;;
esac
