"""tools/launch.py with MXNet's parameter server, and with small programs that die, hang and have children."""
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from common.base.machine import usable_cores
from tests.conftest import ROOT

LAUNCH = [sys.executable, str(ROOT / "tools" / "launch.py")]
SUMS = """
from common.find_mxnet import mx
store = mx.kvstore.create("dist_sync")
rank, workers = store.rank, store.num_workers
store.init("small", mx.nd.zeros((3,)))
store.init("large", mx.nd.zeros((1100, 1000)))  # above the bound from which an array is dealt out to all servers
for step in range({steps}):
    for name, shape in (("small", (3,)), ("large", (1100, 1000))):
        array = mx.nd.full(shape, (rank + 1) * (step % 1000 + 1))
        store.push(name, array)
        store.pull(name, out=array)
        assert (array == (step % 1000 + 1) * workers * (workers + 1) / 2).asnumpy().all()
open(f"{{store.num_workers}}-{{rank}}", "w").close()
"""
PROGRAM = """
import os, signal, subprocess, sys, time
role = os.environ["DMLC_ROLE"]
name = role + os.environ[f"DMLC_{role.upper()}_ID"]
with open(name + ".id", "w") as file:
    file.write(str(os.getpid()))
def log(word):
    with open(name, "a") as file:
        file.write(word + "\\n")
def sleep(seconds=60):
    log("sleeps")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
def ignore():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
def leave_at(number):
    def leave(*_):
        log(signal.Signals(number).name)
        time.sleep(0.3)  # for a second one to arrive
        with open("server0.id") as file:
            os.kill(int(file.read()), 0)  # an error where the server has gone
        sys.exit(128 + number)
    signal.signal(number, leave)
def daemon():  # in a session of its own, its parent gone
    subprocess.run(["sh", "-c", "setsid sleep 61 & setsid sh -c 'sleep 62; true' &"])
"""
SSH = """
import contextlib, os, subprocess, sys, threading
options, (host, line) = sys.argv[1:-2], sys.argv[-2:]
port = options[options.index("-p") + 1] if "-p" in options else "22"
if host == "unreachable":
    sys.exit("ssh: connect to host unreachable port 22: Connection refused")
process = subprocess.Popen(["sh", "-c", line], stdin=subprocess.PIPE, start_new_session=True, bufsize=0)
def copy():
    with contextlib.suppress(BrokenPipeError):  # of a program that has ended
        while data := sys.stdin.buffer.raw.read(100):
            process.stdin.write(data)
        process.stdin.close()
threading.Thread(target=copy, daemon=True).start()
status = process.wait()
os._exit(status if status >= 0 else 255)
"""


@pytest.fixture
def run(tmp_path):
    """Starts launch.py OPTIONS with a Python program as its command, in tmp_path. What stays behind fails the test."""
    mark = f"LAUNCH_TEST={uuid.uuid4().hex}"
    name, value = mark.split("=")

    def start(program, options, *more, **popen):
        (tmp_path / "program.py").write_text(program)
        return Launched(tmp_path, mark, subprocess.Popen(
            [*LAUNCH, *options.split(), *more, sys.executable, "program.py"], cwd=tmp_path, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", name: value}, **popen))

    yield start
    left = marked(mark)
    for process_id in left:
        os.kill(process_id, signal.SIGKILL)
    assert not left


class Launched:
    def __init__(self, folder, mark, process):
        self.folder, self.mark, self.process = folder, mark, process

    def log(self, name):
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def wait_for(self, *names):
        """Until each of these roles sleeps."""
        until(lambda: all("sleeps" in self.log(name) for name in names))

    def kill(self, name):
        """The program that plays this role."""
        os.kill(int((self.folder / f"{name}.id").read_text()), signal.SIGKILL)

    def finish(self):
        """(exit status, standard error), with nothing left behind."""
        _, message = self.process.communicate(timeout=60)
        assert not marked(self.mark)
        return self.process.returncode, message


def marked(mark):
    """The ids of the processes that have this variable in their environment (a zombie has none)."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if mark in variables(folder.name)]


def variables(number):
    return set(read(f"/proc/{number}/environ").decode(errors="replace").split("\0"))


def read(path):
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended, or is not ours
        return b""


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def ssh(tmp_path):
    """Options for two hosts. A stand-in for ssh runs the command line with `sh -c`, as sshd does, in a session of its
    own, its input a pipe that ends when the stand-in does."""
    (tmp_path / "ssh.py").write_text(SSH)
    (tmp_path / "hosts").write_text("# two\n127.0.0.1  # one\n\n127.0.0.2\n")
    return "--hostfile", "hosts", "--ssh", f"{sys.executable} ssh.py"


@pytest.mark.long
def test_the_sums_of_three_workers_and_two_servers(run, tmp_path):
    assert run(SUMS.format(steps=3), "-n 3 -s 2").finish() == (0, "")
    assert {"3-0", "3-1", "3-2"} <= set(os.listdir(tmp_path))


def test_the_sums_of_two_workers_over_ssh(run, ssh, tmp_path):
    assert run(SUMS.format(steps=3), "-n 2 -s 2", *ssh).finish() == (0, "")
    assert {"2-0", "2-1"} <= set(os.listdir(tmp_path))


@pytest.mark.parametrize("others", ["end", pytest.param("ignore", marks=pytest.mark.long)])
def test_a_worker_that_fails_ends_all_others_and_their_children(run, others):
    launched = run(PROGRAM + ("ignore()" if others == "ignore" else "") + """
daemon()
if name == "worker1":
    time.sleep(0.5)
    sys.exit(7)
sleep()""", "-n 2 -s 1")
    status, message = launched.finish()
    assert status == 7 and "worker 1 ended with exit status 7" in message


@pytest.mark.parametrize("victim", ["worker1", "server0"])
def test_a_process_that_is_killed_ends_all_others(run, victim):
    launched = run(PROGRAM + "daemon(); sleep()", "-n 2 -s 1")
    launched.wait_for("worker0", "worker1", "server0", "scheduler0")
    launched.kill(victim)
    name = f"{victim[:-1]} {victim[-1]}"
    status, message = launched.finish()
    assert status == 137 and f"{name} was killed by SIGKILL" in message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["here", "over ssh"])
def test_a_signal_reaches_the_workers_once(run, ssh, number, where):
    launched = run(PROGRAM + """
leave_at(signal.SIGTERM)
leave_at(signal.SIGINT)
sleep()""", "-n 2 -s 1", *(ssh if where == "over ssh" else ()))
    launched.wait_for("worker0", "worker1", "server0", "scheduler0")
    launched.process.send_signal(number)
    status, message = launched.finish()
    assert status == 128 + number and number.name in message
    for name in ("worker0", "worker1"):
        assert launched.log(name) == ["sleeps", number.name]
    for name in ("server0", "scheduler0"):
        assert launched.log(name) == ["sleeps"]


def test_the_workers_decide_the_status_after_a_signal(run):
    launched = run(PROGRAM + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); sleep()", "-n 2 -s 1")
    launched.wait_for("worker0", "worker1", "server0")
    launched.process.send_signal(signal.SIGTERM)
    assert launched.finish()[0] == 0


def test_a_program_that_a_shell_runs_has_its_time_too(run, tmp_path):
    (tmp_path / "inner.py").write_text(PROGRAM + "leave_at(signal.SIGTERM); sleep()")
    launched = run("import os; os.execvp('sh', ['sh', '-c', 'python3 inner.py; true'])", "-n 1")
    launched.wait_for("worker0")
    launched.process.send_signal(signal.SIGTERM)
    assert launched.finish()[0] == 143 and launched.log("worker0") == ["sleeps", "SIGTERM"]


def test_after_the_grace_period_all_are_killed(run):
    launched = run(PROGRAM + "ignore(); sleep()", "-n 2 -s 1 --grace 0.5")
    launched.wait_for("worker0", "worker1")
    launched.process.send_signal(signal.SIGTERM)
    status, message = launched.finish()
    assert status == 143 and re.search("killed.* worker 0, worker 1$", message)


def test_servers_that_stay_are_killed_with_a_warning(run):
    launched = run(PROGRAM + "name.startswith('worker') or sleep()", "-n 2 -s 1 --grace 0.5")
    status, message = launched.finish()
    assert status == 0 and re.search("killed.* scheduler, server 0$", message, re.M)


def test_ctrl_c_in_a_terminal(run):
    """The terminal signals the whole foreground process group; each worker gets one signal. The next kills."""
    terminal, program_end = pty.openpty()
    launched = run(PROGRAM + "leave_at(signal.SIGINT); name == 'worker1' and ignore(); sleep()", "-n 2 -s 1",
                   stdin=program_end, start_new_session=True,
                   preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)))  # makes it the controlling terminal
    launched.wait_for("worker0", "worker1")
    os.write(terminal, b"\x03")
    until(lambda: launched.log("worker0") == ["sleeps", "SIGINT"])
    time.sleep(0.6)  # a Ctrl-C within half a second counts as the same
    os.write(terminal, b"\x03")
    start = time.monotonic()
    assert launched.finish()[0] == 130
    assert time.monotonic() - start < 10 and launched.log("worker0") == ["sleeps", "SIGINT"]
    os.close(terminal)
    os.close(program_end)


@pytest.mark.parametrize("where", ["here", "over ssh"])
def test_nothing_outlives_a_launcher_that_is_killed(run, ssh, where):
    launched = run(PROGRAM + "ignore(); daemon(); sleep()", "-n 2 -s 1", *(ssh if where == "over ssh" else ()))
    launched.wait_for("worker0", "worker1", "server0", "scheduler0")
    launched.process.kill()
    until(lambda: not marked(launched.mark))


def test_a_connection_that_breaks_ends_what_ran_there(run, ssh):
    launched = run(PROGRAM + "daemon(); sleep()", "-n 2 -s 1", *ssh)
    launched.wait_for("worker0", "worker1", "server0")
    connection = next(number for number in marked(launched.mark)
                      if b"ssh.py" in (line := read(f"/proc/{number}/cmdline")) and b"DMLC_WORKER_ID=1" in line)
    os.kill(connection, signal.SIGKILL)
    status, message = launched.finish()
    assert status == 137 and "worker 1 was killed by SIGKILL on 127.0.0.2" in message


def test_a_host_that_hears_nothing_ends_its_part():
    """A connection may break without a word: a byte within SECONDS, or the end."""
    with subprocess.Popen([sys.executable, str(ROOT / "common" / "launching" / "watched.py"), "1", "sleep", "60"],
                          stdin=subprocess.PIPE, bufsize=0) as process:
        for _ in range(4):
            process.stdin.write(b"\0")
            time.sleep(0.35)
        assert process.poll() is None
        assert process.wait(10) == 137


def test_hosts_get_the_folder_and_the_environment_and_are_dealt_out_in_turn(run, ssh, tmp_path):
    folder = tmp_path / "it's a $HOME `folder`"
    folder.mkdir()
    for name in ("hosts", "ssh.py"):
        (tmp_path / name).rename(folder / name)
    (folder / "hosts").write_text("127.0.0.1\n127.0.0.2:2222\n")
    (folder / "ssh.py").write_text((folder / "ssh.py").read_text().replace(
        "process =", "os.environ.clear(); os.environ['SSH_HOST'] = f'{host} {port}'; process ="))
    program = """
import json, os, sys
role = os.environ["DMLC_ROLE"]
with open(role + os.environ[f"DMLC_{role.upper()}_ID"], "w") as file:
    json.dump([os.getcwd(), os.environ.get("SSH_HOST"), os.environ["MXNET_X"], os.environ["MINE"], sys.argv[1:]], file)
assert os.environ["DMLC_NODE_HOST"] == "127.0.0.1" and "PORT" not in os.environ
"""
    arguments = ["two words", "it's; $HOME \"*\"", ""]
    environment = {**os.environ, "MXNET_X": "a 'b' $c\nd", "MINE": "mine", "PORT": "80"}
    subprocess.run([*LAUNCH, "-n", "3", "-s", "1", *ssh, "--env", "MINE", sys.executable, "-c", program, *arguments],
                   cwd=folder, env=environment, check=True)
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("*[0-9]")}
    hosts = {"scheduler0": None, "server0": "127.0.0.1 22",
             "worker0": "127.0.0.1 22", "worker1": "127.0.0.2 2222", "worker2": "127.0.0.1 22"}
    assert found == {name: [str(folder), host, "a 'b' $c\nd", "mine", arguments] for name, host in hosts.items()}


@pytest.mark.parametrize("where", ["local", "ssh"])
def test_what_mxnets_launcher_takes(ssh, tmp_path, where):
    """Its --launcher, variables for one role alone, several of --env in one, and a command in quotes, which is split as
    a shell would, and which no shell runs."""
    program = """
import json, os, sys
role = os.environ["DMLC_ROLE"]
with open(role, "w") as file:
    json.dump([{name: os.environ.get(name) for name in ("A", "B", "C", "MINE")}, sys.argv[1:]], file)
"""
    (tmp_path / "program.py").write_text(program)
    subprocess.run([*LAUNCH, "-n", "1", "--launcher", where, *(ssh if where == "ssh" else ()), "--env-server", "A:s",
                    "--env-worker", "A:w,B:x:y", "--env-worker", "C:", "--env", "HOME,MINE",
                    f"{sys.executable} program.py 'two words' $HOME \\\\ ; true"],
                   cwd=tmp_path, env={**os.environ, "MINE": "m"}, check=True)
    roles = {"scheduler": {}, "server": {"A": "s"}, "worker": {"A": "w", "B": "x:y", "C": ""}}
    for role, variables in roles.items():
        assert json.loads((tmp_path / role).read_text()) == [
            {**dict.fromkeys("ABC"), "MINE": "m", **variables}, ["two words", "$HOME", "\\", ";", "true"]]


@pytest.mark.parametrize("workers, options, threads", [
    (1, (), usable_cores()), (2 * usable_cores(), (), 1), (1, ("--env-worker", "OMP_NUM_THREADS:7"), 7)])
def test_workers_of_one_machine_share_its_cores(tmp_path, workers, options, threads):
    program = "test $DMLC_ROLE = worker && echo $OMP_NUM_THREADS; true"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    process = subprocess.run([*LAUNCH, "-n", str(workers), "-s", "1", *options, "sh", "-c", program], cwd=tmp_path,
                             env=environment, capture_output=True, text=True)
    assert process.stdout.split() == [str(threads)] * workers, process.stderr


def test_a_program_with_a_space_in_its_name(tmp_path):
    (tmp_path / "my program").write_text("#!/bin/sh\necho $DMLC_ROLE\n")
    (tmp_path / "my program").chmod(0o755)
    process = subprocess.run([*LAUNCH, "-n", "1", "./my program"], cwd=tmp_path, capture_output=True, text=True)
    assert sorted(process.stdout.split()) == ["scheduler", "server", "worker"], process.stderr


@pytest.mark.parametrize("options, words", [
    ("-n 1", "no command"),
    ("-n 1 --", "no command"),
    ("-n 1 'unclosed", "'unclosed: cannot be split into words (No closing quotation)"),
    ("-n 1 --launcher mpi true", "invalid choice: 'mpi' (choose from 'local', 'ssh')"),
    ("-n 1 --launcher ssh true", "--launcher ssh: give the hosts with -H"),
    ("-n 1 --launcher local -H hosts true", "leave out -H hosts"),
    ("-n 1 -H hosts --sync-dst-dir /copy true", "--sync-dst-dir /copy: not done here; copy this folder"),
    ("-n 1 --env-worker A true", "'A': give NAME:VALUE"),
    ("-n 1 --env-server A:1,2 true", "'A:1,2': give NAME:VALUE"),
    ("-n 0 true", "1 or more"),
    ("-n 1 -s 0 true", "1 or more"),
    ("true", "-n"),
    ("-n 1 nosuchcommand", "nosuchcommand"),
    ("-n 1 ./hosts", "./hosts"),
    ("-n 1 -H nowhere true", "nowhere: No such file"),
    ("-n 1 -H empty true", "no host"),
    ("-n 1 -H /dev/zero true", "/dev/zero: is a pipe or a device"),
    ("-n 1 -H slots true", "slots=2"),
    ("-n 1 -H option true", "-oProxyCommand=x"),
    ("-n 1 -H door true", "node1:ssh"),
    ("-n 1 -H hosts --ssh nosuchssh true", "nosuchssh"),
    ("-n 1 -H unreachable --address 127.0.0.1 --ssh ./ssh true", "unreachable port 22: Connection refused"),
    ("-n 1 -H nowhere.invalid --ssh ./ssh true", "--address"),
    ("-n 1 -H hosts --ssh ./ssh --env NOT_SET true", "NOT_SET"),
    ("-n 1 --address 192.0.2.77 true", "192.0.2.77"),
    ("-n 1 --address here true", "here"),
    ("-n 1 --port 65536 true", "65535"),
])
def test_bad_input_is_one_line(options, words, ssh, tmp_path):
    for name, text in {"empty": "# none\n\n", "slots": "node1 slots=2\n", "option": "-oProxyCommand=x\n",
                       "door": "node1:ssh\n",
                       "unreachable": "127.0.0.1\nunreachable\n", "nowhere.invalid": "nowhere.invalid\n",
                       "ssh": f'#!/bin/sh\nexec "{sys.executable}" ssh.py "$@"\n'}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "ssh").chmod(0o755)
    process = subprocess.run([*LAUNCH, *options.split()], cwd=tmp_path, capture_output=True, text=True, check=False)
    line, = process.stderr.splitlines()
    assert process.returncode in (1, 2) and line.startswith("launch.py: error: ") and words in line, line


@pytest.mark.long
def test_whatever_is_killed_and_whenever_nothing_stays(run):
    """SIGKILL for a program, its watched.py or the launcher, at any time of a run of MXNet's parameter server."""
    rng = random.Random(0)
    for i in range(40):
        launched = run(SUMS.format(steps=10 ** 6), "-n 2 -s 1")
        time.sleep(rng.uniform(0, 6))
        victim = rng.choice([number for number in marked(launched.mark) if number != launched.process.pid]
                            if i % 4 else [launched.process.pid])
        os.kill(victim, signal.SIGKILL)
        start = time.monotonic()
        launched.process.communicate(timeout=60)
        assert launched.process.returncode in ((137,) if i % 4 else (-9,))
        until(lambda launched=launched: not marked(launched.mark))
        assert time.monotonic() - start < 30
