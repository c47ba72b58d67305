#!/bin/bash
# The second half of the virtual machine: systemd has taken over as its first process, and
# runs this. The product runs in the sandbox of its own unit, on the machine itself.
#
#   web ── the machine (netbpf.service) ── wire ── out
export PATH=/bin
. /check.sh

HOST4=192.0.2.1 OUT4=192.0.2.2
HOST6=2001:db8:1::1 OUT6=2001:db8:1::2

# finish: the end, with what a reader of a failure wants to see.
finish() {
    if [ "$failed" = yes ]; then
        echo "--- daemon"
        cat /tmp/unit.log
        systemctl --no-pager status netbpf.service netbpf.socket
        echo "--- kernel"
        dmesg | tail -n 40
    fi
    echo "VM-DONE"
    sync
    poweroff -f
}

echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
ip netns add web
ip -n web link set lo up
# The wire of the first half goes with its namespace, sooner or later.
ip -n out link del eth0 2>/dev/null
# By a shell: `timeout` of busybox would run its own `ip`.
check unit-wire bash -ec "
ip link add up0 type veth peer name eth0 netns out
ip addr add $HOST4/24 dev up0
ip addr add $HOST6/64 dev up0 nodad
ip link set up0 up
ip -n out addr add $OUT4/24 dev eth0
ip -n out addr add $OUT6/64 dev eth0 nodad
ip -n out link set eth0 up
ip route add default via $OUT4
ip route add default via $OUT6
"
mkdir -p /run/www/web
echo "page of web" >/run/www/web/index.html
in_space web httpd -h /run/www/web -p "[::]:80"

# By its socket: who asks first starts it.
check unit-socket systemctl start netbpf.socket
check unit-starts netbpf status --wait 90s
[ "$failed" = yes ] && finish
check unit-active systemctl is-active netbpf.service netbpf.socket
pid=$(systemctl show --value -p MainPID netbpf.service)
# Seccomp's mode 2 is a filter.
for line in "NoNewPrivs:.*1" "Seccomp:.*2"; do
    check "unit-$(echo "${line%%:*}" | tr A-Z a-z)" grep "^$line" "/proc/$pid/status"
done
check unit-attach netbpf attach --name web --netns web -p 8080:80
check unit-publish-v4 fetch out "http://$HOST4:8080/" "page of web"
check unit-publish-v6 fetch out "http://[$HOST6]:8080/" "page of web"
check unit-masquerade-v4 pings web $OUT4
check unit-masquerade-v6 pings web $OUT6
check unit-localhost bash -c 'wget -q -O - http://127.0.0.1:8080/ | grep "page of web"'
check unit-held bash -c '! httpd -h /run/www -p 8080'
check unit-reload systemctl reload netbpf.service
check unit-doctor netbpf doctor

# What is killed comes back by itself, and is not missed meanwhile.
check unit-kill systemctl kill --kill-whom=main -s KILL netbpf.service
check unit-killed-publish fetch out "http://$HOST4:8080/" "page of web"
check unit-restarted bash -c 'for i in $(seq 90); do
    new=$(systemctl show --value -p MainPID netbpf.service)
    [ "$new" != 0 ] && [ "$new" != "$0" ] && systemctl is-active netbpf.service && exit 0
    sleep 1
done; exit 1' "$pid"
check unit-restarted-publish fetch out "http://[$HOST6]:8080/" "page of web"
check unit-ps bash -c 'netbpf ps | grep web'
check unit-stop systemctl stop netbpf.service
check unit-stopped-publish fetch out "http://$HOST4:8080/" "page of web"
check unit-socket-again netbpf detach web
check unit-teardown netbpf teardown
check unit-nothing-left bash -c '! ls /sys/fs/bpf/netbpf/* 2>/dev/null && ! ip -o link | grep -v -e lo: -e up0 -e sit0 -e dummy'
finish
