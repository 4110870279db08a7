#!/usr/bin/env bash
# A SLURM of one node, this machine, for tests: no systemd, no cgroups, no accounting, everything in one folder.
#   one_node_slurm.sh start FOLDER    then: export SLURM_CONF=FOLDER/slurm.conf
#   one_node_slurm.sh stop FOLDER
# Needs slurmctld, slurmd and munged (Debian: slurm-wlm, munge), and root.
set -euo pipefail

folder=$(mkdir -p "$2" && cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

write_configuration() {
    cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is requeued waits until its old credentials have expired: seconds here, two minutes by default.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
KillWait=30
MpiDefault=none
SlurmdParameters=config_overrides
GresTypes=gpu
# More than there is, so that real batch scripts can be tried.
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=64 RealMemory=512000 Gres=gpu:8 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=48:00:00 OverSubscribe=YES State=UP
CONF
    touch "$folder"/gpu{0..7}
    echo "NodeName=$(hostname -s) Name=gpu File=$folder/gpu[0-7] AutoDetect=off" > "$folder/gres.conf"
}

start() {
    mkdir -p "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    head --bytes 1024 /dev/urandom > "$folder/munge.key"
    chmod 400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" --num-threads=2
    write_configuration
    slurmctld -c
    slurmd
    for _ in $(seq 100); do
        [[ $(sinfo --noheader --format=%t 2> /dev/null) == idle ]] && return
        sleep 0.1
    done
    tail -n 20 "$folder"/*.log >&2
    stop
    echo "error: the node did not become idle in 10 s" >&2
    exit 1
}

stop() {
    for daemon in slurmd slurmctld munged; do
        [[ -f $folder/$daemon.pid ]] && kill "$(cat "$folder/$daemon.pid")" || true
    done
}

"$1"
