// How many threads are worth while here.
#pragma once

#include <sched.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <fstream>
#include <set>
#include <string>

namespace cores {

// Processors whose time one control group, of version 2 or 1, grants; rounded up.
inline int Quota(const std::string& folder) {
  double quota, period;
  std::ifstream both(folder + "/cpu.max"), one(folder + "/cpu.cfs_quota_us"), other(folder + "/cpu.cfs_period_us");
  const bool found = both >> quota >> period || (one >> quota && other >> period);  // "max" is no number
  return found && quota > 0 ? int(std::ceil(quota / period)) : INT_MAX;
}

// Of those that this process is in, and those around them, the smallest.
inline int Granted(const std::string& root) {
  int granted = INT_MAX;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t name = line.find(':') + 1, path = line.find(':', name) + 1;  // number:controllers:path
    const std::string controllers = line.substr(name, path - 1 - name);
    std::set<std::string> mounts{controllers, controllers.empty() ? "unified" : "cpu"};
    if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == line.npos) continue;
    for (const std::string& mount : mounts) {
      for (size_t end = line.size(); end + 1 > path; end = line.rfind('/', end - 1)) {
        granted = std::min(granted, Quota(root + "/sys/fs/cgroup/" + mount + line.substr(path, end - path)));
      }
    }
  }
  return granted;
}

// Cores that this process may use, 0 if that is not known; two threads of one core count once.
inline int Usable(const std::string& root = "") {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return 0;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string name = "cpu" + std::to_string(cpu);
    std::ifstream file(root + "/sys/devices/system/cpu/" + name + "/topology/thread_siblings_list");
    std::string siblings;
    cores.insert(std::getline(file, siblings) ? siblings : name);
  }
  return std::min(int(cores.size()), Granted(root));
}

}  // namespace cores
