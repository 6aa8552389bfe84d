// Which instruction sets this CPU and its operating system support.
#include <cstdio>
#include <cstring>
#include <string>

#include "graph.h"
#include "kernels/kernels.h"

namespace precut {

bool cpu_runs(const Kernels& k) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();  // also checks that the system saves the wide registers
  if (!std::strcmp(k.isa, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  if (!std::strcmp(k.isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  (void)k;
  return true;
}

const Kernels* choose_kernels(const char* isa) {
  const Kernels* all[] = {avx512_kernels(), avx2_kernels(), neon_kernels(), portable_kernels()};
  std::string names;
  for (const Kernels* k : all) {
    if (!k) continue;
    if (!isa || !*isa) {
      if (cpu_runs(*k)) return k;
      continue;
    }
    if (!std::strcmp(k->isa, isa)) {
      if (cpu_runs(*k)) return k;
      throw Error(PRECUT_ERR_ISA, std::string("this CPU does not run ") + isa + " code");
    }
    names += std::string(names.empty() ? "" : ", ") + k->isa;
  }
  throw Error(PRECUT_ERR_ISA, std::string("unknown instruction set \"") + (isa ? isa : "") + "\"; this build has " + names +
                                  ", reference");
}

const char* cpu_name() {
  static const std::string name = [] {
    std::string found = "unknown CPU";
#if defined(__linux__)
    if (std::FILE* f = std::fopen("/proc/cpuinfo", "r")) {
      char line[512];
      std::string family, model, text;
      while (std::fgets(line, sizeof line, f)) {
        const char* colon = std::strchr(line, ':');
        if (!colon || colon[1] == 0) continue;
        std::string value(colon + 2);
        while (!value.empty() && (value.back() == '\n' || value.back() == ' ')) value.pop_back();
        if (!std::strncmp(line, "cpu family", 10)) family = value;
        else if (!std::strncmp(line, "model name", 10)) text = value;
        else if (!std::strncmp(line, "model", 5)) model = value;
        else if (!std::strncmp(line, "flags", 5)) break;
      }
      std::fclose(f);
      if (!text.empty()) found = text + " family " + family + " model " + model;
    }
#endif
    for (char& c : found)
      if (static_cast<unsigned char>(c) < 32 || c == '"' || c == '\\') c = ' ';
    return found;
  }();
  return name.c_str();
}

}  // namespace precut
