#!/bin/bash
# A real Slurm of one node on this machine, for as long as the given command runs in it.
#
#   real_slurm.sh FOLDER COMMAND [ARGUMENT...]
#
# Root only; needs Debian's slurm-wlm and munge. All of it is in a PID namespace of its own with its
# own /tmp/ray, because `ray stop`, which ends a job's Ray, ends every Ray that it can see.
set -eu
if [ "${1:-}" != --inside ]; then
    exec unshare --pid --fork --kill-child=KILL --mount bash "$0" --inside "$@"
fi
D="$2"
shift 2
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p /tmp/ray "$D/ray" "$D/state" "$D/spool"
mount --bind "$D/ray" /tmp/ray
export SLURM_CONF="$D/slurm.conf"
unset RAY_ADDRESS RAY_TMPDIR

host="$(hostname -s)"
cat >"$SLURM_CONF" <<CONF
ClusterName=lab
SlurmctldHost=$host
AuthType=auth/munge
AuthInfo=socket=$D/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.%n.pid
SlurmctldLogFile=$D/slurmctld.log
SlurmdLogFile=$D/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=10
SlurmctldPort=16817
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=16821 CPUs=2 RealMemory=2000
PartitionName=main Nodes=n1 Default=YES State=UP MaxTime=60
CONF
head -c 1024 /dev/urandom >"$D/munge.key"
chmod 400 "$D/munge.key"
munged --key-file="$D/munge.key" --socket="$D/munge.socket" \
    --pid-file="$D/munge.pid" --log-file="$D/munge.log" --seed-file="$D/munge.seed" --force
slurmctld
slurmd -N n1
for _ in $(seq 50); do
    sinfo --noheader --format=%T 2>/dev/null | grep -q idle && break
    sleep 0.2
done
"$@"
