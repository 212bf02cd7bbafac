#!/bin/bash
# PID 1 of a machine of the lab.  The machine has its own mounts, processes and name.  Its root is the root of the real
# machine; files that it writes are in memory, so nothing is left when it is off.  TERM switches it off in order, as
# `shutdown` does.
#
# usage: boot.sh SEED     SEED is a folder of files; only the first two are required:
#   hostname
#   user              user that logs in and may use sudo
#   address           address in its network
#   hidden            folders of the real machine that are empty in this one, one a line
#   image             folders of the real machine that this one has, read-only
#   passed            folders that all users may enter
#   writable          "SOURCE TARGET": folders of the real machine that this one writes to, and that stay after it
#   environment       KEY=VALUE for all SSH connections
#   authorized_keys   keys for SSH; without this file no server runs
#   user-data         script that runs as root at the end of the boot
set -euo pipefail
seed=$1
lines() { if [ -e "$seed/$1" ]; then cat "$seed/$1"; fi; }
user=$(cat "$seed/user")

mount --make-rprivate /
mkdir -p /run/sweep-lab
mount -t tmpfs -o size=3g,mode=755 disk /run/sweep-lab
cp -r "$seed" /run/sweep-lab/seed
mkdir /run/sweep-lab/{written,work,root}
mount -t overlay -o lowerdir=/,upperdir=/run/sweep-lab/written,workdir=/run/sweep-lab/work root /run/sweep-lab/root
cd /run/sweep-lab/root
mount -t tmpfs -o size=3g,mode=1777 tmp tmp
mount -t tmpfs -o mode=755 run run
mkdir run/seed run/sshd run/lock
cp -r /run/sweep-lab/seed/. run/seed
lines writable | while read -r source target; do mkdir -p ".$target" && mount --bind "$source" ".$target"; done
lines hidden | while read -r folder; do if [ -d ".$folder" ]; then mount -t tmpfs -o mode=755 hidden ".$folder"; fi; done
lines image | while read -r folder; do
  mkdir -p ".$folder"
  mount --bind "$folder" ".$folder"
  mount -o remount,bind,ro ".$folder"
done
lines passed | while read -r folder; do chmod a+x ".$folder"; done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 -o ro none sys/fs/cgroup 2>/dev/null || true
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o size=512m,mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for stream in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${stream#*:}" "dev/${stream%:*}"; done
mkdir .before
pivot_root . .before
cd /
umount -l /.before
rmdir /.before

seed=/run/seed
hostname "$(cat $seed/hostname)"
{
  echo "127.0.0.1 localhost"
  if [ -e $seed/address ]; then echo "$(cat $seed/address) $(hostname)"; fi
  lines hosts
} > /etc/hosts
for name in shutdown poweroff; do rm -f /usr/sbin/$name && install -m 755 $seed/power.sh /usr/sbin/$name; done
rm -rf /etc/ssh/ssh_host_* /etc/ssh/ssh_config.d
mkdir -p /var/log && rm -f /var/log/sweep-*
useradd -m -s /bin/bash "$user" 2>/dev/null || true
usermod -p '*' "$user" # SSH refuses a locked account even with a key
echo "$user ALL=(ALL) NOPASSWD:ALL" > "/etc/sudoers.d/$user"
home=$(getent passwd "$user" | cut -d: -f6)
chown "$user:" "$home"

switch_off() {
  trap '' TERM
  kill -TERM -1 2>/dev/null || true
  for _ in {1..30}; do
    local running=(/proc/[0-9]*)
    if [ ${#running[@]} = 1 ]; then break; fi # only this script is left
    sleep 0.1
  done
  exit 0
}
trap switch_off TERM

if [ -e $seed/authorized_keys ]; then
  mkdir -p "$home/.ssh"
  cp $seed/authorized_keys "$home/.ssh/authorized_keys"
  chown -R "$user:" "$home/.ssh"
  chmod 700 "$home/.ssh"
  chmod 600 "$home/.ssh/authorized_keys"
  ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
  {
    echo "HostKey /etc/ssh/ssh_host_ed25519_key"
    echo "PasswordAuthentication no"
    echo "UsePAM no"
    echo "MaxStartups 50"
    echo "Subsystem sftp /usr/lib/openssh/sftp-server"
    lines environment | sed 's/^/SetEnv /' | paste -sd' ' | sed 's/ SetEnv / /g'
  } > /etc/ssh/sshd_config
  /usr/sbin/sshd -D -e &
fi
if [ -e $seed/user-data ]; then
  chmod 700 $seed/user-data
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    sh -c 'cd / && exec /run/seed/user-data' > /var/log/cloud-init-output.log 2>&1 < /dev/null &
fi
touch /run/booted
while :; do sleep infinity & wait $! || true; done
