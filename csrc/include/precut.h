/* precut.h: load and run compiled precut models (".precut" files). C99, no dependencies but the C library.
 *
 * Every function that can fail returns a precut_status; when it is not PRECUT_OK a one-line message is written to
 * `err` (at most `errlen` bytes with the final zero; `err` may be NULL). Nothing throws across this boundary.
 * Different models may be used from different threads at once; calls on one model take turns.
 * After fork, the child may use and close the models on which no other thread was within a call: what a model did with
 * several threads it then does with the caller's alone. Models that the child loads have threads of their own.
 */
#ifndef PRECUT_H
#define PRECUT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define PRECUT_API __attribute__((visibility("default")))
#else
#define PRECUT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PRECUT_MAX_RANK 4

typedef enum precut_status {
  PRECUT_OK = 0,
  PRECUT_ERR_ARGUMENT = 1,     /* a null pointer, a count or an option that makes no sense */
  PRECUT_ERR_FORMAT = 2,       /* the file is damaged, truncated or not a precut model */
  PRECUT_ERR_VERSION = 3,      /* the file is of a format version that this library does not read */
  PRECUT_ERR_SHAPE = 4,        /* an input or output has a shape the network cannot take */
  PRECUT_ERR_NOT_PREPARED = 5, /* precut_run met shapes that precut_prepare has not seen */
  PRECUT_ERR_MEMORY = 6,       /* memory or threads could not be had, or the plan would need more than is allowed */
  PRECUT_ERR_ISA = 7,          /* the instruction set asked for is unknown or this CPU lacks it */
  PRECUT_ERR_IO = 8,           /* a file could not be opened or read, or is not what it was when it was opened */
  PRECUT_ERR_INTERNAL = 9      /* a defect of this library */
} precut_status;

typedef struct precut_model precut_model;

/* A dense float32 array in C order: (N, C, H, W) when rank is 4, (N, C) when rank is 2. */
typedef struct precut_tensor {
  float* data;
  int32_t rank;
  int64_t dims[PRECUT_MAX_RANK];
} precut_tensor;

enum {
  PRECUT_BORROW = 1 /* precut_load: the caller keeps `bytes` alive and unchanged until precut_close (no copy) */
};

typedef struct precut_options {
  uint32_t struct_size; /* sizeof(precut_options) */
  int32_t threads;      /* threads that one run uses, the caller's included; 0: one per available core */
  int32_t autotune;     /* 1: time the candidates of each layer when preparing; 0: choose by the cost model */
  uint32_t flags;       /* PRECUT_BORROW */
  const char* isa;      /* NULL: the best that the CPU has (or what PRECUT_ISA says); else "avx512", "avx2", "neon",
                           "portable", or "reference" (plain loops, for checking) */
  const char* cache;    /* file that keeps autotuning results; NULL: PRECUT_CACHE or ~/.cache/precut/tune.txt;
                           "" keeps none */
} precut_options;

/* Fills the options with the defaults: all cores, autotuning on, best instruction set. */
PRECUT_API void precut_default_options(precut_options* options);

/* Opens a model held in memory, or in a file (which is mapped, not copied). `options` may be NULL. The model can be
 * run after precut_prepare.
 *
 * A file is read again when new shapes are prepared (with "reference", at every run), so it must not be written to while
 * the model is open; to bring a new one, write it under another name and rename it. A size or time of change that is not
 * what it was gives PRECUT_ERR_IO, and what was prepared before still runs. Two cases cannot be noticed: a file that is
 * shortened while it is being read ends the process with SIGBUS, as with any mapped file; and contents that are
 * rewritten at equal size within the clock tick of the last change, or with that time put back, are read unchecked. */
PRECUT_API precut_status precut_load(const void* bytes, size_t size, const precut_options* options,
                                     precut_model** model, char* err, size_t errlen);
PRECUT_API precut_status precut_load_file(const char* path, const precut_options* options, precut_model** model,
                                          char* err, size_t errlen);

PRECUT_API int32_t precut_input_count(const precut_model* model);
PRECUT_API int32_t precut_output_count(const precut_model* model);

/* The shape that input `index` had when the model was compiled (data is NULL). */
PRECUT_API precut_status precut_input_shape(const precut_model* model, int32_t index, precut_tensor* shape);

/* Plans a run for these input shapes (`data` is not read): layouts, memory, packed weights, choice of kernels. Batch,
 * height and width may differ from those that the model was compiled for, as long as every value within the network
 * keeps its number of channels: a flatten usually fixes height and width. The shapes of the outputs are written to
 * `outputs` (n_outputs entries, data untouched; may be NULL). Several plans are kept; a shape that has a plan costs
 * nothing. */
PRECUT_API precut_status precut_prepare(precut_model* model, const precut_tensor* inputs, int32_t n_inputs,
                                        precut_tensor* outputs, int32_t n_outputs, char* err, size_t errlen);

/* One forward. Input shapes must have been prepared and output arrays must have the shapes that prepare told.
 * Allocates nothing. */
PRECUT_API precut_status precut_run(precut_model* model, const precut_tensor* inputs, int32_t n_inputs,
                                    const precut_tensor* outputs, int32_t n_outputs, char* err, size_t errlen);

/* Describes the model and the plan for these input shapes as JSON. With `rounds` > 0 every operation is first timed over
 * that many forwards on zeros. Free the text with precut_free. */
PRECUT_API precut_status precut_describe(precut_model* model, const precut_tensor* inputs, int32_t n_inputs,
                                         int32_t rounds, char** json, char* err, size_t errlen);

PRECUT_API void precut_free(char* text);
PRECUT_API void precut_close(precut_model* model);

PRECUT_API const char* precut_version(void);

/* Every kernel of this build, one a line: name, instruction set, what it computes, whether this CPU runs it. */
PRECUT_API const char* precut_ops_table(void);

#ifdef __cplusplus
}
#endif
#endif
