"""Started by scripts/costs."""

import os
import subprocess
import sys
import time

NETJAIL, FOLDER, ROUNDS = os.environ["NETJAIL"], os.environ["FOLDER"], int(sys.argv[1])

# Inside: microseconds for each of many calls, on one line.
CALLS = """
import os, socket, sys, threading, time
def each(work, count):
    begun = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - begun) / count * 1e6
def served(family, address):
    server = socket.socket(family)
    if family == socket.AF_UNIX and os.path.exists(address):
        os.unlink(address)
    server.bind(address)
    server.listen(128)
    def accept():
        while True:
            server.accept()[0].close()
    threading.Thread(target=accept, daemon=True).start()
    address = server.getsockname()
    def connect():
        client = socket.socket(family)
        client.connect(address)
        client.close()
    return connect
try:
    unix = each(served(socket.AF_UNIX, 'costs-%d.sock' % os.getpid()), 500)
except OSError:
    unix = 0.0
tcp = each(served(socket.AF_INET, ('127.0.0.1', 0)), 500)
print(each(os.getppid, 100000), each(lambda: os.stat('/etc/passwd'), 20000), unix, tcp)
os._exit(0)
"""

RUN = [NETJAIL, "run", "-q", "--registry", f"{FOLDER}/_index.yaml", "--network", "app:p"]
VARIANTS = [
    ("no jail at all", []),
    ("default flags", RUN + ["--"]),
    ("connect not mediated: `--sockets host`", RUN + ["--sockets", "host", "--"]),
    ("no unix sockets: `--sockets none`", RUN + ["--sockets", "none", "--"]),
    ("/tmp not read through: `--tmp`", RUN + ["--tmp", "--"]),
    ("/tmp the host's: `--share-tmp`", RUN + ["--share-tmp", "--"]),
    ("home hidden: `--home tmp`", RUN + ["--home", "tmp", "--"]),
    ("a log: `--log FILE`", RUN + ["--log", f"{FOLDER}/log", "--"]),
]
if os.geteuid() != 0:
    VARIANTS.append(("/proc unmasked, mounts open: `--allow-nested-sandbox`", RUN + ["--allow-nested-sandbox", "--"]))


def whole(launcher):
    begun = time.perf_counter()
    subprocess.run(launcher + ["/bin/true"], check=True, cwd=FOLDER)
    return (time.perf_counter() - begun) * 1e3


def inside(launcher):
    done = subprocess.run(launcher + [sys.executable, "-c", CALLS], check=True, cwd=FOLDER, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


figures = {name: [] for name, _ in VARIANTS}
for turn in range(ROUNDS):
    for name, launcher in VARIANTS:
        figures[name].append([whole(launcher), *inside(launcher)])

print(f"The least of {ROUNDS} rounds on Linux {os.uname().release}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, "
      f"{'root' if os.geteuid() == 0 else 'an ordinary user'}.\n")
print("| | `true`, ms | getppid, µs | stat, µs | connect to a unix path, µs | connect over loopback, µs |")
print("|---|---|---|---|---|---|")
for name, _ in VARIANTS:
    columns = [min(column) for column in zip(*figures[name])]
    cells = [f"{columns[0]:.1f}", f"{columns[1]:.2f}", f"{columns[2]:.2f}"]
    cells += [f"{value:.0f}" if value else "–" for value in columns[3:]]
    print(f"| {name} | {' | '.join(cells)} |")
