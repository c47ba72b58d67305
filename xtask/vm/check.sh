# What both halves of the virtual machine check with.
# check NAME COMMAND…: runs it with a time limit; its output is shown on failure.
check() {
    check_name=$1
    shift
    if timeout 100 "$@" >/tmp/check.log 2>&1; then
        echo "VM-RESULT $check_name ok"
    else
        check_code=$?
        echo "--- $check_name: $*"
        cat /tmp/check.log
        echo "VM-RESULT $check_name failed exit $check_code: $(tail -n 1 /tmp/check.log)"
        failed=yes
    fi
}

# in NAMESPACE COMMAND…; `ip netns exec` would hide the bpffs under a new /sys.
in_space() {
    space=$1
    shift
    nsenter --net="/run/netns/$space" -- "$@"
}

# field NAME JSON: the text of a field.
field() {
    printf '%s' "$2" | tr -d '\n' | sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"
}

# Commands, since `timeout` runs no functions.
cat >/bin/fetch <<'END'
#!/bin/bash
# fetch NAMESPACE URL WORD: the page holds the word.
nsenter --net="/run/netns/$1" -- timeout 8 wget -q -O - "$2" | grep "$3"
END
cat >/bin/pings <<'END'
#!/bin/bash
# pings NAMESPACE ADDRESS: the very first packet is answered.
exec nsenter --net="/run/netns/$1" -- ping -n -c 1 -W 2 "$2"
END
cat >/bin/on <<'END'
#!/bin/bash
# on NODE COMMAND…: asks that node's daemon.
export NETBPF_SOCKET="/run/$1/netbpf.sock"
exec netbpf "${@:2}"
END
cat >/bin/soon <<'END'
#!/bin/bash
# soon COMMAND…: until it succeeds, for at most ten seconds.
for i in $(seq 50); do
    "$@" && exit
    sleep 0.2
done
exit 1
END
chmod +x /bin/fetch /bin/on /bin/pings /bin/soon
