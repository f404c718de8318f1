# shellcheck shell=bash
# Sourced by the scripts here.

# A port of loopback that nobody has. None of those that the system gives to outgoing connections, or one of these could have it before
# its server starts, and while that is restarted.
free_port() {
    python3 - <<'END'
import random, socket

try:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
except OSError:
    first, last = 32768, 65535
ports = [port for port in range(10000, 65536) if not first <= port <= last] or list(range(10000, 65536))
for port in random.sample(ports, len(ports)):
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
END
}
