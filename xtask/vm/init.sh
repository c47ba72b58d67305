#!/bin/bash
# Init of the virtual machine: makes a host, two containers and a world outside
# from namespaces, runs netbpf on the host and checks what passes.
#
#   a ─┐                192.0.2.0/24
#      ├─ host (daemon) ───── wire ───── out
#   b ─┘              2001:db8:1::/64
#
# Each check prints "VM-RESULT name ok" or "VM-RESULT name failed why"; the end
# is "VM-DONE". What else is on the console is for the reader of a failure.
#
# bash, since busybox' shell prefers its own `ip` and `ping` to those in /bin.
export PATH=/bin
export NETBPF_SOCKET=/run/netbpf/netbpf.sock

HOST4=192.0.2.1 OUT4=192.0.2.2
HOST6=2001:db8:1::1 OUT6=2001:db8:1::2

# --- the machine ---------------------------------------------------------------

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
mkdir -p /sys/fs/cgroup /var/lib /run/netbpf
mount -t cgroup2 cgroup /sys/fs/cgroup
for module in /modules/*.ko; do
    insmod "$module" || echo "insmod $module failed"
done
echo "Linux $(uname -r)"

# --- checks --------------------------------------------------------------------

. /check.sh

# Without a function between, `$!` is the process itself.
start_daemon() {
    nsenter --net=/run/netns/host -- netbpf daemon --state-dir /var/lib/netbpf --run-dir /run/netbpf \
        --bpffs /sys/fs/bpf/netbpf --cgroup /sys/fs/cgroup >>/tmp/daemon.log 2>&1 &
    daemon=$!
}

# finish: the end, with what a reader of a failure wants to see.
finish() {
    if [ "$failed" = yes ]; then
        echo "--- daemon"
        cat /tmp/daemon.log
        echo "--- kernel"
        dmesg | tail -n 20
    fi
    echo "VM-DONE"
    sync
    poweroff -f
}

# --- namespaces ----------------------------------------------------------------

for space in host out a b; do
    ip netns add "$space"
    ip -n "$space" link set lo up
done
# Without duplicate address detection nothing has to be waited for.
for space in host out a b; do
    in_space "$space" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad;
        echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad'
done
ip -n host link add up0 type veth peer name eth0 netns out
ip -n host addr add $HOST4/24 dev up0
ip -n host addr add $HOST6/64 dev up0 nodad
ip -n host link set up0 up
ip -n out addr add $OUT4/24 dev eth0
ip -n out addr add $OUT6/64 dev eth0 nodad
ip -n out link set eth0 up
ip -n host route add default via $OUT4
ip -n host route add default via $OUT6

for space in a out; do
    mkdir -p "/run/www/$space"
    echo "page of $space" >"/run/www/$space/index.html"
    in_space "$space" httpd -h "/run/www/$space" -p "[::]:80"
done

# --- the product ---------------------------------------------------------------

# Without the product: what fails here is the machine's fault.
check wire-v4 fetch host "http://$OUT4/" "page of out"
check wire-v6 fetch host "http://[$OUT6]/" "page of out"

start_daemon
# Too old: it says so and goes, with nothing left behind.
case $(uname -r) in
5.*)
    wait $daemon
    check exit-status test $? = 1
    check refused grep "this kernel lacks .*netbpf needs 6.1 or newer" /tmp/daemon.log
    # Pins, a gateway's address, routes that hold subnets.
    nothing_left() {
        ! ls /sys/fs/bpf/netbpf/* && ip -n host addr show dev lo && ip -n host route &&
            ! ip -n host addr show dev lo | grep -w inet | grep -v 127.0.0.1 &&
            ! ip -n host route | grep unreachable
    }
    export -f nothing_left
    check nothing-left bash -c nothing_left
    finish
    ;;
esac
check load netbpf status --wait 90s
# Without programs the rest says nothing more.
[ "$failed" = yes ] && finish
check attach-a netbpf attach --name a --netns a -p 8080:80
check attach-b netbpf attach --name b --netns b
endpoint=$(netbpf inspect b -j)
B4=$(field ipv4 "$endpoint") B6=$(field ipv6 "$endpoint")
B4=${B4%/*} B6=${B6%/*}

check sibling-v4 pings a "$B4"
check sibling-v6 pings a "$B6"
check masquerade-ping-v4 pings b $OUT4
check masquerade-ping-v6 pings b $OUT6
# Before 6.7 the FIB does not tell the source address of a route.
ip -n host addr add 198.51.100.1/32 dev up0
ip -n host route add 203.0.113.1 via $OUT4 src 198.51.100.1
ip -n out addr add 203.0.113.1/32 dev lo
ip -n out route add 198.51.100.1 via $HOST4
check source-of-route bash -c 'for i in 1 2 3 4 5 6 7 8 9 10; do
    pings b 203.0.113.1 && netbpf flows -j | grep -q "\"reply_dst\": *\"198.51.100.1:" && exit 0
    sleep 0.3
done; netbpf flows -j; exit 1'
check masquerade-tcp-v4 fetch b "http://$OUT4/" "page of out"
check masquerade-tcp-v6 fetch b "http://[$OUT6]/" "page of out"
check publish-v4 fetch out "http://$HOST4:8080/" "page of a"
check publish-v6 fetch out "http://[$HOST6]:8080/" "page of a"

# The host's own programs: translated when they connect, and kept from the port.
check host-sockets bash -c 'netbpf status -j | grep -q "\"host_sockets\": *\"cgroup\""'
check host-v4 fetch host "http://$HOST4:8080/" "page of a"
check host-v6 fetch host "http://[$HOST6]:8080/" "page of a"
check localhost-v4 fetch host "http://127.0.0.1:8080/" "page of a"
check localhost-v6 fetch host "http://[::1]:8080/" "page of a"
check held bash -c '! nsenter --net=/run/netns/host -- httpd -h /run/www -p 8080'
check unpublish netbpf unpublish a -p 8080:80
check unpublished bash -c '! fetch out "http://$0:8080/" "page of a"' $HOST4
check publish-again netbpf publish a -p 8080:80

# A stopped daemon leaves the datapath running, and a started one takes it over.
nsenter --net=/run/netns/a -- ping -n -i 0.2 -w 60 "$B4" >/tmp/sibling.log 2>&1 &
sibling=$!
nsenter --net=/run/netns/b -- ping -n -i 0.2 -w 60 $OUT4 >/tmp/outside.log 2>&1 &
outside=$!
kill -TERM $daemon
wait $daemon
echo "daemon ended with $?"
check stopped-sibling-v6 pings a "$B6"
check stopped-masquerade fetch b "http://$OUT4/" "page of out"
check stopped-publish fetch out "http://$HOST4:8080/" "page of a"
start_daemon
check start-again netbpf status --wait 90s
check started-sibling-v6 pings a "$B6"
check started-masquerade fetch b "http://[$OUT6]/" "page of out"
check started-publish fetch out "http://[$HOST6]:8080/" "page of a"
kill -INT $sibling $outside
wait $sibling $outside
for flow in sibling outside; do
    check "restart-lost-nothing-$flow" grep -q ' 0% packet loss' "/tmp/$flow.log"
done

check detach netbpf detach b
check teardown netbpf teardown
check nothing-left bash -c '! ls /sys/fs/bpf/netbpf/* 2>/dev/null && ! ip -n host -o link | grep -v -e lo: -e up0'

# --- between nodes ---------------------------------------------------------------

# The world outside becomes the second node, with a container of its own.
[ "$failed" = yes ] && finish
wait $daemon
if [ "$failed" != yes ] && [ -x /bin/etcd ]; then
    URL=http://$OUT4:2379
    nsenter --net=/run/netns/out -- etcd --data-dir /tmp/etcd --unsafe-no-fsync \
        --listen-client-urls $URL --advertise-client-urls $URL \
        --listen-peer-urls http://127.0.0.1:2380 >>/tmp/daemon.log 2>&1 &
    etcd=$!
    start_node() { # NAME SPACE ADDRESS
        mkdir -p "/run/$1" "/sys/fs/cgroup/$1"
        nsenter --net="/run/netns/$2" -- netbpf daemon --node "$1" --node-ip "$3" --etcd $URL \
            --state-dir "/var/lib/$1" --run-dir "/run/$1" --socket "/run/$1/netbpf.sock" \
            --bpffs "/sys/fs/bpf/$1" --cgroup "/sys/fs/cgroup/$1" >>/tmp/daemon.log 2>&1 &
        node=$!
    }
    ip netns add far
    ip -n far link set lo up
    in_space far sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
    # One after the other: emulated, the kernel's check of the programs takes a minute.
    start_node n1 host $HOST4
    first=$node
    check nodes-start-1 on n1 status --wait 90s
    start_node n2 out $OUT4
    second=$node
    check nodes-start-2 on n2 status --wait 90s
    check overlay-create soon on n1 network create wide --driver overlay \
        --subnet 10.30.0.0/16 --subnet fd30::/64
    check overlay-known soon on n2 network inspect wide
    check overlay-attach-1 on n1 attach --name a --netns a --network wide
    check overlay-attach-2 on n2 attach --name far --netns far --network wide
    endpoint=$(on n1 inspect a -j)
    A4=$(field ipv4 "$endpoint") A6=$(field ipv6 "$endpoint")
    A4=${A4%/*} A6=${A6%/*}
    # The first node may hear of the second one's addresses a moment later.
    check overlay-ping-v4 soon pings far "$A4"
    check overlay-ping-v6 soon pings far "$A6"
    check overlay-tcp-v4 fetch far "http://$A4/" "page of a"
    check overlay-tcp-v6 fetch far "http://[$A6]/" "page of a"
    check overlay-device bash -c 'ip -n host -d link show nb-vxlan'
    kill -KILL $first
    wait $first
    check overlay-killed-v4 pings far "$A4"
    start_node n1 host $HOST4
    first=$node
    check overlay-again on n1 status --wait 90s
    check overlay-again-v6 fetch far "http://[$A6]/" "page of a"
    check overlay-teardown-1 on n1 teardown
    check overlay-teardown-2 on n2 teardown
    [ "$failed" = yes ] && finish
    wait $first $second
    check overlay-nothing-left bash -c '! ls /sys/fs/bpf/n1/* /sys/fs/bpf/n2/* 2>/dev/null &&
        ! ip -n host -o link | grep -v -e lo: -e up0'
    kill $etcd
    wait $etcd
    ip netns del far
elif [ ! -x /bin/etcd ]; then
    echo "VM-RESULT overlay skipped etcd is not unpacked"
fi

# --- systemd -------------------------------------------------------------------

if [ "$failed" = yes ] || [ ! -x /lib/systemd/systemd ]; then
    [ -x /lib/systemd/systemd ] || echo "VM-RESULT unit-starts skipped there is no systemd here"
    finish
fi
ip netns del host
for space in a b; do
    ip netns del "$space"
done
# What it logs goes to the console, as there is no journal.
exec /lib/systemd/systemd --unit=checks.target --log-target=console --log-level=warning
