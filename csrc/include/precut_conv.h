/* precut_conv.h: one sparse convolution of libprecut, forward and backward, at the cost of the weights that exist; for
 * training. C99. Errors as in precut.h. Calls on one convolution take turns; different ones may be used from different
 * threads at once, but calls that share out their work to several threads take turns too.
 */
#ifndef PRECUT_CONV_H
#define PRECUT_CONV_H

#include "precut.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct precut_conv precut_conv;

typedef struct precut_conv_shape {
  uint32_t struct_size; /* sizeof(precut_conv_shape) */
  int32_t in_channels, out_channels, groups;
  int32_t kernel[2], stride[2], padding[2], dilation[2]; /* rows, columns */
  int32_t size[2];                                       /* of the input, rows and columns */
  int64_t weights;                                       /* that exist */
  const int64_t* positions; /* flat, rising, in the dense weight (out, in / groups, rows, columns); not kept */
} precut_conv_shape;

/* Four-dimensional float32: (images, channels, rows, columns) with strides in floats, one of channels and columns 1. */
typedef struct precut_array {
  float* data;
  int64_t strides[4];
} precut_array;

/* `isa` as in precut_options. */
PRECUT_API precut_status precut_conv_open(const precut_conv_shape* shape, const char* isa, precut_conv** conv, char* err,
                                          size_t errlen);

/* y = convolution of x, plus `bias` (out_channels, may be NULL). `weight` holds the weights that exist, in the order of
 * `positions`. `threads` includes the caller's. */
PRECUT_API precut_status precut_conv_forward(precut_conv* conv, int64_t images, const precut_array* x, const float* weight,
                                             const float* bias, const precut_array* y, int32_t threads, char* err,
                                             size_t errlen);

/* Gradients from that of the output: of the input if `dx` is not NULL, of the weights if `dweight` is not NULL (then x is
 * read). The same call with as many threads gives the same bits. */
PRECUT_API precut_status precut_conv_backward(precut_conv* conv, int64_t images, const precut_array* x,
                                              const float* weight, const precut_array* dy, const precut_array* dx,
                                              float* dweight, int32_t threads, char* err, size_t errlen);

PRECUT_API void precut_conv_close(precut_conv* conv);

/* Calls fn(data) in `threads` threads, the caller's among them, and returns when all have returned; `flags` is 0. This is
 * GOMP_parallel of the OpenMP runtimes. */
typedef void (*precut_fork)(void (*fn)(void*), void* data, unsigned threads, unsigned flags);

/* From now on calls get their threads from `fork`; from libprecut's own ones, which sleep between calls, if it is NULL.
 * A caller whose own work uses an OpenMP runtime should give it: its threads poll for a while after their work, on the
 * cores that others would need. For this process, not for those that it forks; not while a call runs. */
PRECUT_API void precut_conv_threads(precut_fork fork);

#ifdef __cplusplus
}
#endif
#endif
