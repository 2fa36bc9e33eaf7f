"""What /proc and /sys say of the control groups of a process, and the processors that these grant it (None: all)."""

V2, V1 = "sys/fs/cgroup/", "sys/fs/cgroup/cpu,cpuacct/"
CONTROL_GROUPS = [
    ({}, None),
    ({"proc/self/cgroup": "0::/\n"}, None),
    ({"proc/self/cgroup": "0::/\n", V2 + "cpu.max": "max 100000\n"}, None),
    ({"proc/self/cgroup": "0::/\n", V2 + "cpu.max": "50000 100000\n"}, 1),
    ({"proc/self/cgroup": "0::/\n", V2 + "cpu.max": "100000 100000\n"}, 1),
    ({"proc/self/cgroup": "0::/a/b\n", V2 + "a/b/cpu.max": "250000 100000\n"}, 3),
    ({"proc/self/cgroup": "0::/a/b\n", V2 + "a/b/cpu.max": "max 100000\n", V2 + "a/cpu.max": "150000 100000\n"}, 2),
    ({"proc/self/cgroup": "0::/a\n", V2 + "b/cpu.max": "100000 100000\n"}, None),
    ({"proc/self/cgroup": "0::/elsewhere\n", V2 + "cpu.max": "200000 100000\n"}, 2),  # as a container may see it
    ({"proc/self/cgroup": "4:cpu,cpuacct:/d\n3:cpuset:/\n", V1 + "d/cpu.cfs_quota_us": "10000\n",
      V1 + "d/cpu.cfs_period_us": "100000\n"}, 1),
    ({"proc/self/cgroup": "4:cpu,cpuacct:/docker/d\n", V1 + "cpu.cfs_quota_us": "400000\n",
      V1 + "cpu.cfs_period_us": "100000\n"}, 4),
    ({"proc/self/cgroup": "1:name=systemd:/\n2:cpu:/\n0::/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
    ({"proc/self/cgroup": "2:cpuset:/\n0::/e\n", "sys/fs/cgroup/unified/e/cpu.max": "300000 100000\n"}, 3),
    ({"proc/self/cgroup": "not what it should be\n"}, None),
]


def put(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
