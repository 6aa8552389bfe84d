// Exceptions turned into codes and messages: nothing throws across the C functions.
#pragma once

#include <algorithm>
#include <cstring>
#include <new>

#include "graph.h"

namespace precut {

inline precut_status report(precut_status code, const char* message, char* err, size_t errlen) {
  if (err && errlen) {
    size_t n = std::min(std::strlen(message), errlen - 1);
    std::memcpy(err, message, n);
    err[n] = 0;
  }
  return code;
}

template <class F>
precut_status guarded(char* err, size_t errlen, F&& f) {
  try {
    f();
    return PRECUT_OK;
  } catch (const Error& e) {
    return report(e.code, e.what(), err, errlen);
  } catch (const std::bad_alloc&) {
    return report(PRECUT_ERR_MEMORY, "out of memory", err, errlen);
  } catch (const std::exception& e) {
    return report(PRECUT_ERR_INTERNAL, e.what(), err, errlen);
  } catch (...) {
    return report(PRECUT_ERR_INTERNAL, "an unknown defect", err, errlen);
  }
}

}  // namespace precut
